"""What a training run is told: frozen dataclasses read from YAML; unknown keys are errors that list the known ones."""

import dataclasses
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from streamtok.names import nearest
from streamtok.settings.errors import SettingsError


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and how batches are cut from them. Sizes are in pixels, fractions in 0..1."""

    paths: tuple[str, ...] = ()  # folders, files or synthetic:HxW@FPS?seed=S specifications
    holdout: tuple[str, ...] = ()  # names (or beginnings of names) of clips kept for validation
    scales: tuple[int, ...] = (192, 256, 320, 384)  # short sides stored; a repeated one is drawn more often
    max_frames: int = 400  # per video, all of them in memory; of a longer one so many, in stretches spread over it
    stretch: int = 100  # frames in a row of these at least, and as many as the longest clip of a phase needs
    image_fraction: float = 0.0  # of the steps: batches of single frames
    strides: tuple[int, ...] = (1, 2)  # frames from one to the next
    flip: float = 0.5
    reverse: float = 0.15  # of the clips run backwards in time
    still: float = 0.0  # of the clips are one frame held
    pan: float = 0.0  # of the clips drift sideways, up to pan_speed pixels a frame
    pan_speed: int = 4
    brightness: float = 0.15  # gain in 1 - b .. 1 + b, offset in -b .. b of half the range
    threads: int = 0  # decoding threads; 0: one per core

    def __post_init__(self):
        for name in ("image_fraction", "flip", "reverse", "still", "pan", "brightness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name} must be in 0..1, got {getattr(self, name)}")
        if not self.scales or min(self.scales) < 16:
            raise ValueError(f"data.scales must be short sides of 16 pixels or more, got {self.scales}")
        if min(self.max_frames, self.stretch) < 1:
            raise ValueError(
                f"data.max_frames and data.stretch must be 1 or more, got {self.max_frames}, {self.stretch}"
            )
        if not self.strides or min(self.strides) < 1:
            raise ValueError(f"data.strides must be 1 or more, got {self.strides}")


@dataclass(frozen=True)
class PhaseConfig:
    """One stretch of the schedule: clips of `frames` frames until that fraction of the run is done."""

    until: float = 1.0
    frames: int = 9
    crop: int = 128
    batch: int = 4
    lr_scale: float = 1.0
    carry: float = 0.0  # probability that a clip goes on in the next step, from the detached state
    max_segments: int = 8  # of one clip, when it is carried on
    losses: dict[str, float] | None = None  # instead of the run's

    def __post_init__(self):
        if not 0 < self.until <= 1:
            raise ValueError(f"phase until must be in 0..1 (a fraction of the run), got {self.until}")
        if min(self.frames, self.crop, self.batch, self.max_segments) < 1:
            raise ValueError(f"phase frames, crop, batch and max_segments must be 1 or more, got {self}")
        if not 0 <= self.carry < 1:
            raise ValueError(f"phase carry must be in 0..1 (1 excluded), got {self.carry}")


@dataclass(frozen=True)
class OptimizerConfig:
    """Muon for hidden convolution weights, AdamW for the rest."""

    muon_lr: float = 2e-3
    muon_momentum: float = 0.95
    adamw_lr: float = 2e-3
    adamw_betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    clip: float = 1.0  # largest gradient norm
    warmup: int = 100  # steps
    final_lr: float = 0.0  # of the peak, at the end of the cosine
    ema: float = 0.997


@dataclass(frozen=True)
class AdversaryConfig:
    """The discriminator of the adversarial loss, used once its weight in `losses` is above 0."""

    width: int = 32
    lr: float = 2e-4
    r1: float = 0.0  # weight of the gradient penalty; 0: spectral norm alone
    max_weight: float = 1e3  # limit of the adaptive weight


@dataclass(frozen=True)
class TrainConfig:
    """A whole run; `steps` or `max_seconds` ends it, whichever is nearer its end."""

    model: str = "nano"
    model_overrides: dict[str, Any] = field(default_factory=dict)
    init: str | None = None  # checkpoint to start the weights from
    out: str = "out/train"
    seed: int = 0
    steps: int = 100_000
    max_seconds: float | None = None
    device: str = "auto"
    dtype: str = "bfloat16"  # autocast; "float32" for none
    compile: bool = False  # of the norms, with their activations
    cuda_graph: bool = False
    deterministic: bool = False
    reference_noise: float = 0.0  # predictive models: std in units of -1..1
    losses: dict[str, float] = field(default_factory=lambda: {"l1": 1.0, "mse": 2.0, "correlation": 0.05})
    backbone: str | None = None  # weights file for the perceptual and gram losses: VGG-19 or MobileNetV2
    flow_network: str | None = None  # TorchScript file for the flow loss; without one, OpenCV's DIS flow
    data: DataConfig = field(default_factory=DataConfig)
    phases: tuple[PhaseConfig, ...] = (PhaseConfig(),)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    log_every: int = 50
    save_every: int = 1000
    sample_every: int = 1000
    sample_lines: int = 256
    sample_frames: int = 17

    def __post_init__(self):
        if self.dtype not in ("bfloat16", "float32"):
            raise ValueError(f"dtype must be bfloat16 or float32, got {self.dtype!r}")
        if self.steps < 1:
            raise ValueError(f"steps must be 1 or more, got {self.steps}")
        ends = [phase.until for phase in self.phases]
        if not ends or ends != sorted(ends) or ends[-1] != 1:
            raise ValueError(f"the phases' until must rise and end at 1.0, got {ends}")

    def phase_at(self, progress: float) -> int:
        """The index of the phase at `progress` (0..1)."""
        return next((i for i, phase in enumerate(self.phases) if progress < phase.until), len(self.phases) - 1)

    def weights_at(self, phase: int) -> dict[str, float]:
        """The loss weights of a phase."""
        own = self.phases[phase].losses
        return self.losses if own is None else own


def build(cls: type, table: dict[str, Any], where: str = "") -> Any:
    """A dataclass from a mapping, nested ones too; ValueError names an unknown key and what was known."""
    if not isinstance(table, dict):
        raise ValueError(f"{where or 'the config'} must be a mapping, got {table!r}")
    hints, known = typing.get_type_hints(cls), [f.name for f in fields(cls)]
    for key in table:
        if key not in known:
            raise ValueError(f"unknown key {where}{key}; {nearest(str(key), known)}")
    return cls(**{key: _value(hints[key], value, f"{where}{key}") for key, value in table.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, f"{where}.")
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, got {value!r}")
        return tuple(_value(typing.get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        return _number(value, where)  # YAML reads 2e-3 as a string
    if isinstance(hint, type) and not isinstance(value, hint):
        raise ValueError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def _number(value: int | str, where: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{where} must be a number, got {value!r}") from None


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read a YAML file, put `overrides` (dotted keys) over it and check it; SettingsError says what is wrong."""
    from streamtok.settings.yaml_file import put, read_yaml

    values, _ = read_yaml(path)
    for key, value in (overrides or {}).items():
        put(values, key, value)
    try:
        return build(TrainConfig, values)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error
