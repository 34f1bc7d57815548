"""Put a trained model into streamtok/weights: float16 weights, their config, and the golden tokens that they give.

streamtok ship out/nano/model --name nano
"""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from streamtok.commands.command import make_main
from streamtok.settings.fields import Flag, Folder, Strict, option


class ShipSettings(Strict):
    """Flags of `streamtok ship`."""

    model: Annotated[str, Flag(positional=True)] = Field(description="checkpoint folder, as training writes it")
    name: Annotated[str, Flag("NAME")] = Field(description="the preset whose weights these are")
    out: Annotated[Folder, Flag(short="-o")] | None = option(None, "where to (default: streamtok/weights/NAME)")


def run(settings: ShipSettings) -> int:
    """Write weights and golden tokens; returns 0."""
    import torch

    from streamtok.checkpoint import WEIGHTS, read_folder, save
    from streamtok.weights import golden

    folder = settings.out or WEIGHTS / settings.name
    tokenizer = read_folder(settings.model)
    tokenizer.config = replace(tokenizer.config, name=settings.name)
    save(tokenizer, folder, dtype=torch.float16)
    shipped = read_folder(folder)
    golden.write_golden(shipped, folder)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {size / 1e6:.1f} MB, {shipped.parameters_count:,} parameters, fingerprint {shipped.fingerprint}")
    return 0


main = make_main("ship", ShipSettings, run, __doc__)
