"""Measures the peak memory of encoding a clip on a CPU, by model and clip length.

python benchmarks/peak_memory.py nano cosmos-dv4x8x8 --size 1088x1920 --groups 1 8
"""

import argparse
import resource
import subprocess
import sys

import torch

import streamtok
from streamtok.names import parse_size


def measure(name: str, size: tuple[int, int], groups: int) -> None:
    """Print this process's peak memory in MB before and after encoding a keyframe and `groups` groups.

    An image model encodes one image.
    """
    tok = streamtok.load(name)
    frames = [1 + groups * tok.group] if tok.config.video else []
    clip = torch.zeros(1, tok.config.in_channels, *frames, *size, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tok.encode(clip)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{name} {size[0]}x{size[1]} {groups} groups: {before / 1e3:.0f} MB loaded, {after / 1e3:.0f} MB at its peak")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--size", type=parse_size, default=(1088, 1920), help="height x width (default 1088x1920)")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 4], help="lengths, in groups (default 1 4)")
    args = parser.parse_args()
    if len(args.models) == len(args.groups) == 1:
        measure(args.models[0], args.size, args.groups[0])
        return 0
    for name in args.models:  # in a process each, since a peak never falls
        for groups in args.groups:
            size = "x".join(map(str, args.size))
            command = [sys.executable, __file__, name, "--size", size, "--groups", str(groups)]
            subprocess.run(command, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
