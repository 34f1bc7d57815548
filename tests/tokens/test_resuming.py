"""Resuming in the middle of an epoch: what is left comes in the same order, none twice and none lost."""

import pytest
import torch
from torch.utils.data import DataLoader

from streamtok.data import IterableTokenDataset, ResumableSampler, TokenDataset
from tests.kit.tokens import use_workers

BATCH = 4


@pytest.fixture
def data(tmp_path, token_file, groups_of):
    for number in range(3):
        token_file(tmp_path / f"{number}.safetensors", groups_of([41, 10], stream=f"s{number}", seed=number))
    return TokenDataset(tmp_path, window=2)


def loader_of(data, workers=0, kind=DataLoader, **options):
    return kind(data, batch_size=BATCH, **use_workers(workers), **options)


def names(batch):
    return list(zip(batch["stream"], batch["capture_ns"][:, 0].tolist(), strict=True))


def train(data, sampler, workers, epochs, stop=None, path=None):
    """The loop of the module's example: what each step saw; `stop` steps in all, then the state is saved."""
    seen, loader = [], loader_of(data, workers, sampler=sampler)
    for epoch in range(sampler.epoch, epochs):
        sampler.set_epoch(epoch)
        taken = sampler.taken
        for batch in loader:
            taken += len(batch["tokens"])
            seen.append(names(batch))
            if len(seen) == stop:
                torch.save(sampler.state_dict(taken), path)
                return seen
    return seen


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("workers", "then"), [(0, 0), (2, 2), (2, 0)])
def test_training_that_stops_goes_on_where_it_stopped(tmp_path, data, shuffle, workers, then):
    """Also with another number of workers, and after it was stopped twice in one epoch."""

    def new():
        return ResumableSampler(data, shuffle=shuffle, seed=5)

    def loaded():
        sampler = new()
        sampler.load_state_dict(torch.load(tmp_path / "state.pt"))
        return sampler

    whole = train(data, new(), 0, epochs=2)
    assert len(whole) == 2 * -(-len(data) // BATCH)
    parts = train(data, new(), workers, 2, 3, tmp_path / "state.pt")
    parts += train(data, loaded(), then, 2, 5, tmp_path / "state.pt")
    parts += train(data, loaded(), then, 2, 14, tmp_path / "state.pt")  # in the second epoch
    parts += train(data, loaded(), then, 2)
    assert parts == whole
    assert (whole[:20] == whole[20:]) != shuffle


def test_an_epoch_that_was_saved_at_its_end_has_nothing_left(tmp_path, data):
    steps = -(-len(data) // BATCH)
    whole = train(data, ResumableSampler(data), 2, 2)
    parts = train(data, ResumableSampler(data), 2, 2, steps, tmp_path / "state.pt")
    sampler = ResumableSampler(data)
    sampler.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert parts + train(data, sampler, 2, 2) == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_every_rank_goes_on(tmp_path, data, workers):
    seen = []
    for rank in range(2):
        options = {"rank": rank, "world": 2}
        first = train(data, ResumableSampler(data, **options), workers, 1, 4, tmp_path / "state.pt")
        sampler = ResumableSampler(data, **options)
        sampler.load_state_dict(torch.load(tmp_path / "state.pt"))
        rest = train(data, sampler, workers, 1)
        assert first + rest == train(data, ResumableSampler(data, **options), 0, 1)
        seen += [name for batch in first + rest for name in batch]
    assert len(set(seen)) == len(seen) == len(data) // 2 * 2


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stream_of_windows_goes_on(data, shuffle):
    def new():
        stream = IterableTokenDataset(data, shuffle=shuffle, seed=3, buffer=16, rank=1, world=2)
        stream.set_epoch(2)
        return stream

    whole = [names(batch) for batch in loader_of(new())]
    stream = new()
    batches = iter(loader_of(stream))
    first = [names(next(batches)) for _ in range(4)]
    again = IterableTokenDataset(data, shuffle=shuffle, seed=3, buffer=16, rank=1, world=2)
    again.load_state_dict(stream.state_dict())
    assert again.epoch == 2
    assert first + [names(batch) for batch in loader_of(again)] == whole
    assert [names(batch) for batch in loader_of(again)] == whole  # the next pass is whole again


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["stream", "sampler", "plain"])
def test_stateful_data_loader_goes_on(data, kind, workers):
    """torchdata's loader, which keeps the state of every worker: with each of our datasets and the sampler."""
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def new():
        if kind == "stream":
            order = IterableTokenDataset(data, shuffle=True, seed=3, buffer=16)
            return order, loader_of(order, workers, loaders.StatefulDataLoader)
        order = ResumableSampler(data, seed=3)
        options = {"sampler": order} if kind == "sampler" else {"shuffle": True}
        return order, loader_of(data, workers, loaders.StatefulDataLoader, **options)

    order, loader = new()
    order.set_epoch(2)
    batches = iter(loader)
    first = [names(next(batches)) for _ in range(5)]
    state = loader.state_dict()
    rest = [names(batch) for batch in batches]
    order.set_epoch(3)
    after = [names(batch) for batch in loader]
    order, loader = new()
    loader.load_state_dict(state)
    order.set_epoch(2)
    assert [names(batch) for batch in loader] == rest
    order.set_epoch(3)
    again = [names(batch) for batch in loader]
    assert again == after or kind == "plain"
    for epoch in (first + rest, after):
        seen = [name for batch in epoch for name in batch]
        assert len(set(seen)) == len(seen) == len(data)


def test_the_state_of_another_order_is_refused(data):
    state = ResumableSampler(data, seed=1, rank=1, world=2).state_dict()
    for other in ({"seed": 2}, {"shuffle": False}, {"rank": 0}, {"world": 3}):
        sampler = ResumableSampler(data, **{"seed": 1, "rank": 1, "world": 2} | other)
        with pytest.raises(ValueError, match=f"saved with {next(iter(other))} .*go on with the same"):
            sampler.load_state_dict(state)
    with pytest.raises(ValueError, match=f"saved with windows {len(data)} \\(here 9\\)"):
        ResumableSampler(range(9), seed=1, rank=1, world=2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"expected .*'epoch', 'order', 'taken'"):
        ResumableSampler(data).load_state_dict({"epoch": 1})
    with pytest.raises(ValueError, match="taken is 9999: expected 0 to"):
        ResumableSampler(data).state_dict(9999)
    with pytest.raises(ValueError, match="rank is 2 of 2"):
        ResumableSampler(data, rank=2, world=2)


def test_the_place_that_only_workers_know_is_not_guessed(data):
    stream = IterableTokenDataset(data)
    state = stream.state_dict()
    batches = iter(loader_of(stream, 2))
    next(batches)
    with pytest.raises(RuntimeError, match=r"2 workers read these windows.*StatefulDataLoader.*ResumableSampler"):
        stream.state_dict()
    del batches
    stream.load_state_dict(state)
    with pytest.raises(ValueError, match=r"saved with .*workers 0 \(here 2\)"):
        next(iter(loader_of(stream, 2)))
