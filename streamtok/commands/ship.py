"""Put a trained model into streamtok/weights: float16 weights, their config, and the golden tokens of just these.

python -m streamtok.commands.ship out/nano/model --name nano
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from streamtok.commands.command import command


@command("ship")
def main(argv: list[str] | None = None) -> int:
    """Write the folder; returns 0, 1 if the model cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder, as training writes it")
    parser.add_argument("--name", required=True, help="the preset whose weights these are")
    parser.add_argument("-o", "--out", type=Path, help="default: streamtok/weights/NAME")
    arguments = parser.parse_args(argv)
    import torch

    from streamtok.checkpoint import WEIGHTS, read_folder, save
    from streamtok.weights import golden

    folder = arguments.out or WEIGHTS / arguments.name
    tokenizer = read_folder(arguments.model)
    tokenizer.config = replace(tokenizer.config, name=arguments.name)
    save(tokenizer, folder, dtype=torch.float16)
    shipped = read_folder(folder)
    golden.write_golden(shipped, folder)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {size / 1e6:.1f} MB, {shipped.parameters_count:,} parameters, fingerprint {shipped.fingerprint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
