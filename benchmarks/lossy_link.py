"""What readers see over a link that loses messages: between a real publisher and a real reader, by a seeded pattern.

    python benchmarks/lossy_link.py CLIP [--frames 129] [--late 0.05]

The clip is encoded by `nano` at 256 lines, once with a keyframe every 4 s and once with keyframes by drift too. It is
sent plain, independent and coded, as fast as it goes, over a `LossyLink`. The reader decodes across losses what it can
read (`streamtok decode --across-losses`), and shows the last picture where it has none. Per run: token messages lost,
grids that could be read, frames shown as they were sent (no loss since a keyframe) and shown at all, PSNR over all
frames, and after a loss the mean and the longest time to the next frame that is shown as sent.
"""

import argparse
import threading
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from streamtok.bench.soak.link import LossPattern, LossyLink
from streamtok.coding.library import coder_for
from streamtok.engine.loading import load
from streamtok.evaluation.dataset import ClipSet, find_clips
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.measures import psnr_from_mse
from streamtok.model import Tokenizer
from streamtok.node.live_decoder import LiveDecoder
from streamtok.types import Frame, TokenGroup
from streamtok.wire.publisher import Publisher
from streamtok.wire.streams import Compression
from streamtok.wire.subscriber import subscribe

FPS, INTERVAL_S, DRIFT = 30.0, 4.0, 0.7
PATTERNS = {"5 %": (0.05, 1.0), "10 %": (0.1, 1.0), "20 %": (0.2, 1.0), "10 % in bursts of 4": (0.1, 4.0)}
SENT: tuple[Compression, ...] = ("none", "independent", "coded")


@dataclass
class Seen:
    """Of each frame: whether its grid could be read, whether it was shown, and as it was sent; its error, 0 to 1."""

    readable: np.ndarray
    shown: np.ndarray
    exact: np.ndarray
    mse: np.ndarray

    @property
    def outages(self) -> list[float]:
        """How long each stretch without a frame as it was sent took, s."""
        edges = np.flatnonzero(np.diff(np.concatenate([[1], self.exact.astype(int), [1]])))
        return [float(last - first) / FPS for first, last in edges.reshape(-1, 2)]


def encode(tok: Tokenizer, pictures: np.ndarray, drift: float | None) -> list[TokenGroup]:
    """Pictures uint8 (T, H, W, 3) -> groups."""
    core = IngestCore(tok, {"cam0": StreamOptions("lossless", keyframe_interval=INTERVAL_S, keyframe_drift=drift)})
    frames = (Frame("cam0", number, round(number * 1e9 / FPS), each) for number, each in enumerate(pictures))
    groups = [group for frame in frames for group in core.feed(frame)]
    return groups + core.flush("cam0", "drop")


def send(publisher: Publisher, groups: list[TokenGroup]) -> None:
    """Publish all of it, and end the stream."""
    for group in groups:
        publisher.publish(group)
    publisher.close()


def watch(
    tok: Tokenizer, groups: list[TokenGroup], pictures: np.ndarray, compression: Compression, pattern: LossPattern
) -> Seen:
    """One run over one link."""
    coder = coder_for(tok.fingerprint)
    options = {"control": "", "lossless": True, "lossless_timeout": 60.0}  # nobody can ask for what was lost
    publisher = Publisher("tcp://127.0.0.1:*", compression=compression, coder=coder, **options)
    count = groups[-1].frame_ids[-1] + 1
    seen = Seen(*(np.zeros(count, bool) for _ in range(3)), np.zeros(count))
    images: dict[int, np.ndarray] = {}
    decoder = LiveDecoder(tok, across_losses=True)
    with (
        LossyLink(publisher.endpoint, pattern) as link,
        subscribe(link.endpoint, until_end=True, lossless=True, queue_size=len(groups)) as reader,
    ):
        publisher.wait_subscribers(1, 10)
        sender = threading.Thread(target=send, args=(publisher, groups))
        sender.start()
        for message in reader:
            seen.readable[message.header.frame_ids] = not message.unreadable
            pictures_now = decoder.feed(message)
            images |= {picture.frame_id: picture.image for picture in pictures_now}
            seen.exact[[picture.frame_id for picture in pictures_now]] = message.decodable
        sender.join()
    seen.shown[list(images)] = True
    last = np.full_like(pictures[0], 128)
    for number in range(count):
        last = images.get(number, last)
        seen.mse[number] = np.square((last.astype(np.float32) - pictures[number]) / 255).mean()
    return seen


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", metavar="CLIP")
    parser.add_argument("--frames", type=int, default=129)
    parser.add_argument("--late", type=float, default=0.0, help="share that comes behind up to 3 later ones")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tok = load("nano", engine="default", device="cpu", threads=1)
    pictures = next(iter(ClipSet(find_clips([arguments.clip]), frames=arguments.frames))).frames
    print("| keyframes | loss | sent | lost | readable | as sent | shown | PSNR | back after | at most |")
    print("| --- " * 10 + "|", flush=True)
    for by_drift in (False, True):
        groups = encode(tok, pictures, DRIFT if by_drift else None)
        every = f"{sum(group.keyframe for group in groups)}{' by drift' if by_drift else ''}"
        for name, (loss, burst) in PATTERNS.items():
            for compression in SENT:
                pattern = LossPattern[list[bytes]](loss, burst, arguments.late, seed=arguments.seed)
                seen = watch(tok, groups, pictures, compression, pattern)
                outages = seen.outages or [0.0]
                shares = [f"{100 * each.mean():.0f} %" for each in (seen.readable, seen.exact, seen.shown)]
                quality, back = psnr_from_mse(seen.mse.mean()), [f"{fmean(outages):.2f} s", f"{max(outages):.2f} s"]
                row = [every, name, compression, str(pattern.lost), *shares, f"{quality:.2f} dB", *back]
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
