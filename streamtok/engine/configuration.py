"""The engine configuration: choices that are measured once, then stored, published and reused.

Replay needs the same choices to give the same tokens, so nothing on the token path is tuned again at a start. A stored
configuration holds only for the weights, machine, versions and frame size that it was made for.
"""

import json
import os
import platform
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

OVER_SPACE = ("flash", "strips")  # spatial attention of the fused kernels (`gpu.kernels.attention`)
CHOICES = {
    "precision": ("float32", "bfloat16", "float16", "int8", "float64"),  # int8: only convolutions (`cpu.eight_bit`)
    "kernels": ("plain", "fused", "interleaved"),  # PyTorch's; ours on a GPU (`gpu`); ours on a CPU (`cpu`)
    "over_space": OVER_SPACE,
    "convolutions": ("direct", "nnpack"),  # PyTorch's; with fewer products on a CPU (`cpu.nnpack`)
}
MACHINE = ("device_name", "fingerprint", "torch_version", "triton_version", "size")  # facts, not choices
# 1 had no `convolutions`, 2 a Winograd of our own: recordings stay valid, a stored configuration is measured again.
FORMAT = 3


class EngineError(RuntimeError):
    """The engine cannot run as configured; the message says what it needed and what to lower."""


@dataclass(frozen=True)
class EngineConfiguration:
    """How one model runs on one machine; CHOICES has the values that `precision`, `kernels` and others may take.

    With `slots_per_step` 1, each ready slot takes a step of its own. Any other number means one step over all slots,
    for models too small to fill the device alone. A compiled step and a plain tokenizer's (0) always are of that kind.
    `agreement` and `measured_ms` have a key for each configuration that was tried, which begins with its precision.
    """

    device: str = "cpu"
    device_name: str = ""
    precision: str = "float32"
    slots_per_step: int = 1
    threads: int = 0
    graph: bool = False
    compile: bool = False
    kernels: str = "plain"
    over_space: str = "flash"
    convolutions: str = "direct"
    deterministic: bool = False
    fingerprint: str = ""
    torch_version: str = ""
    triton_version: str = ""
    size: tuple[int, int] = (0, 0)
    format: int = FORMAT
    agreement: dict[str, float] = field(default_factory=dict)  # share of tokens equal to float32's
    measured_ms: dict[str, float] = field(default_factory=dict)  # per group

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        if self.device == "cpu" and self.precision == "float16":
            raise ValueError(
                "precision float16 on the CPU is dozens of times slower than float32; use bfloat16 or float32"
            )
        if self.convolutions == "nnpack" and (self.precision, self.device, self.compile) != ("float32", "cpu", False):
            raise ValueError("convolutions 'nnpack' are for float32 on a CPU, and without compile")
        if self.kernels == "interleaved" and (self.device != "cpu" or self.compile):
            raise ValueError("kernels 'interleaved' decide on the host: for the CPU, and without compile")
        if self.kernels == "fused" and self.precision == "int8":
            raise ValueError("kernels 'fused' are for float16 and bfloat16; precision int8 runs with kernels 'plain'")
        if self.deterministic and (self.kernels, self.convolutions) != ("plain", "direct"):
            raise ValueError(
                f"kernels are {self.kernels!r} and convolutions {self.convolutions!r}, expected 'plain' and 'direct': "
                "deterministic steps compute as whole clips do"
            )
        if self.graph and self.device == "cpu":
            raise ValueError("graph is set on the CPU; CUDA graphs need a GPU, set graph=False")
        object.__setattr__(self, "size", tuple(self.size))

    @property
    def dtype(self) -> torch.dtype:
        """The precision as a torch dtype; for int8, that of everything but the 8-bit convolutions."""
        if self.precision == "int8":
            return torch.float16 if self.device == "cuda" else torch.float32
        return getattr(torch, self.precision)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `info`, recordings and JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EngineConfiguration":
        """The inverse of `to_dict`; ValueError names unknown keys."""
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown engine configuration keys {unknown}; known: {sorted(known)}")
        if values.get("convolutions") == "winograd":  # of format 2: latents of NNPACK's differ in their last bits
            values = {**values, "convolutions": "nnpack"}
        return cls(**values)

    def move_to(self, machine: "EngineConfiguration") -> "EngineConfiguration":
        """The same choices with the facts of `machine`, and nothing measured."""
        facts = {name: getattr(machine, name) for name in MACHINE}
        return replace(self, **facts, agreement={}, measured_ms={})

    def find_differences(self, machine: "EngineConfiguration") -> list[str]:
        """Why this configuration does not hold on `machine`: one "name: x stored, y here" per difference."""
        names = ("format", "device", "deterministic", *MACHINE)
        pairs = [(name, getattr(self, name), getattr(machine, name)) for name in names]
        return [f"{name}: {stored!r} stored, {found!r} here" for name, stored, found in pairs if stored != found]


def inspect_machine(fingerprint: str, size: tuple[int, int], device: str = "cpu") -> EngineConfiguration:
    """The default configuration, with the facts of this machine and the number of threads of this process."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} {_processor()}"
    return EngineConfiguration(
        device=device,
        device_name=name,
        fingerprint=fingerprint,
        torch_version=torch.__version__,
        triton_version=triton_version(),
        size=size,
        threads=0 if device == "cuda" else torch.get_num_threads(),
    )


def triton_version() -> str:
    """Triton's version, or an empty string without it."""
    try:
        import triton
    except ImportError:
        return ""
    return triton.__version__


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def cache_folder() -> Path:
    """The folder of stored configurations: STREAMTOK_CACHE, else the user's cache folder.

    For a user without a home (a container's uid) it is a path that cannot be written.
    """
    if base := os.environ.get("STREAMTOK_CACHE"):
        return Path(base)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "streamtok"
    try:
        return Path.home() / ".cache/streamtok"
    except RuntimeError:
        return Path(os.devnull) / "streamtok"


def stored_path(machine: EngineConfiguration) -> Path:
    """The path of the stored configuration for one model, kind of device and frame size."""
    height, width = machine.size
    return cache_folder() / "engine" / f"{machine.fingerprint}-{machine.device}-{height}x{width}.json"


def load_stored(machine: EngineConfiguration) -> tuple[EngineConfiguration | None, list[str]]:
    """The stored configuration that holds on `machine`, or None and the reasons."""
    path = stored_path(machine)
    try:
        if not path.exists():
            return None, ["none is stored"]
        stored = EngineConfiguration.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return None, [f"{path} cannot be read: {error}"]
    differences = stored.find_differences(machine)
    return (None, differences) if differences else (stored, [])


def store(configuration: EngineConfiguration) -> Path:
    """Write the configuration to its file, replaced atomically; returns the path.

    OSError if the cache cannot be written.
    """
    path = stored_path(configuration)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(configuration.to_dict(), indent=1) + "\n")
    temporary.replace(path)
    return path
