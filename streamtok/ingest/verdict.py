"""The verdict of `Lane.judge` on a frame, and the reasons for which frames are dropped."""

from dataclasses import dataclass
from typing import Literal

Because = Literal["resize", "restart", "gap", "batch", "keyframe"]
Reason = Literal["missed", "behind", "cut", "nonfinite", "tail", "budget"]
"""Why a frame is in no group: it never came from the camera, the encoder was behind, its epoch ended before its group
was full, its latent was not finite, its stream ended, or a bitrate had to be kept."""


@dataclass(frozen=True)
class Verdict:
    """The role of a frame: `because` says why an epoch starts with it, empty if it continues the epoch.

    `lost` is how many frames are missing just before it.
    """

    because: tuple[Because, ...] = ()
    lost: int = 0
