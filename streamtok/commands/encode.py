"""Encode a video or an image into a token file.

    streamtok encode drive.mp4 -o tokens.safetensors
    streamtok encode picture.png -o tokens.safetensors --model cosmos-di8x8
    streamtok encode 'synthetic:256x448@30?seed=1&frames=300' -o tokens.safetensors --size 128x224
    streamtok decode tokens.safetensors -o back.mp4

Frames go through one group at a time, so the length does not matter. Sizes that are not on the tokenizer's grid are
padded, and cropped again when decoding; a group that is cut short (by a gap, a change of size, the end) repeats its
last frame.
"""

import argparse
import json
import sys

from streamtok.commands.command import command
from streamtok.commands.config_parser import new_config_parser


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = new_config_parser("encode", __doc__)
    arguments.add_argument("source", help="a video, an image, or any source that `streamtok ingest` takes")
    arguments.add_argument("-o", "--out", required=True, help="the token file to write (.safetensors)")
    arguments.add_argument("--model", default="nano", help="preset or checkpoint (default: nano)")
    arguments.add_argument("--size", help="resize to HEIGHTxWIDTH first (default: the video's own size)")
    arguments.add_argument("--max-frames", type=int, help="stop after so many frames")
    arguments.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    arguments.add_argument("--deterministic", action="store_true", help="bit-identical for any split and slot count")
    arguments.add_argument("--context", type=int, help="latent steps that attention sees (default: the model's)")
    arguments.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")
    arguments.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    return arguments


@command("encode")
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = vars(parser().parse_args(argv))
    from streamtok.settings.rig import settings_of
    from streamtok.tokens.files import EncodeOptions, encode_file

    source, out, model, as_json = (given.pop(name) for name in ("source", "out", "model", "json"))
    done = encode_file(source, out, model, settings_of(EncodeOptions, None, given))
    if as_json:
        facts = {"out": str(done.path), "frames": done.frames, "groups": done.groups, "grid": done.shape}
        facts |= {"repeated": done.repeated, "skipped": done.skipped, "damaged": done.damaged, "bytes": done.bytes}
        print(json.dumps(facts))
        return 0
    grid = "x".join(map(str, done.shape))
    print(f"{done.path}: {done.frames} frames, {done.groups} groups of {grid}, {done.bytes:,} bytes")
    if done.skipped:
        print(f"{done.skipped} groups were left out: their latent was not finite; the weights may be damaged")
    if done.damaged:
        print(f"{done.damaged} frames could not be read and were left out")
    if done.repeated:
        print(f"{done.repeated} frames are repeats that fill groups (at gaps, changes of size, the end)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
