"""Statistics of recordings: duration, streams, rates, gaps, and use of the codebook."""

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from streamtok.drives.clocks import SAME_BASE_NS
from streamtok.drives.drive import Drive
from streamtok.extras import needs_extra
from streamtok.measures import EvenSample, entropy_bits
from streamtok.times import DAY_NS, find_time_jumps, time_covered, usual_step
from streamtok.types import TokenGroup
from streamtok.wire.header import TokenHeader

MOST_GAPS = 100
MOST_CODES = 1 << 20
PLOT_COLUMNS, PLOT_ROWS = 1500, 512


class StreamTimes:
    """Capture times of one stream, ns, in order of arrival.

    `jumps` are the indices of times after a gap, if the reader has found them; otherwise they follow from the times.
    `set_at` are the indices of times for which the reader found that the clock was set forward.
    """

    def __init__(self, jumps: list[int] | None = None) -> None:
        self.values = array("q")
        self.jumps = jumps
        self.set_at: list[int] = []

    @property
    def seconds(self) -> float:
        """Seconds from the first time to the last; those by which the clock was set do not count."""
        return time_covered(np.array(self.values, np.int64), self.set_at) / 1e9

    def gaps(self) -> list[tuple[float, float]]:
        """(seconds from the start, length in seconds) of steps much longer than the usual one, and of steps back."""
        times = np.array(self.values, np.int64)
        after = np.flatnonzero(find_time_jumps(times)).tolist() if self.jumps is None else self.jumps
        return [((times[i - 1] - times[0]).item() / 1e9, (times[i] - times[i - 1]).item() / 1e9) for i in after if i]

    def report(self) -> dict[str, Any]:
        gaps, step_s = self.gaps(), usual_step(np.array(self.values, np.int64)) / 1e9
        return {
            "seconds": round(self.seconds, 3),
            "frames_per_second": round(1 / step_s, 3) if step_s > 0 else 0.0,
            "time_gaps": [[round(at, 3), round(step, 3)] for at, step in gaps[:MOST_GAPS]],
            "time_gap_count": len(gaps),
        }


class DriveTime:
    """The time of a drive, `now`, ns since its first image, as its cameras' images come.

    `behind` says how far cameras' clocks are behind a common one, ns. A camera's time counts on from `now` where its
    clock was set, back or by over a day, and if it begins over a minute before `now`, or over a day after it.
    """

    def __init__(self, behind: Mapping[str, int] | None = None) -> None:
        self.now = 0
        self._behind = behind or {}
        self._shared: int | None = None  # offset of the first camera, ns
        self._seen: dict[str, tuple[int, int]] = {}  # latest time and offset by camera

    def see(self, stream: str, times: Sequence[int]) -> int:
        """Take the times of a camera's next images; returns `now`."""
        for time_ns in (time_ns + self._behind.get(stream, 0) for time_ns in times):
            shared = self.now - time_ns if self._shared is None else self._shared
            earliest = self.now - shared - SAME_BASE_NS  # of a camera that begins
            last, offset = self._seen.get(stream, (earliest, shared))
            if not 0 <= time_ns - last <= DAY_NS:
                offset = self.now - time_ns
            self._shared, self._seen[stream] = shared, (time_ns, offset)
            self.now = max(self.now, time_ns + offset)
        return self.now


class TokenSurvey:
    """Collects statistics of one stream's groups (`add`) for `report`, and a bounded number of grids for `plot_tokens`.

    `codes` is the size of the codebook, 0 for a continuous stream.
    """

    def __init__(self, codes: int) -> None:
        self.codes = codes
        self.times = StreamTimes()
        self.counts: Counter[str] = Counter()
        self.grid: tuple[int, ...] = ()
        self.hold = 0.0  # sum over groups
        self.usage = np.zeros(codes if 0 < codes <= MOST_CODES else 0, np.int64)
        self.columns = EvenSample[tuple[int, np.ndarray, float]](2 * PLOT_COLUMNS)
        self._last: np.ndarray | None = None

    def add(self, group: TokenGroup | TokenHeader, tokens: np.ndarray, nbytes: int, lost: int = 0) -> None:
        """Add one grid and the facts of its group.

        `nbytes` is the size of its payload, `lost` the number of messages missing before it.
        """
        self.times.values.extend(group.capture_ns)
        self.grid, self.hold = tokens.shape, self.hold + (group.hold or 0.0)
        self.counts.update(groups=1, frames=len(group.frame_ids), keyframes=int(group.keyframe))
        self.counts.update(dropped=group.dropped, repeated=group.repeated, lost=lost, bytes=nbytes)
        self.counts.update(gaps=int(group.dropped > 0 or lost > 0))
        if len(self.usage) and tokens.dtype.kind == "u":  # the latent of a continuous model has no codes
            self.usage += np.bincount(tokens.ravel(), minlength=len(self.usage))[: len(self.usage)]
        self._keep_column(group.capture_ns[-1], tokens)

    def report(self) -> dict[str, Any]:
        """Plain values: counts, seconds, rates per second, gaps [(at, seconds)].

        Discrete streams add the number of codes in use, their entropy, and the codebook's bits, per token.
        """
        seconds = self.times.seconds
        result: dict[str, Any] = {**self.counts, "grid": list(self.grid), **self.times.report()}
        result["bits_per_second"] = round(self.counts["bytes"] * 8 / seconds) if seconds else 0
        result["hold_margin"] = round(self.hold / max(1, self.counts["groups"]), 4)
        if len(self.usage) and self.usage.sum():
            result |= {"codes": self.codes, "codes_used": int((self.usage > 0).sum())}
            result["entropy_bits_per_token"] = round(entropy_bits(self.usage), 3)
            result["bits_per_token"] = round(math.log2(self.codes), 3)
        return result

    def _keep_column(self, time_ns: int, tokens: np.ndarray) -> None:
        changed = float("nan")
        if self._last is not None and self._last.shape == tokens.shape:
            changed = float((self._last != tokens).mean())
        self._last = tokens
        flat = tokens.reshape(-1)
        rows = flat[np.linspace(0, flat.size - 1, min(flat.size, PLOT_ROWS)).astype(np.int64)]
        self.columns.add((time_ns, rows.astype(np.float32), changed))


def survey_frames(drive: Drive, progress: bool = False) -> dict[str, dict[str, Any]]:
    """Per camera: seconds, rate, gaps, and `Drive.account`; with `progress`, a bar on a terminal."""
    times = {name: StreamTimes([]) for name in drive.streams}
    turns = dict.fromkeys(drive.streams, 0)
    for item in tqdm(drive.items(), "read", unit="image", disable=None if progress else True):
        seen = times[item.stream]
        if seen.jumps is not None and (item.missing or item.turn != turns[item.stream]):
            seen.jumps.append(len(seen.values))
        if item.was_set:
            seen.set_at.append(len(seen.values))
        turns[item.stream] = item.turn
        seen.values.append(item.capture_ns)
        drive.load(item)  # only its decoder knows whether a picture can be read
    account = drive.account()
    return {name: {**seen.report(), **account[name]} for name, seen in times.items()}


def plot_tokens(surveys: dict[str, TokenSurvey], path: str | Path) -> None:
    """Draw tokens over time as a PNG.

    The rows of each stream are the cells of its grid, the columns its groups. Below is the share of tokens that changed
    from one group to the next.
    """
    with needs_extra("the plot", "plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    shown = {name: survey for name, survey in surveys.items() if survey.columns.kept}
    if not shown:
        raise ValueError("there are no tokens to plot")
    figure = Figure(figsize=(12, 3.6 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * len(shown), 1, squeeze=False, height_ratios=[3, 1] * len(shown))[:, 0]
    for (name, survey), top, below in zip(shown.items(), axes[::2], axes[1::2], strict=True):
        kept = survey.columns.kept
        width = max(column.size for _, column, _ in kept)
        columns = [column for _, column, _ in kept if column.size == width]
        seconds = [(at - kept[0][0]) / 1e9 for at, column, _ in kept if column.size == width]
        changed = [share for _, column, share in kept if column.size == width]
        span = (seconds[0], max(seconds[-1], seconds[0] + 1e-3))
        top.imshow(np.stack(columns, 1), aspect="auto", interpolation="nearest", cmap="turbo", extent=(*span, width, 0))
        top.set(title=f"{name}: {survey.counts['groups']} groups of {list(survey.grid)} tokens", ylabel="place")
        below.plot(seconds, changed, linewidth=0.8)
        below.set(xlim=span, ylim=(0, 1), xlabel="seconds", ylabel="changed")
    figure.savefig(path, dpi=100)
