"""The training losses by name, before weighting; one with weight 0, or without a weight, is not computed.

Videos are (B, 3, T, H, W) in -1..1; every loss is a float32 scalar.
"""

from torch import Tensor

from streamtok.model import Reconstruction
from streamtok.settings.errors import SettingsError
from streamtok.training.config import QUANTIZER_LOSSES


def measure_pulse(error: Tensor, group: int) -> Tensor:
    """Mean absolute change of the error from the last frame of a group to the first of the next, a scalar.

    error (B, 3, T, H, W), in groups of `group` frames. The change after a keyframe is not counted.

    A constant error looks like blur; one that changes at every group boundary is seen as pulsing.
    """
    first = error.shape[2] % group + group
    changes = error[:, :, first::group] - error[:, :, first - 1 : -1 : group]
    return changes.abs().mean() if changes.numel() else changes.sum()


def average_frames(error: Tensor, places: tuple[float, ...]) -> Tensor:
    """The mean of error (B, 3, T, H, W), weighted by a frame's place in its group: `places` has G; a keyframe has 1.

    Without weights all frames count alike. SettingsError if T is neither kG nor 1 + kG.
    """
    frames = error.shape[2]
    if not places or frames == 1:
        return error.mean()
    first, groups = frames % len(places), frames // len(places)
    if first > 1:
        raise SettingsError(f"place_weights are {len(places)}, expected one for each frame of the model's groups")
    means = error.mean((0, 1, 3, 4))
    weighted = [weight * means[first + place :: len(places)].sum() for place, weight in enumerate(places)]
    return (means[:first].sum() + sum(weighted)) / (first + groups * sum(places))


def compute_losses(
    output: Reconstruction, source: Tensor, weights: dict[str, float], group: int, places: tuple[float, ...] = ()
) -> dict[str, Tensor]:
    """The losses by name, scalars, before weighting: pixel losses that have a weight, and the quantizer's.

    `source` (B, 3, T, H, W) in -1..1, in groups of `group` frames; `places` as in `average_frames`.
    """
    error = output.reconstruction.float() - source
    pixels = {
        "l1": lambda: average_frames(error.abs(), places),
        "mse": lambda: average_frames(error.square(), places),
        "pulse": lambda: measure_pulse(error, group),
    }
    found = {name: loss() for name, loss in pixels.items() if weights.get(name)}
    return found | {name: value.float() for name, value in output.losses.items()}


def sum_losses(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The weighted sum, a scalar; quantizer losses that `weights` does not name have their default weight."""
    return sum(
        (weights.get(name, QUANTIZER_LOSSES.get(name, 1.0)) * value for name, value in terms.items()),
        start=next(iter(terms.values())) * 0,
    )
