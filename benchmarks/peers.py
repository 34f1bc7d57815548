"""The same live work by public peers: what each new group costs, same frames, same precision, random weights.

    pip install diffusers
    python benchmarks/peers.py --size 720x1280 --device cuda --precision bfloat16 --out benchmarks/results

- diffusers' AutoencoderKLCosmos (8x8x8) has no state: it encodes its window of 17 or 49 frames again for every group.
- diffusers' AutoencoderKLWan (4x8x8) keeps a feature cache inside one call; here it is kept between groups, as its own
  `_encode` does between the chunks of a clip.

Times are medians of wall-clock milliseconds, and the processor time of all threads beside them, for machines that are
busy with other things.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from streamtok.engine.engine import apply
from torch import Tensor

from streamtok.bench.measure import describe_machine
from streamtok.bench.timing import time_calls
from streamtok.config import PRESETS
from streamtok.engine.configuration import here
from streamtok.engine.loading import pick_device
from streamtok.engine.precision import how, moving_scene
from streamtok.model import build
from streamtok.names import parse_device, parse_size


def measure(function: Callable[[], object], count: int, device: str) -> dict[str, float]:
    """Median wall-clock and processor milliseconds of `count` calls after one more."""
    walls, busy = time_calls(lambda _: function(), count, device, warm_up=1)
    return {"ms": statistics.median(walls), "cpu_ms": statistics.median(busy)}


class Setting:
    """Frames and numbers that every entry shares."""

    def __init__(self, arguments: argparse.Namespace):
        self.size = arguments.size
        self.device, self.precision, self.count = arguments.device, arguments.precision, arguments.count
        self.dtype = getattr(torch, arguments.precision)
        self.windows = [int(window) for window in arguments.windows.split(",")]

    def clip(self, frames: int) -> Tensor:
        """uint8 frames (1, 3, T, H, W) on the device."""
        return moving_scene(self.size, frames).to(self.device)

    def floats(self, frames: int) -> Tensor:
        """The same, as the peers read them."""
        return (self.clip(frames).float() / 127.5 - 1).to(self.dtype)


def ours(setting: Setting, preset: str) -> dict[str, Any]:
    """A group through our stream, plainly and with the engine; and our own network as a stateless window."""
    tok = build(PRESETS[preset])
    machine = here(tok.fingerprint, setting.size, setting.device)
    fast = apply(tok, how(tok, machine, setting.precision))
    model, found = tok.cast(setting.dtype, setting.device), {}
    group = setting.clip(tok.group)
    for name, stream in (
        ("stream, eager", model.stream(1, *setting.size)),
        ("stream, engine", fast.stream(1, *setting.size)),
    ):
        stream.step(group[:, :, :1])
        found[name] = measure(lambda stream=stream: stream.step(group), setting.count, setting.device)
    for window in setting.windows:
        frames = setting.clip(1 + (window - 1) // tok.group * tok.group)
        found[f"window of {window}"] = measure(
            lambda frames=frames: model.encode(frames), setting.count, setting.device
        )
    return found


@torch.no_grad()
def cosmos(setting: Setting) -> dict[str, Any]:
    """diffusers' AutoencoderKLCosmos: the window again for every group."""
    from diffusers import AutoencoderKLCosmos

    vae = AutoencoderKLCosmos().to(setting.device, setting.dtype).eval()
    found = {}
    for window in setting.windows:
        frames = setting.floats(1 + (window - 1) // 8 * 8)
        found[f"window of {window}"] = measure(lambda frames=frames: vae.encode(frames), setting.count, setting.device)
    return found


@torch.no_grad()
def wan(setting: Setting) -> dict[str, Any]:
    """diffusers' AutoencoderKLWan, a group of 4 frames at a time with its feature cache, and its window."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan().to(setting.device, setting.dtype).eval()
    frames = setting.floats(max(setting.windows))
    vae.clear_cache()

    def step(part: Tensor) -> None:
        vae._enc_conv_idx = [0]
        vae.quant_conv(vae.encoder(part, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))

    step(frames[:, :, :1])
    found = {"feature cache": measure(lambda: step(frames[:, :, 1:5]), setting.count, setting.device)}
    for window in setting.windows:
        part = frames[:, :, :window]
        found[f"window of {window}"] = measure(lambda part=part: vae.encode(part), setting.count, setting.device)
    return found


ENTRIES: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "streamtok cosmos-dv4x8x8 (4 frames)": lambda setting: ours(setting, "cosmos-dv4x8x8"),
    "streamtok cosmos-cv8x8x8 (8 frames)": lambda setting: ours(setting, "cosmos-cv8x8x8"),
    "diffusers AutoencoderKLCosmos (8 frames)": cosmos,
    "diffusers AutoencoderKLWan (4 frames)": wan,
}


def flag_type(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` as the type of a flag: what its ValueError says reaches the user."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error} (got {text!r})") from error

    return read


def main(argv: list[str] | None = None) -> int:
    """Measure what is installed; 1 if a peer is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=flag_type(parse_size), default="256x256", metavar="HxW")
    parser.add_argument("--device", type=flag_type(parse_device), default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--windows", default="17,49")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, help="folder for the JSON")
    arguments = parser.parse_args(argv)
    arguments.device = pick_device(arguments.device).type
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    setting, missing = Setting(arguments), []
    report: dict[str, Any] = {
        "machine": describe_machine(arguments.device), "size": list(setting.size), "precision": arguments.precision,
        "entries": {},
    }  # fmt: skip
    for name, entry in ENTRIES.items():
        torch.manual_seed(0)
        try:
            report["entries"][name] = entry(setting)
        except ImportError as error:
            missing.append(f"{name}: {error}; pip install diffusers")
            continue
        except (NotImplementedError, torch.cuda.OutOfMemoryError) as error:
            report["entries"][name] = {"error": str(error).splitlines()[0]}
            print(f"{name:<44} {report['entries'][name]['error']}", flush=True)
            continue
        for what, times in report["entries"][name].items():
            print(
                f"{name:<44} {what:<16} {times['ms']:10.1f} ms {times['cpu_ms']:10.1f} ms of processor time", flush=True
            )
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        height, width = setting.size
        path = arguments.out / f"peers-{arguments.device}-{height}x{width}-{arguments.precision}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(missing), file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
