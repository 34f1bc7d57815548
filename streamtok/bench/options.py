"""What a benchmark run measures, in one value that the command fills and every part reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchOptions:
    """What to measure; `streamtok bench --help` says the same of its flags.

    Args:
        size: height and width of the frames that are encoded, in pixels.
        precision: one of `engine.configuration.PRECISIONS`, or "auto" to measure all and choose.
        device: "cpu" or "cuda".
        fps: frames per second of each camera.
        groups: how many groups are timed.
        windows: frames of the stateless windows.
        steady: groups of the steady-state run; 0 leaves it out.
        end_to_end: also measure from capture to a reader.
        compare: compare the precision with float32.
        clip: source of the frames for that comparison; None is a synthetic scene.
        start: measure the start of a node.
        model: name or folder that the model was loaded by; with None a node loads a copy.
    """

    size: tuple[int, int] = (256, 448)
    cameras: int = 1
    precision: str = "auto"
    device: str = "cpu"
    fps: float = 30.0
    groups: int = 50
    windows: tuple[int, ...] = (17, 33, 49)
    steady: int = 0
    end_to_end: bool = False
    compare: bool = True
    clip: str | None = None
    start: bool = False
    model: str | None = None
