"""Measures artefacts that PSNR misses: flicker along motion, pulsing at groups, visibility of the token grid."""

import cv2
import numpy as np
from torch import Tensor

_CONSISTENCY = (0.01, 0.5)  # forward-backward check for occlusions (Sundaram, Brox and Keutzer 2010)


def warping_error(original: Tensor, rebuilt: Tensor) -> np.ndarray:
    """Change from each frame to the next along the original's motion: two (T, 3, H, W) in 0..1 -> (3, T - 1).

    The rows are mean absolute changes in grey levels of 255, over pixels that stay visible:

    - of the reconstruction, against its previous frame warped by OpenCV's DIS flow of the original
    - of the original, likewise: caused by flow errors and light only
    - of the coding error (reconstruction minus original): zero for a blurred but steady picture
    """
    pair = ((x.detach().float() * 255).permute(0, 2, 3, 1).cpu().numpy() for x in (original, rebuilt))
    source, other = map(np.ascontiguousarray, pair)  # float32 (T, H, W, 3) in 0..255
    rows = [_pair_errors(source[t - 1 : t + 1], other[t - 1 : t + 1]) for t in range(1, len(source))]
    return np.array(rows, np.float64).reshape(-1, 3).T


def flicker_summary(original: Tensor, rebuilt: Tensor, group: int) -> dict[str, float]:
    """Mean warping errors of a clip, two (T, 3, H, W) in 0..1, and `group_edge_pulse`; empty for a single frame.

    The pulse is the ratio of the coding error's change at the first frame of a group to that at its other frames; 1.0
    if group boundaries are invisible.
    """
    errors = warping_error(original, rebuilt)
    if errors.shape[1] == 0:
        return {}
    out = dict(zip(("warping_error", "warping_error_source", "flicker"), errors.mean(1).tolist(), strict=True))
    change = errors[2, 1:]  # without the change from the keyframe, which is coded as an image
    place = np.arange(2, errors.shape[1] + 1) % group
    if group > 1 and (place == 1).any():
        out["group_edge_pulse"] = float(change[place == 1].mean() / max(change[place != 1].mean(), 1e-9))
    return out


def grid_visibility(original: Tensor, rebuilt: Tensor, period: int = 8) -> float:
    """The ratio of the coding error's gradient at the worst column or row of the token grid to the mean; 1.0: no grid.

    Two (N, 3, H, W) in 0..1. Absolute differences of the error between neighbouring pixels are averaged for each
    position modulo `period`. Block edges or a checkerboard stand out as one position.
    """
    error = (rebuilt.double() - original.double()).mean(1)  # (N, H, W)
    worst = 1.0
    for axis in (1, 2):
        if error.shape[axis] < 2 * period:
            continue
        profile = error.diff(dim=axis).abs().mean(dim=(0, 3 - axis))  # one value per step
        whole = profile[: len(profile) // period * period].reshape(-1, period).mean(0)
        worst = max(worst, (whole.max() / whole.mean().clamp(min=1e-12)).item())
    return worst


def _pair_errors(source: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """One column of `warping_error`, from two frames each, (T, H, W, 3) with T = 2."""
    back, visible = flow_to_previous(source[0], source[1])
    if not visible.any():
        return 0.0, 0.0, 0.0
    moved_source, moved_other = warp(source[0], back), warp(other[0], back)
    changes = (other[1] - moved_other, source[1] - moved_source)
    rebuilt, original, error = (float(np.abs(x)[visible].mean()) for x in (*changes, changes[0] - changes[1]))
    return rebuilt, original, error


def flow_to_previous(previous: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of `current` was: two (H, W, 3) in 0..255 -> flow (H, W, 2) as x, y, and visible (H, W) bool."""
    gray = [cv2.cvtColor(x.round().clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for x in (previous, current)]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    back = flow.calc(gray[1], gray[0], None)  # type: ignore[call-overload]
    forward = flow.calc(gray[0], gray[1], None)  # type: ignore[call-overload]
    returned = warp(forward, back)
    length = (back**2).sum(-1) + (returned**2).sum(-1)
    relative, absolute = _CONSISTENCY
    visible = ((back + returned) ** 2).sum(-1) < relative * length + absolute
    height, width = gray[0].shape
    y, x = np.mgrid[:height, :width]
    inside = (x + back[..., 0] >= 0) & (x + back[..., 0] <= width - 1)
    inside &= (y + back[..., 1] >= 0) & (y + back[..., 1] <= height - 1)
    return back, visible & inside


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Sample `image` (H, W, C) at each pixel's position plus `flow` (H, W, 2), bilinearly; edges repeat."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
