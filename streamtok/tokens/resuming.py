"""Resumes training in the middle of an epoch: no window comes twice, and none is lost.

    data = TokenDataset("tokens/", window=16)
    sampler = ResumableSampler(data, seed=0, rank=rank, world=world)
    loader = DataLoader(data, batch_size=8, sampler=sampler, num_workers=2)
    if resume:
        sampler.load_state_dict(torch.load("sampler.pt"))
    for epoch in range(sampler.epoch, epochs):
        sampler.set_epoch(epoch)
        taken = sampler.taken  # 0, or the position in the saved epoch
        for batch in loader:
            taken += len(batch["tokens"])
            ...  # train, and sometimes:
            torch.save(sampler.state_dict(taken), "sampler.pt")

torchdata's StatefulDataLoader counts by itself, with this sampler or an IterableTokenDataset.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

from torch.utils.data import DistributedSampler

KEYS = {"epoch", "taken", "order"}


class Resumable(ABC):
    """An order of windows for each epoch, which can be resumed in the middle of one."""

    epoch: int
    _place = 0, 0  # an epoch, and how many of its windows were given out
    _loaded: Mapping[str, Any] | None = None

    @property
    def taken(self) -> int:
        """How many windows of this epoch were given out."""
        epoch, taken = self._place
        return taken if epoch == self.epoch else 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; call it before iterating."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch as plain values, for a checkpoint."""
        return {"epoch": self.epoch, "taken": self.taken, "order": self._describe_order()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration give the rest of the epoch; ValueError for a state of another order."""
        self._check(state)
        self.set_epoch(state["epoch"])
        self._place, self._loaded = (state["epoch"], state["taken"]), state

    @abstractmethod
    def _describe_order(self) -> dict[str, Any]:
        """What decides the windows and their order, apart from the epoch."""

    def _resume(self, indices: Iterable[int]) -> Iterator[int]:
        """Begin an iteration: yield those of the epoch's indices that were not given out yet, and count them."""
        state, self._loaded = self._loaded, None
        if state is not None:
            self._check(state)  # again, for it may have been loaded in another process
        start = self.taken if state is not None else 0
        self._place = self.epoch, start
        return self._count(itertools.islice(indices, start, None), self.epoch)

    def _count(self, indices: Iterator[int], epoch: int) -> Iterator[int]:
        for taken, index in enumerate(indices, self.taken + 1):
            self._place = epoch, taken
            yield index

    def _check(self, state: Mapping[str, Any]) -> None:
        if set(state) != KEYS:
            raise ValueError(f"a state with {sorted(state)}: expected {sorted(KEYS)}, as state_dict gives them")
        saved, current = state["order"], self._describe_order()
        other = [name for name in current if saved.get(name) != current[name]]
        if other:
            values = ", ".join(f"{name} {saved.get(name)!r} (here {current[name]!r})" for name in other)
            raise ValueError(f"the state was saved with {values}: go on with the same, or begin the epoch anew")


def check_rank(rank: int, world: int) -> None:
    """Raise ValueError unless 0 <= rank < world."""
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of {world}: expected 0 to {world - 1}")


class ResumableSampler(DistributedSampler, Resumable):
    """PyTorch's `DistributedSampler`, also for one process, which can be resumed in the middle of an epoch.

    `dataset` is anything with a length. Each of `world` processes reads an equal share. The remainder, fewer than
    `world` windows, is left out; in shuffled epochs it differs from epoch to epoch. The state is that of one rank.
    """

    def __init__(self, dataset: Sized, *, shuffle: bool = True, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        check_rank(rank, world)
        super().__init__(dataset, world, rank, shuffle, seed, drop_last=True)  # type: ignore[arg-type]
        self._windows = len(dataset)

    def __iter__(self) -> Iterator[int]:
        return self._resume(super().__iter__())

    def state_dict(self, taken: int | None = None) -> dict[str, Any]:
        """The position in the epoch as plain values, for a checkpoint.

        `taken` is how many of its windows came out of the loader. None counts those that the sampler gave out. That is
        the same without workers, and what StatefulDataLoader needs, but workers of a DataLoader prefetch.
        """
        if taken is not None and not 0 <= taken <= len(self):
            raise ValueError(f"taken is {taken}: expected 0 to {len(self)}, the windows of an epoch")
        return super().state_dict() | ({} if taken is None else {"taken": taken})

    def _describe_order(self) -> dict[str, Any]:
        facts = {"windows": self._windows, "shuffle": self.shuffle, "seed": self.seed}
        return facts | {"rank": self.rank, "world": self.num_replicas}
