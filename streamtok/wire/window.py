"""The rolling window of several cameras' tokens as one tensor, the input of a policy or a world model."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamtok.times import USUAL_STEPS, find_nearest, find_reach
from streamtok.wire.message import TokenMessage

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class WindowView:
    """A snapshot of a window, newest step last.

    `tokens` (cameras, N, *grid) are int32 indices, or float16 latents. `valid` (cameras, N) is bool; where it is False
    the tokens are zero. `capture_ns` (cameras, N) int64 is the capture time of each grid's newest frame, zero where not
    valid. All are torch tensors that share no memory with the window.
    """

    tokens: "torch.Tensor"
    valid: "torch.Tensor"
    capture_ns: "torch.Tensor"


@dataclass
class _Row:
    """The grids of one camera since its row restarted, each with its capture time (ns)."""

    grids: deque[tuple[int, np.ndarray]]
    steps: deque[int] = field(default_factory=lambda: deque(maxlen=USUAL_STEPS))  # ns, also those before a restart
    epoch: tuple[str, int] | None = None
    form: tuple[tuple[int, ...], np.dtype] | None = None  # shape and dtype of the newest message
    joined: tuple[tuple[int, ...], np.dtype] | None = None  # those of the newest message that entered the window

    @property
    def newest(self) -> int:
        return self.grids[-1][0]


@dataclass
class TokenWindow:
    """The last `length` token grids per camera, aligned by capture time.

    `push` every message; `read` whenever the policy runs. The rules:

    - A camera's row restarts (empties) when its epoch or session changes or a message of it was lost. So a row only
      ever holds consecutive groups of one epoch. Messages that are not `decodable` are left out. With
      `across_epochs` a keyframe that follows without a loss or a dropped frame continues the row.
    - All cameras share one grid shape and dtype. If a camera changes its grid, a new window of that grid starts after
      two messages in a row with it. The other cameras join when they change too, and are not valid until then.
    - Steps follow the leading camera: of those that are alive, the one with the longest row (the first in `cameras`
      among equals). A camera is alive while its newest grid is at most `max_age_ns` older than the newest of all.
    - The last step is the newest of the leading camera that every alive camera has reached, within `max_skew_ns`. So
      the window waits for a slower camera as long as it is alive.
    - Another camera fills a step with its grid nearest in capture time, if within `max_skew_ns`; else the step is not
      valid for it. By default that is a little over half the usual step of the camera's latest grids, at most
      `max_age_ns`, as in `streamtok.data.TokenDataset`. So every camera that delivers fills every step, whatever its
      rate and wherever its groups begin.
    """

    cameras: Sequence[str]
    length: int
    max_skew_ns: int | None = None
    max_age_ns: int = 1_000_000_000
    across_epochs: bool = False
    _rows: dict[str, _Row] = field(default_factory=dict, init=False)
    _form: tuple[tuple[int, ...], np.dtype] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.length < 1 or not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(
                f"window of length {self.length} over cameras {list(self.cameras)}, expected a length of 1 or more "
                "and one or more different names"
            )
        # A camera that is ahead of the slowest one must still hold the window's last steps.
        self._rows = {camera: _Row(deque(maxlen=4 * self.length + 64)) for camera in self.cameras}

    def push(self, message: TokenMessage) -> bool:
        """Take one message; returns whether it entered the window: not if it is of another stream or undecodable.

        A camera may change its grid later. Raises ValueError if the first message of a camera differs in shape or dtype
        from the other cameras', as all share one tensor.
        """
        row = self._rows.get(message.stream)
        if row is None or not self._fits(row, message):
            return False
        header = message.header
        epoch = (header.session, header.epoch)
        continues = epoch == row.epoch or (self.across_epochs and self._follows(row, message))
        of_use = message.decodable and not message.unreadable
        if not of_use or message.lost or not continues:
            row.grids.clear()
        if not of_use:
            return False
        row.epoch = epoch
        if row.grids:
            row.steps.append(message.capture_ns - row.newest)
        row.grids.append((message.capture_ns, message.tokens.astype(_form_of(message)[1])))
        return True

    def read(self, device: "torch.device | str | None" = None) -> WindowView:
        """The window as it is now; raises ValueError before the first message, when the grid is unknown."""
        import torch

        if self._form is None:
            raise ValueError(f"no message of {', '.join(self.cameras)} yet; push one before reading the window")
        shape, dtype = self._form
        tokens = np.zeros((len(self.cameras), self.length, *shape), dtype)
        times = np.zeros((len(self.cameras), self.length), np.int64)
        valid = np.zeros((len(self.cameras), self.length), bool)
        steps = self._steps()
        for number, camera in enumerate(self.cameras):
            row = self._rows[camera]
            for step, index in enumerate(self._nearest(row, steps), self.length - len(steps)):
                if index >= 0:
                    times[number, step], tokens[number, step] = row.grids[index]
                    valid[number, step] = True
        return WindowView(*(torch.from_numpy(array).to(device) for array in (tokens, valid, times)))

    def __len__(self) -> int:
        """The number of steps with a grid, 0 to `length`."""
        return len(self._steps())

    def _steps(self) -> list[int]:
        """Capture times of the window's steps, oldest first."""
        filled = [row for row in self._rows.values() if row.grids]
        if not filled:
            return []
        newest = max(row.newest for row in filled)
        alive = [row for row in filled if newest - row.newest <= self.max_age_ns]
        leading = max(alive, key=lambda row: min(len(row.grids), self.length))
        reached = min(row.newest + self._skew(row) for row in alive)
        return [time_ns for time_ns, _ in leading.grids if time_ns <= reached][-self.length :]

    def _nearest(self, row: _Row, steps: list[int]) -> list[int]:
        """The index of the row's grid nearest in time to each step, -1 if none is within the skew."""
        if not row.grids:
            return [-1] * len(steps)
        times = np.array([time_ns for time_ns, _ in row.grids])
        return find_nearest(times, np.array(steps, np.int64), self._skew(row)).tolist()

    def _skew(self, row: _Row) -> int:
        return min(find_reach(row.steps), self.max_age_ns) if self.max_skew_ns is None else self.max_skew_ns

    def _follows(self, row: _Row, message: TokenMessage) -> bool:
        header = message.header
        return row.epoch is not None and row.epoch[0] == header.session and header.dropped == 0

    def _fits(self, row: _Row, message: TokenMessage) -> bool:
        """Whether a message has the window's grid; the second of a camera with another grid makes that the window's."""
        form, before = _form_of(message), row.form
        row.form = form
        if form == self._form:
            row.joined = form
            return True
        since = message.capture_ns - self.max_age_ns
        others = any(other.grids and other.newest >= since for other in self._rows.values() if other is not row)
        if others and row.joined is None:
            shape, dtype = self._form or ((), None)
            raise ValueError(
                f"{message.stream} sends grids {list(form[0])} {form[1]}, the window holds {list(shape)} {dtype}; give "
                "all cameras of a window the same size and model, or use one window each"
            )
        row.grids.clear()
        if others and (before != form or row.joined == form):
            return False
        self._form = row.joined = form
        for stale in self._rows.values():
            stale.grids.clear()
        return True


def _form_of(message: TokenMessage) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and dtype of a message's grid in the window."""
    shape = tuple(message.header.grid) if message.grid is None else message.grid.shape
    return shape, np.dtype(np.float16 if message.header.dtype == "float16" else np.int32)
