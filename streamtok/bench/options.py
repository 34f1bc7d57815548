"""The options of a benchmark run, which the command fills and every part reads; without pydantic, for GPU machines."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchOptions:
    """What a benchmark run measures; the flags of `streamtok bench` set these."""

    size: tuple[int, int] = (256, 448)  # (height, width) of the encoded frames in pixels
    cameras: int = 1
    precision: str = "auto"  # or one of `engine.configuration.CHOICES`; "auto" measures all and chooses
    device: str = "cpu"  # or "cuda"
    fps: float = 30.0  # of each camera
    groups: int = 50  # how many are timed
    windows: tuple[int, ...] = (17, 33, 49)  # lengths of the stateless windows in frames
    steady: int = 0  # groups of the steady-state run; 0 leaves it out
    end_to_end: bool = False  # also measure from capture to a reader
    compare: bool = True  # compare the precision with float32
    clip: str | None = None  # source of the frames for that comparison; None is a synthetic scene
    start: bool = False  # measure the start of a node
    model: str | None = None  # name or folder that the model was loaded from; None: nodes load a copy
