"""Compares the cost of the token coder with the encoder's: milliseconds per step, one thread, alternating in one run.

    python benchmarks/token_coder.py CLIP [--model nano]

Figures are medians over the groups of the clip's first 65 frames at 256 lines. Bits are of real payloads, which are
decoded again.
"""

import argparse
import itertools
import time
from statistics import median

import torch

from streamtok.coding.coder import FRESH
from streamtok.coding.library import coder_for
from streamtok.engine.loading import load
from streamtok.evaluation.dataset import ClipSet, find_clips
from streamtok.evaluation.layouts import pictures_to_video, split_groups


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    tok = load(arguments.model, engine="default", device="cpu", threads=1)
    coder = coder_for(tok.fingerprint)
    clip = next(iter(ClipSet(find_clips([arguments.clip]), frames=65)))
    groups = split_groups(pictures_to_video(clip.frames), tok.group)
    stream = tok.stream(1, *clip.frames.shape[1:3])
    spent: dict[str, list[float]] = {"step": [], "encode": [], "decode": []}
    past, size, tokens = FRESH, 0, 0
    for group in groups:
        marks = [time.process_time()]
        indices = stream.step(group.contiguous()).indices
        marks.append(time.process_time())
        grid = indices[0, 0].numpy().astype(coder.dtype)
        data, after = coder.encode(grid, past)
        marks.append(time.process_time())
        again, _ = coder.decode(data, grid.shape, past)
        marks.append(time.process_time())
        assert (again == grid).all()
        past, size, tokens = after, size + len(data), tokens + grid.size
        for name, (first, last) in zip(spent, itertools.pairwise(marks), strict=True):
            spent[name].append(1e3 * (last - first))
    step = median(spent["step"][1:])
    print(f"{arguments.model} on {clip.name}, {len(groups)} grids: {8 * size / tokens:.2f} bits a token")
    for name, values in spent.items():
        print(f"{name:<7} {median(values[1:]):7.1f} ms of processor time, {median(values[1:]) / step:.3f} of a step")


if __name__ == "__main__":
    main()
