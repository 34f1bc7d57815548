"""Encode a video or an image into a token file.

    streamtok encode drive.mp4 -o tokens.safetensors
    streamtok encode picture.png -o tokens.safetensors --model cosmos-di8x8
    streamtok encode 'synthetic:256x448@30?seed=1&frames=300' -o tokens.safetensors --size 128x224
    streamtok decode tokens.safetensors -o back.mp4

Frames are encoded one group at a time, so memory does not depend on the length. Sizes that are not on the tokenizer's
grid are padded, and cropped again when decoding. A group that is cut short (by a gap, the end) repeats its last frame.
Where pictures change their size, an epoch begins in a new file, OUT.001.safetensors; --size resizes all to one.
"""

from typing import Annotated

from pydantic import Field

from streamtok.commands.command import make_main
from streamtok.settings.fields import File, Flag, Model, Switch, option
from streamtok.settings.shared import CommandSettings
from streamtok.tokens.options import EncodeOptions


class EncodeSettings(CommandSettings, EncodeOptions):
    """Flags of `streamtok encode`."""

    source: Annotated[str, Flag("SRC", positional=True)] = Field(
        description="a video, an image, or any source that `streamtok ingest` takes"
    )
    out: Annotated[File, Flag(short="-o")] = Field(description="the token file to write (.safetensors)")
    model: Model = option("nano", "preset name or checkpoint folder")
    quiet: Switch = option(False, "no progress bar")


def run(settings: EncodeSettings) -> int:
    """Encode one source into a token file, and print its counts; returns 0."""
    from streamtok.tokens.files import encode_file

    done = encode_file(settings.source, settings.out, settings.model, settings)
    others, grid = list(map(str, done.others)), "x".join(map(str, done.shape))
    counts = {name: getattr(done, name) for name in ("frames", "groups", "repeated", "skipped", "damaged", "bytes")}
    lines = [f"{done.path}: {done.frames} frames, {done.groups} groups of {grid}, {done.bytes:,} bytes"]
    if others:
        lines.append(f"pictures change their size: those of other sizes are in {', '.join(others)}")
    if done.skipped:
        lines.append(f"{done.skipped} groups were left out: their latent was not finite; the weights may be damaged")
    if done.damaged:
        lines.append(f"{done.damaged} frames could not be read and were left out")
    if done.repeated:
        lines.append(f"{done.repeated} frames are repeats that fill groups (at gaps, changes of size, the end)")
    facts = {"out": str(done.path), "others": others, "grid": done.shape, **counts}
    print(settings.format_result(facts, "\n".join(lines)))
    return 0


main = make_main("encode", EncodeSettings, run, __doc__)
