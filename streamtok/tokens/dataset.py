"""Windows of consecutive token grids, for training on tokens.

    from torch.utils.data import DataLoader
    from streamtok.data import TokenDataset

    data = TokenDataset("recordings/", window=16)
    for batch in DataLoader(data, batch_size=8, shuffle=True, num_workers=2):
        batch["tokens"], batch["mask"]  # (8, 16, h, w) int32, (8, 16) bool

For training that may be interrupted, replace `shuffle` by a `ResumableSampler` (`streamtok.tokens.resuming`). If a
tokenizer or a node runs in the same process, add `multiprocessing_context="forkserver"`: a worker that is forked while
another thread holds a lock would wait for it for ever.

A window never continues across a gap: from the gap on its mask is False, and the next window starts after it. Opening
reads indexes only; a window reads its own grids. The index of a recording may not show a gap of a few frames. Such a
gap is masked when its window is read, but a new window starts there only with `gaps="cut"`. That reads recordings once
when they are opened. Token files know every gap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from streamtok.times import find_nearest, find_reach
from streamtok.tokens.grids import Grids, Track, select_grids
from streamtok.tokens.resuming import Resumable, check_rank
from streamtok.tokens.tracks import Facts, TokenSource, open_drives, order_by_stream, read_facts

BLOCK = 32  # neighbouring windows that a shuffle keeps together, so that reading stays mostly sequential


@dataclass(frozen=True)
class Series:
    """Tracks that are read together: windows are cut from the first, and the others are aligned with it in time."""

    tracks: list[Track]
    windows: np.ndarray  # (n, 2) int64: the first grid and the end of each window
    reaches: list[int]  # ns within which a grid of each other track belongs to one of the first


class TokenDataset(Dataset):
    """Windows of `window` grids, one every `stride` grids (None: adjacent windows), from token files and recordings.

    By default windows are cut from each stream by itself, and an item holds

        tokens      (N, h, w) int32; (N, C, h, w) float16 of continuous models; 0 where masked
        mask        (N,) bool   False from the first gap (or the end of the drive) on
        keyframe    (N,) bool   True for grids of one frame
        epoch       (N,) int64  increases at every reset of the tokenizer's state
        capture_ns  (N,) int64  time of each grid's last frame, on the clock of the capturing machine
        time_ns     (N,) int64  the same in UTC if the drive was recorded live, else on the clock of its source
        stream, file            names, for looking things up

    With `align`, an item holds all of `streams` at once, on the clock of the first: tokens (S, N, h, w), mask (S, N)
    and so on, `stream` a list. The mask is also False where a camera has no grid within `tolerance_ns`. By default
    that is a little over half the camera's usual step, as in a live `TokenWindow`.

    At gaps that the index of a recording does not show, `gaps="mask"` masks the rest of the window, and "cut" starts a
    new window. With `align`, "cut" applies to the first stream alone; gaps of the others are masked.

    All files must share one `identity`, tokenizer and grid; ValueError names two files that differ.
    """

    def __init__(
        self,
        source: TokenSource,
        window: int = 16,
        stride: int | None = None,
        *,
        streams: Sequence[str] | None = None,
        align: bool = False,
        tolerance_ns: int | None = None,
        gaps: Literal["mask", "cut"] = "mask",
    ) -> None:
        stride = window if stride is None else stride
        if window < 1 or stride < 1:
            raise ValueError(f"window is {window} and stride {stride}: expected 1 grid or more")
        if align and not streams:
            raise ValueError("align needs streams: name the cameras, the one that gives the clock first")
        if gaps not in ("mask", "cut"):
            raise ValueError(f"gaps is {gaps!r}: expected 'mask' or 'cut'")
        self.window, self.stride, self.align = window, stride, align
        drives = open_drives(source, streams, together=align)
        if align:
            together = [order_by_stream(tracks, streams or ()) for tracks in drives]
        else:
            together = [[track] for tracks in drives for track in tracks]
        self.identity = together[0][0].identity
        self._series = []
        for tracks in together:
            breaks = tracks[0].find_gaps() if gaps == "cut" else tracks[0].breaks
            reaches = [find_reach(np.diff(t.times_ns)) if tolerance_ns is None else tolerance_ns for t in tracks[1:]]
            self._series.append(Series(tracks, _cut_windows(breaks, window, stride), reaches))
        self._ends = np.cumsum([len(series.windows) for series in self._series])

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape of a grid: (h, w), or (C, h, w) of continuous models."""
        return tuple(self.identity["grid"])

    @property
    def facts(self) -> Facts:
        """The tokenizer's fingerprint, name and FSQ levels, and a grid's shape and dtype in the files."""
        return read_facts(self._series[0].tracks[0])

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of each FSQ dimension of the tokenizer; empty for other quantizers."""
        return tuple(self._series[0].tracks[0].meta.get("levels", ()))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        index %= len(self)
        at = int(np.searchsorted(self._ends, index, side="right"))
        series = self._series[at]
        first = series.tracks[0]
        start, stop = series.windows[index - int(self._ends[at])]
        items = [self._read_window(first, np.arange(start, stop))]
        if not self.align:
            return items[0] | {"stream": first.stream, "file": str(first.path)}
        times = first.times_ns[start:stop]
        for track, reach in zip(series.tracks[1:], series.reaches, strict=True):
            items.append(self._read_window(track, find_nearest(track.times_ns, times, reach)))
        stacked = {key: torch.stack([item[key] for item in items]) for key in items[0]}
        return stacked | {"stream": [track.stream for track in series.tracks], "file": str(first.path)}

    def _read_window(self, track: Track, wanted: np.ndarray) -> dict[str, torch.Tensor]:
        """Read the grids `wanted` (n,) of a track (-1: none) as one window, masked from the first gap on."""
        present = np.flatnonzero(wanted >= 0)
        grids, unbroken = read_unbroken(track, wanted[present])
        valid = np.zeros(self.window, bool)
        valid[present] = unbroken
        continuous = grids.tokens.dtype == np.float16
        kinds = {"tokens": torch.float16 if continuous else torch.int32, "keyframe": torch.bool}
        item = {"mask": torch.from_numpy(valid)}
        for key in ("tokens", "keyframe", "epoch", "capture_ns", "time_ns"):
            values = getattr(grids, key)
            full = np.zeros((self.window, *values.shape[1:]), np.int32 if values.dtype.kind == "u" else values.dtype)
            full[present] = values
            full[~valid] = 0
            item[key] = torch.from_numpy(full).to(kinds.get(key, torch.int64))
        return item


class IterableTokenDataset(IterableDataset, Resumable):
    """The windows of a `TokenDataset` as a stream, each exactly once with any number of workers.

    With `shuffle`, blocks of neighbouring windows come in random order and are mixed in a buffer of `buffer` windows,
    so that reading stays mostly sequential. `set_epoch` changes the order, also in persistent workers. Each of `world`
    processes reads an equal share, so that none waits for another in the last step. The remainder, fewer than `world`
    windows, is left out; in shuffled epochs it differs from epoch to epoch.

    `state_dict` and `load_state_dict` resume in the middle of an epoch. Every worker has its own state, which
    torchdata's StatefulDataLoader collects and restores; without workers any loader will do.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        *,
        shuffle: bool = False,
        seed: int = 0,
        buffer: int = 256,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        check_rank(rank, world)
        self.dataset, self.shuffle, self.seed, self.buffer = dataset, shuffle, seed, max(1, buffer)
        self.rank, self.world = rank, world
        # In shared memory: persistent workers see the epoch change, and the parent sees how many workers there are.
        self._epoch, self._workers = torch.zeros(2, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:  # type: ignore[override]
        """The epoch that was last set; 0 at first."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; call it before iterating, as with a distributed sampler."""
        self._epoch.fill_(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch of this worker; RuntimeError in the parent of workers, which does not know it."""
        if self._workers and get_worker_info() is None:
            raise RuntimeError(
                f"{int(self._workers)} workers read these windows, and each knows its own place: use the state_dict of "
                "torchdata's StatefulDataLoader, or a TokenDataset with a ResumableSampler"
            )
        return super().state_dict()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._workers.fill_(_find_worker()[1])
        return map(self.dataset.__getitem__, self._resume(self._order_windows()))

    def _order_windows(self) -> Iterator[int]:
        worker, workers = _find_worker()
        firsts = np.arange(0, len(self.dataset), BLOCK)
        if self.shuffle:
            self._random().shuffle(firsts)
        order = (firsts[:, None] + np.arange(BLOCK)).reshape(-1)
        order = order[order < len(self.dataset)]
        share = len(order) // self.world
        mine = order[self.rank * share : (self.rank + 1) * share]
        mine = mine[np.arange(share) // BLOCK % max(1, workers) == worker]
        return self._mix(map(int, mine), self._random(self.rank, worker))

    def _describe_order(self) -> dict[str, Any]:
        worker, workers = _find_worker()
        facts = {name: getattr(self, name) for name in ("shuffle", "seed", "buffer", "rank", "world")}
        return facts | {"windows": len(self.dataset), "worker": worker, "workers": workers}

    def _random(self, *seeds: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, *seeds))

    def _mix(self, indices: Iterator[int], rng: np.random.Generator) -> Iterator[int]:
        if not self.shuffle:
            yield from indices
            return
        buffered: list[int] = []
        for index in indices:
            buffered.append(index)
            if len(buffered) > self.buffer:
                at = int(rng.integers(len(buffered)))
                buffered[at], buffered[-1] = buffered[-1], buffered[at]
                yield buffered.pop()
        rng.shuffle(buffered)
        yield from buffered


def _find_worker() -> tuple[int, int]:
    """(index of this worker, number of workers); (0, 0) outside a loader's workers."""
    worker = get_worker_info()
    return (worker.id, worker.num_workers) if worker else (0, 0)


def read_unbroken(track: Track, wanted: np.ndarray) -> tuple[Grids, np.ndarray]:
    """Read the grids `wanted` (n,) int64, non-decreasing, of a track; returns them and (n,) bool: True up to a gap.

    The grids in between, skipped to align with another camera, are read too, for they show whether there is a gap.
    """
    first, last = (int(wanted[0]), int(wanted[-1])) if len(wanted) else (0, -1)
    grids = track.read(np.arange(first, last + 1))
    gaps = grids.find_gaps()
    gaps[0] = False
    return select_grids(grids, wanted - first), ~np.logical_or.accumulate(gaps)[wanted - first]


def _cut_windows(gaps: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Cut windows from each stretch between `gaps` (n,) bool; returns (first, end) of each, (windows, 2) int64."""
    firsts = np.flatnonzero(gaps)
    starts = []
    for first, end in zip(firsts, [*firsts[1:], len(gaps)], strict=True):
        # Leave out windows that would only repeat the end of an earlier one.
        count = 1 + max(0, -(-(end - first - window) // stride))
        at = first + stride * np.arange(count)
        starts.append(np.stack([at, np.minimum(at + window, end)], 1))
    return np.concatenate(starts)
