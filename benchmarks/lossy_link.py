"""Measures what a reader sees over a link that loses messages by a seeded pattern, with a real publisher and reader.

    python benchmarks/lossy_link.py CLIP [--frames 129] [--lines 256] [--seeds 10]

The clip is encoded by `nano`, once with a keyframe every 4 s and once with keyframes by drift too. It is sent plain,
independent and coded, as fast as possible, over a `LossyLink`. The reader decodes what it can read across losses
(`streamtok decode --across-losses`), and repeats its last picture otherwise. The table has medians and ranges over all
seeds: token messages lost; frames that were readable, shown as sent (no loss since a keyframe), and shown at all.
The mean and the longest time without a frame as sent are over all seeds; PSNR is of all frames with the first.
"""

import argparse
import itertools
import threading
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
import torch
from lossy import LossPattern, LossyLink

from streamtok.coding.library import coder_for
from streamtok.engine.loading import load
from streamtok.evaluation.dataset import ClipSet, find_clips
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.measures import psnr_from_mse
from streamtok.model import Tokenizer
from streamtok.node.live_decoder import LiveDecoder
from streamtok.types import Frame, TokenGroup
from streamtok.wire.message import TokenMessage
from streamtok.wire.publisher import Publisher
from streamtok.wire.streams import Compression
from streamtok.wire.subscriber import subscribe

FPS, INTERVAL_S, DRIFT = 30.0, 4.0, 0.7
PATTERNS = {"5 %": (0.05, 1.0), "10 %": (0.1, 1.0), "20 %": (0.2, 1.0), "10 % in bursts of 4": (0.1, 4.0)}
SENT: tuple[Compression, ...] = ("none", "independent", "coded")
Pattern = LossPattern[list[bytes]]


@dataclass
class Seen:
    """Flags of each frame, bool (frames,): its grid was readable, it was shown, and it was shown as sent."""

    readable: np.ndarray
    shown: np.ndarray
    exact: np.ndarray

    @property
    def outages(self) -> list[float]:
        """The length in s of each stretch without a frame as sent."""
        edges = np.flatnonzero(np.diff(np.concatenate([[1], self.exact.astype(int), [1]])))
        return [float(last - first) / FPS for first, last in edges.reshape(-1, 2)]


def encode(tok: Tokenizer, pictures: np.ndarray, drift: float | None) -> list[TokenGroup]:
    """Encode pictures, uint8 (T, H, W, 3), to groups."""
    core = IngestCore(tok, {"cam0": StreamOptions("lossless", keyframe_interval=INTERVAL_S, keyframe_drift=drift)})
    frames = (Frame("cam0", number, round(number * 1e9 / FPS), picture) for number, picture in enumerate(pictures))
    groups = [group for frame in frames for group in core.feed(frame)]
    return groups + core.flush("cam0", "drop")


def send(publisher: Publisher, groups: list[TokenGroup]) -> None:
    """Publish all groups, and end the stream."""
    for group in groups:
        publisher.publish(group)
    publisher.close()


def receive(tok: Tokenizer, groups: list[TokenGroup], compression: Compression, pattern: Pattern) -> list[TokenMessage]:
    """Send all groups over one lossy link; returns what a reader gets, to the end of the stream."""
    coder = coder_for(tok.fingerprint)
    options = {"control": "", "lossless": True, "lossless_timeout": 60.0}  # no control socket: losses stay lost
    publisher = Publisher("tcp://127.0.0.1:*", compression=compression, coder=coder, **options)
    with (
        LossyLink(publisher.endpoint, pattern) as link,
        subscribe(link.endpoint, until_end=True, lossless=True, queue_size=len(groups)) as reader,
    ):
        publisher.wait_subscribers(1, 10)
        sender = threading.Thread(target=send, args=(publisher, groups))
        sender.start()
        messages = list(reader)
        sender.join()
    return messages


def judge(messages: list[TokenMessage], count: int) -> Seen:
    """Judge the messages that came of `count` frames."""
    seen, begun = Seen(*(np.zeros(count, bool) for _ in range(3))), False
    for message in messages:
        begun |= message.decodable
        frames = message.header.frame_ids
        seen.readable[frames] = not message.unreadable
        seen.shown[frames] = begun and not message.unreadable
        seen.exact[frames] = message.decodable
    return seen


def measure_psnr(tok: Tokenizer, messages: list[TokenMessage], pictures: np.ndarray, count: int) -> float:
    """PSNR in dB of what is shown in place of the first `count` pictures, uint8 (T, H, W, 3)."""
    decoder = LiveDecoder(tok, across_losses=True)
    images = {shown.frame_id: shown.image for message in messages for shown in decoder.feed(message)}
    last, errors = np.full_like(pictures[0], 128), []
    for number in range(count):
        last = images.get(number, last)
        errors.append(np.square((last.astype(np.float32) - pictures[number]) / 255).mean())
    return psnr_from_mse(fmean(map(float, errors)))


def measure(
    tok: Tokenizer, pictures: np.ndarray, groups: list[TokenGroup], compression: Compression, patterns: list[Pattern]
) -> list[str]:
    """Measure a row of the table: what arrives of a clip, uint8 (T, H, W, 3), under each pattern of loss."""
    count = groups[-1].frame_ids[-1] + 1
    runs = [receive(tok, groups, compression, pattern) for pattern in patterns]
    seen = [judge(messages, count) for messages in runs]
    lost = [pattern.lost / len(groups) for pattern in patterns]
    kinds = [[run.readable for run in seen], [run.exact for run in seen], [run.shown for run in seen]]
    shares = [[float(frames.mean()) for frames in kind] for kind in kinds]
    outages = [seconds for run in seen for seconds in run.outages] or [0.0]
    decibels = measure_psnr(tok, runs[0], pictures, count)
    return [
        *map(format_shares, (lost, *shares)),
        f"{fmean(outages):.2f} s",
        f"{max(outages):.2f} s",
        f"{decibels:.2f} dB",
    ]


def format_shares(shares: list[float]) -> str:
    """Format the median of shares, and their range, in percent."""
    least, most = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
    return f"{100 * median(shares):.0f} % ({least} to {most})" if least != most else f"{least} %"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", metavar="CLIP")
    parser.add_argument("--frames", type=int, default=129)
    parser.add_argument("--lines", type=int, default=256, help="short side of the pictures")
    parser.add_argument("--late", type=float, default=0.0, help="share that comes behind up to 3 later ones")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    tok = load("nano", engine="default", device="cpu", threads=1)
    pictures = next(iter(ClipSet(find_clips([arguments.clip]), arguments.lines, arguments.frames))).frames
    print("| keyframes | loss | sent | lost | readable | as sent | shown | back after | at most | PSNR |")
    print("| --- " * 10 + "|", flush=True)
    for by_drift in (False, True):
        groups = encode(tok, pictures, DRIFT if by_drift else None)
        keyframes = f"{sum(group.keyframe for group in groups)}{' by drift' if by_drift else ''}"
        for (name, (loss, burst)), compression in itertools.product(PATTERNS.items(), SENT):
            patterns = [Pattern(loss, burst, arguments.late, seed=seed) for seed in range(arguments.seeds)]
            figures = measure(tok, pictures, groups, compression, patterns)
            print("| " + " | ".join([keyframes, name, compression, *figures]) + " |", flush=True)


if __name__ == "__main__":
    main()
