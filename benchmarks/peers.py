"""Compares streamtok with public peers: the cost of each new group of frames, same frames, same threads, same run.

    pip install diffusers
    python benchmarks/peers.py --threads 1 --taehv PATH_OF_A_CHECKOUT_OF_TAEHV

- streamtok: the planned engine, the same with PyTorch's convolutions, plain PyTorch, and a stateless window.
- TAEHV (4x8x8, continuous), the small streaming autoencoder of https://github.com/madebyollin/taehv, by its own class.
- diffusers' AutoencoderKLCosmos (8x8x8) has no state: it encodes its window again for every group.
- diffusers' AutoencoderKLWan (4x8x8) keeps a feature cache inside one call; here it is kept between groups, as its own
  `_encode` does between the chunks of a clip.
- x264, ultrafast and zerolatency, on one thread: bytes, not tokens.

Other networks have random weights. All are timed in turn, round after round. Milliseconds are CPU time summed over all
threads, which other processes hardly affect (median and least), and wall-clock time (median).
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import av
import torch
from torch import Tensor

import streamtok
from streamtok.bench.measure import describe_machine
from streamtok.bench.timing import time_calls
from streamtok.engine.configuration import inspect_machine
from streamtok.engine.optimized import apply_configuration
from streamtok.engine.planning import plan_precision
from streamtok.names import parse_size
from streamtok.weights.golden import reference_clip

WINDOW = 17  # frames that a network without state encodes again


@dataclass
class Work:
    """The work of one peer on each new group: who, what, frames per call, and the times of calls in ms."""

    peer: str
    what: str
    frames: int
    call: Callable[[], object]
    walls: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Time one more call, with caches warm as in a loop."""
        walls, busy = time_calls(lambda _: self.call(), 1, warm_up=1)
        self.walls += walls
        self.busy += busy

    def describe(self) -> dict[str, str | int | float]:
        """The figures as plain values: `cpu_ms` of all threads, `ms` of wall-clock time."""
        return {
            "peer": self.peer,
            "what": self.what,
            "frames": self.frames,
            "cpu_ms": statistics.median(self.busy),
            "least_cpu_ms": min(self.busy),
            "ms": statistics.median(self.walls),
        }


def ours(name: str, size: tuple[int, int], precision: str) -> Iterator[Work]:
    """Our streams on three engines, one group per call, and our network on a stateless window."""
    tok = streamtok.load(name)
    planned = plan_precision(tok, inspect_machine(tok.fingerprint, size), precision)
    group, grid = reference_clip(tok.group, *size), tok.config.grid(*size)
    direct = replace(planned, convolutions="direct")
    engines = {
        f"{made.kernels} {made.convolutions}": made for made in (planned, direct, replace(direct, kernels="plain"))
    }
    for label, engine in engines.items():
        fast = apply_configuration(tok, engine)
        encoder, decoder = fast.stream(1, *size), fast.decode_stream(1, *grid)
        tokens = encoder.step(group[:, :, :1]).tokens
        decoder.step(tokens)
        yield Work(f"streamtok {name}, {label}", "encode", tok.group, partial(encoder.step, group))
        yield Work(f"streamtok {name}, {label}", "decode", tok.group, partial(decoder.step, tokens))
    clip = reference_clip(1 + (WINDOW - 1) // tok.group * tok.group, *size)
    encode = partial(tok.cast(fast.dtype).encode, clip)
    yield Work(f"streamtok {name}, window of {clip.shape[2]}", "encode", tok.group, encode)


def read_floats(size: tuple[int, int], frames: int) -> Tensor:
    """The same frames for the peers: float32 (1, 3, T, H, W) in -1..1."""
    return reference_clip(frames, *size).float() / 127.5 - 1


def taehv(folder: Path, size: tuple[int, int]) -> Iterator[Work]:
    """TAEHV's streaming encoder on four consecutive frames, and its decoder on a latent."""
    sys.path.insert(0, str(folder))
    from taehv import TAEHV, StreamingTAEHV

    stream = StreamingTAEHV(TAEHV(checkpoint_path=None).eval())
    frames = (read_floats(size, 4).transpose(1, 2) / 2 + 0.5).split(1, 1)

    def encode() -> Tensor:
        latents = [latent for latent in map(stream.encode, frames) if latent is not None]
        return latents[-1]

    latent = encode()

    def decode() -> None:
        stream.decode(latent)
        while stream.decode() is not None:  # four frames of one latent
            pass

    yield Work("TAEHV", "encode", 4, encode)
    yield Work("TAEHV", "decode", 4, decode)


def cosmos(size: tuple[int, int]) -> Iterator[Work]:
    """diffusers' AutoencoderKLCosmos, with the whole window encoded for every group."""
    from diffusers import AutoencoderKLCosmos

    vae = AutoencoderKLCosmos().eval()
    yield Work("diffusers AutoencoderKLCosmos", "encode", 8, partial(vae.encode, read_floats(size, WINDOW)))


def wan(size: tuple[int, int]) -> Iterator[Work]:
    """diffusers' AutoencoderKLWan, a group of 4 frames at a time with its feature cache."""
    from diffusers import AutoencoderKLWan

    vae, frames = AutoencoderKLWan().eval(), read_floats(size, 5)
    vae.clear_cache()

    def step(part: Tensor) -> None:
        vae._enc_conv_idx = [0]
        vae.quant_conv(vae.encoder(part, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))

    step(frames[:, :, :1])
    yield Work("diffusers AutoencoderKLWan", "encode", 4, partial(step, frames[:, :, 1:]))


def x264(size: tuple[int, int]) -> Iterator[Work]:
    """libx264 at its fastest on four frames, from RGB."""
    codec = av.CodecContext.create("libx264", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.height, codec.width, codec.pix_fmt, codec.framerate, codec.thread_count = *size, "yuv420p", 30, 1
    codec.options = {"preset": "ultrafast", "tune": "zerolatency"}
    images = reference_clip(4, *size)[0].permute(1, 2, 3, 0).contiguous().numpy()

    def encode() -> None:
        for image in images:
            codec.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p"))

    yield Work("x264 ultrafast", "encode", 4, encode)


PEERS = {"x264": x264, "wan": wan, "cosmos": cosmos}


def main(argv: list[str] | None = None) -> int:
    """Measure the peers that are installed; returns 1 if one is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=(256, 448), metavar="HxW")
    parser.add_argument("--models", default="nano", help="ours, with commas between")
    parser.add_argument("--peers", default="x264,wan,cosmos", help="with commas between")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of ours")
    parser.add_argument("--count", type=int, default=9, help="rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--taehv", type=Path, help="folder of taehv.py")
    parser.add_argument("-o", "--out", type=Path, help="write JSON to this file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size, works, missing = arguments.size, [], []
    peers = [partial(ours, name, precision=arguments.precision) for name in arguments.models.split(",")]
    peers += [PEERS[name] for name in arguments.peers.split(",") if name]
    peers += [partial(taehv, arguments.taehv)] if arguments.taehv else []
    for peer in peers:
        try:
            works += list(peer(size=size))
        except ImportError as error:
            missing.append(str(error))
    for _ in range(arguments.count):
        for work in works:
            work.measure()
    report = [work.describe() for work in works]
    for row in report:
        print("{peer:<42} {what} {frames} frames {cpu_ms:9.1f} {least_cpu_ms:9.1f} {ms:9.1f} ms".format(**row))
    if arguments.out:
        machine = describe_machine("cpu") | {"capability": torch.backends.cpu.get_cpu_capability()}
        arguments.out.write_text(json.dumps({"machine": machine, "size": size, "entries": report}, indent=1) + "\n")
    print("\n".join(missing), file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
