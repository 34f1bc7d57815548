"""The settings of a training run: a YAML file whose keys are these fields, with `--set` on top.

config = read_settings(TrainConfig, "configs/train_nano.yaml", {"out": "out/nano"})
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from streamtok.settings.fields import Count, Device, Model, Strict, Switch, Whole

Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "bfloat16", "float32"]
ShortSide = Annotated[int, Field(ge=16)]  # in pixels
PIXEL_LOSSES = "l1", "mse", "pulse"
# Auxiliary losses of the bottleneck, with their default weights.
QUANTIZER_LOSSES = {"kl": 1.0, "commitment": 1.0, "entropy_commitment": 1.0, "correlation": 0.05}


def check_losses(weights: dict[str, float]) -> dict[str, float]:
    """Refuse weights of unknown losses."""
    known = {*PIXEL_LOSSES, *QUANTIZER_LOSSES}
    unknown = sorted(weights.keys() - known)
    if unknown:
        raise ValueError(f"unknown losses {unknown}; known: {', '.join(sorted(known))}")
    return weights


LossWeights = Annotated[dict[str, float], AfterValidator(check_losses)]


class DataConfig(Strict):
    """Where clips come from and how batches are cut from them. Sizes are in pixels, fractions in 0..1."""

    paths: tuple[str, ...] = ()  # folders, files, images:DIR?fps=N (one clip) or synthetic:HxW@FPS?seed=S
    # Held out for validation: clips by the beginning of their name, or the last fraction of every video.
    holdout: tuple[str, ...] = ()
    holdout_tail: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # short sides stored; a repeated one is drawn more often
    scales: Annotated[tuple[ShortSide, ...], Field(min_length=1)] = (192, 256, 320, 384)
    max_frames: Count = 400  # per video, held in memory; a longer one gives this many, in stretches spread over it
    stretch: Count = 100  # least consecutive frames per stretch; the longest clip of a phase may need more
    image_fraction: Fraction = 0.0  # of the steps have batches of single frames
    strides: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2)  # in source frames, drawn per batch
    flip: Fraction = 0.5  # of the clips are mirrored
    reverse: Fraction = 0.15  # of the clips run backwards in time
    still: Fraction = 0.0  # of the clips repeat one frame, of a video or an image
    pan: Fraction = 0.0  # of the clips drift, some at up to pan_speed, some at up to a thirtieth of it
    pan_speed: int = 4  # pixels per frame
    brightness: Fraction = 0.15  # gain in 1 - b .. 1 + b, offset in -b .. b of half the range
    threads: Whole = 0  # decoding threads; 0: one per core


class PhaseConfig(Strict):
    """A phase of the schedule, in effect `until` that fraction of the run is done."""

    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    frames: Count = 9
    crop: Count = 128
    batch: Count = 4
    lr_scale: float = 1.0
    # probability that a clip continues in the next step, from the detached state
    carry: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_segments: Count = 8  # steps that a clip may take
    losses: LossWeights | None = None  # replace the run's


class OptimizerConfig(Strict):
    """Muon for hidden convolution weights, AdamW for the rest."""

    muon_lr: float = 2e-3
    muon_momentum: float = 0.95
    adamw_lr: float = 2e-3
    adamw_betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    clip: float = 1.0  # largest gradient norm
    warmup: int = 100  # steps
    final_lr: float = 0.0  # fraction of the peak at the end of the cosine
    ema: float = 0.997  # decay of the averaged weights


class TrainConfig(Strict):
    """A whole run; it ends after `steps` or `max_seconds`, whichever comes first."""

    model: Model = "nano"
    model_overrides: dict[str, Any] = Field(default={})
    init: str | None = None  # checkpoint to start the weights from
    freeze: Literal["encoder"] | None = None  # keep the encoder of init, and so its tokens
    out: str = "out/train"
    seed: int = 0
    steps: Count = 100_000
    max_seconds: float | None = None
    device: Device = "auto"
    dtype: Precision = "auto"  # of the forward pass and of Muon's products; "auto" measures which is faster
    compile: Switch = False  # fuse norms and their activations with torch.compile
    cuda_graph: Switch = False
    deterministic: Switch = False
    reference_noise: float = 0.0  # predictive models: standard deviation on the [-1, 1] scale
    # weights of l1 and mse by a frame's place in its group; without, motion makes the first frame worse than the last
    place_weights: tuple[Annotated[float, Field(gt=0)], ...] = ()
    losses: LossWeights = Field(default={"l1": 1.0, "mse": 2.0, "pulse": 0.5, "correlation": 0.05})
    data: DataConfig = DataConfig()
    phases: Annotated[tuple[PhaseConfig, ...], Field(min_length=1)] = (PhaseConfig(),)
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: int = 50
    save_every: int = 1000
    sample_every: int = 1000
    sample_lines: int = 256
    sample_frames: int = 17

    @field_validator("phases")
    @classmethod
    def check_ends(cls, phases: tuple[PhaseConfig, ...]) -> tuple[PhaseConfig, ...]:
        """Refuse phases that are not in order, or do not reach the end of the run."""
        ends = [phase.until for phase in phases]
        if ends != sorted(ends) or ends[-1] != 1:
            raise ValueError(f"the phases' until must rise and end at 1.0, got {ends}")
        return phases

    def phase_at(self, progress: float) -> int:
        """The index of the phase at `progress` (0..1)."""
        return next((i for i, phase in enumerate(self.phases) if progress < phase.until), len(self.phases) - 1)
