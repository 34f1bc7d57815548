"""Measures how well a bitrate is held on real clips: bits that the publisher sends against bits that were asked for.

    python benchmarks/byte_budget.py CLIP... [--bitrate 64000] [--seconds 30] [--lines 256] [--rig] [--sizes FILE]

Each clip's first 221 frames play forwards and backwards at 30 per second (`nano`, coded, a keyframe every 10 s). The
table has, for each stream, or for all together with --rig: the bitrate asked for; that sent over all, and from 10 s on;
the most and least of 5 s from then on; the hold margin and its noise; and the share of frames that were encoded.
`--sizes` writes the message sizes of each clip by margin and frame stride, with which tests drive the controller.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from streamtok.coding.library import coder_for
from streamtok.engine.loading import load
from streamtok.evaluation.dataset import Clip, ClipSet, find_clips
from streamtok.ingest.budget import MOST_HOLD, share_budget
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.model import Tokenizer
from streamtok.types import Frame
from streamtok.wire.publisher import Publisher

FPS, WINDOW_S, FRAMES = 30, 5, 221
MARGINS, STRIDES = (0.0, 0.125, 0.25, 0.5), (1, 2, 4, 8)


def play(
    core: IngestCore, clips: dict[str, np.ndarray], count: int, tok: Tokenizer
) -> Iterator[tuple[str, float, int]]:
    """Publish `count` frames of each clip, uint8 (T, H, W, 3); yields (stream, capture s, bytes) of each message."""
    with TemporaryDirectory() as folder:
        publisher = Publisher(f"ipc://{folder}/tokens", "", compression="coded", coder=coder_for(tok.fingerprint))
        order = {name: [*range(len(seen)), *range(len(seen) - 2, 0, -1)] for name, seen in clips.items()}
        for number, name in itertools.product(range(count), clips):
            picture = clips[name][order[name][number % len(order[name])]]
            for group in core.feed(Frame(name, number, round(number * 1e9 / FPS), picture)):
                before = publisher.bytes_of(name)
                publisher.publish(group)
                size = publisher.bytes_of(name) - before
                core.lane(name).note_sent(group, size)
                yield name, group.capture_ns[-1] / 1e9, size
        publisher.close()


def measure(tok: Tokenizer, clips: dict[str, np.ndarray], asked: int, seconds: int, rig: bool) -> list[str]:
    """Measure one bitrate; returns the rows of the table."""
    options = StreamOptions("lossless", hold=MOST_HOLD, bitrate=None if rig else asked)
    core = IngestCore(tok, dict.fromkeys(clips, options))
    if rig:
        share_budget(asked, [lane.budget for lane in core.lanes.values()])
    sent = {name: np.zeros(seconds + 1) for name in clips}
    for name, at, size in play(core, clips, seconds * FPS, tok):
        sent[name][int(at)] += 8 * size
    rows = [[name, sent[name], [core.lane(name)]] for name in clips]
    rows += [["all", sum(sent.values()), list(core.lanes.values())]] if rig else []
    lines = []
    for name, bits, lanes in rows:
        late = bits[10:seconds]
        windows = np.convolve(late, np.ones(WINDOW_S) / WINDOW_S, "valid")
        rates = [bits[:seconds].mean(), late.mean(), windows.max(), windows.min()]
        margin = np.mean([lane.budget.mean_hold for lane in lanes])
        noise = np.mean([lane.budget.mean_noise_db for lane in lanes])
        share = sum(lane.counts["frames"] for lane in lanes) / (len(lanes) * seconds * FPS)
        figures = [f"{rate / 1e3:.1f}" for rate in rates] + [f"{margin:.2f}", f"{noise:.1f} dB", f"{100 * share:.0f} %"]
        own = "" if rig and name != "all" else f"{asked / 1e3:.1f}"
        lines.append("| " + " | ".join([name, own, *figures]) + " |")
    return lines


def record_sizes(tok: Tokenizer, pictures: np.ndarray) -> list[list[list[int]]]:
    """The size in bytes of each message of a clip, by margin and stride."""
    sizes: list[list[list[int]]] = []
    for margin in MARGINS:
        sizes.append([])
        for stride in STRIDES:
            core = IngestCore(tok, {"cam0": StreamOptions("lossless", keyframe_interval=0, hold=margin)})
            chosen = pictures[::stride]
            sizes[-1].append([size for _, _, size in play(core, {"cam0": chosen}, len(chosen), tok)])
    return sizes


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", metavar="CLIP")
    parser.add_argument("--bitrate", type=int, action="append")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--lines", type=int, default=256)
    parser.add_argument("--rig", action="store_true", help="one budget for all clips, which play at once")
    parser.add_argument("--sizes", type=Path)
    arguments = parser.parse_args()
    tok = load("nano", engine="default", device="cpu", threads=1)
    found: list[Clip] = list(ClipSet(find_clips(arguments.clips), arguments.lines, FRAMES))
    clips = {clip.name: clip.frames for clip in found}
    if arguments.sizes is not None:
        facts = {"fps": FPS, "margins": MARGINS, "strides": STRIDES}
        recorded = {name: record_sizes(tok, pictures) for name, pictures in clips.items()}
        arguments.sizes.write_text(json.dumps(facts | {"clips": recorded}) + "\n")
        return
    print("| stream | asked, kbit/s | sent | from 10 s on | most of 5 s | fewest | margin | noise | frames |")
    print("| --- " * 9 + "|", flush=True)
    for asked in arguments.bitrate or [64_000]:
        together = [clips] if arguments.rig else [{name: pictures} for name, pictures in clips.items()]
        for playing in together:
            print("\n".join(measure(tok, playing, asked, arguments.seconds, arguments.rig)), flush=True)


if __name__ == "__main__":
    main()
