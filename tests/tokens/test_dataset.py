"""TokenDataset: windows stop at gaps, every grid is seen once, random access is the sequential content."""

import os
import pickle
import resource
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from streamtok.data import IterableTokenDataset, TokenDataset
from tests.kit.tokens import use_workers

KINDS = ["tokens", "recording"]


def content(groups):
    return np.stack([group.tokens for group in groups]).astype(np.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_random_access_agrees_with_sequential(store, groups_of, kind):
    groups = groups_of([40])
    data = TokenDataset(store(kind, groups), window=8)
    want = content(groups)
    assert len(data) == 5
    for index in np.random.default_rng(0).permutation(5):
        item = data[int(index)]
        np.testing.assert_array_equal(item["tokens"].numpy(), want[8 * index : 8 * index + 8])
        assert item["mask"].all()
        assert item["capture_ns"].tolist() == [g.capture_ns[-1] for g in groups[8 * index : 8 * index + 8]]
        assert item["keyframe"].tolist() == [g.keyframe for g in groups[8 * index : 8 * index + 8]]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    window=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_windows_stop_at_gaps_and_miss_nothing(tmp_path_factory, request, kind, lengths, window, seed):
    groups = request.getfixturevalue("groups_of")(lengths, seed=seed)
    folder = tmp_path_factory.mktemp("windows")
    if kind == "tokens":
        path = request.getfixturevalue("token_file")(folder / "a.safetensors", groups)
    else:
        path = request.getfixturevalue("recording")(folder / "a.mcap", {"front": groups})
    epoch_of = {group.capture_ns[-1]: group.epoch for group in groups}
    seen = Counter()
    data = TokenDataset(path, window=window)
    for index in range(len(data)):
        item = data[index]
        times = item["capture_ns"][item["mask"]].tolist()
        assert len({epoch_of[time] for time in times}) == 1
        # What is valid is a beginning of the window; the rest is zero.
        assert item["mask"].tolist() == sorted(item["mask"].tolist(), reverse=True)
        assert not item["tokens"][~item["mask"]].any()
        seen.update(times)
    assert set(seen.values()) == {1}
    if kind == "tokens":
        assert len(seen) == len(groups)


def test_a_gap_that_times_do_not_show_is_masked(recording, groups_of, tmp_path):
    """A lost frame that leaves no jump in time: only the headers tell, when the window is read."""
    groups = groups_of([20])
    shifted = [
        g if i < 9 else type(g)(**g.__dict__ | {"frame_ids": [each + 1 for each in g.frame_ids]})
        for i, g in enumerate(groups)
    ]
    path = recording(tmp_path / "a.mcap", {"front": shifted})
    data = TokenDataset(path, window=10)
    assert data[0]["mask"].tolist() == [True] * 9 + [False]
    assert data[1]["mask"].all()
    cut = TokenDataset(path, window=10, gaps="cut")
    assert [int(cut[index]["mask"].sum()) for index in range(len(cut))] == [9, 10, 1]
    np.testing.assert_array_equal(cut[1]["tokens"].numpy(), content(groups[9:19]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_without_loss_is_no_gap(store, groups_of, kind):
    data = TokenDataset(store(kind, groups_of([6, -6])), window=12)
    if kind == "tokens":
        assert data[0]["mask"].all()
        assert data[0]["epoch"].tolist() == [0] * 6 + [1] * 6
    assert data[0]["keyframe"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_stride_overlaps_windows(store, groups_of, kind):
    groups = groups_of([10])
    data = TokenDataset(store(kind, groups), window=4, stride=2)
    assert len(data) == 4
    np.testing.assert_array_equal(data[3]["tokens"].numpy(), content(groups)[6:10])


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_workers_see_each_window_exactly_once(tmp_path, token_file, groups_of, workers, shuffle):
    for number in range(3):
        token_file(tmp_path / f"{number}.safetensors", groups_of([50 + number, 7], stream=f"s{number}", seed=number))
    data = TokenDataset(tmp_path, window=2)
    want = Counter(bytes(data[i]["tokens"].numpy()) for i in range(len(data)))
    for source, options in [
        (data, {"shuffle": shuffle}),
        (IterableTokenDataset(data, shuffle=shuffle, buffer=16), {}),
    ]:
        loader = DataLoader(source, batch_size=4, **use_workers(workers), **options)
        assert Counter(bytes(tokens.numpy()) for batch in loader for tokens in batch["tokens"]) == want


def test_shuffling_differs_by_epoch_and_repeats_by_seed(store, groups_of):
    data = TokenDataset(store("tokens", groups_of([400])), window=2)

    def order(seed, epoch, shuffle=True):
        stream = IterableTokenDataset(data, shuffle=shuffle, seed=seed, buffer=16)
        stream.set_epoch(epoch)
        return [int(item["capture_ns"][0]) for item in stream]

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(*each)) for each in [(1, 0), (1, 1), (2, 0)]}) == 3
    assert order(1, 0, shuffle=False) == sorted(order(1, 0))


def test_workers_that_persist_see_the_epoch(store, groups_of):
    data = IterableTokenDataset(TokenDataset(store("tokens", groups_of([80])), window=2), shuffle=True)
    loader = DataLoader(data, batch_size=None, persistent_workers=True, prefetch_factor=1, **use_workers(1))
    orders = []
    for epoch in range(2):
        data.set_epoch(epoch)
        orders.append([int(item["capture_ns"][0]) for item in loader])
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_ranks_share_the_windows(store, groups_of):
    """Each window once, and as many for each rank: DistributedDataParallel waits for ever for a rank that has fewer."""
    data = TokenDataset(store("tokens", groups_of([500])), window=2)
    for shuffle in (False, True):
        parts = [
            [int(item["capture_ns"][0]) for item in IterableTokenDataset(data, shuffle=shuffle, rank=rank, world=3)]
            for rank in range(3)
        ]
        assert [len(part) for part in parts] == [83] * 3
        assert len({time for part in parts for time in part}) == 249
    with pytest.raises(ValueError, match="rank is 3"):
        IterableTokenDataset(data, rank=3, world=3)


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_are_aligned_in_time(tmp_path, token_file, recording, groups_of, kind):
    late = 5_000_000
    streams = {"front": groups_of([30], "front"), "left": groups_of([30], "left", seed=1, first_ns=late)}
    del streams["left"][12]
    if kind == "recording":
        path = recording(tmp_path / "a.mcap", streams)
    else:
        path = tmp_path
        for name, groups in streams.items():
            token_file(tmp_path / f"{name}.safetensors", groups)
    data = TokenDataset(path, window=10, streams=["front", "left"], align=True)
    assert len(data) == 3
    item = data[0]
    assert item["tokens"].shape == (2, 10, 3, 4)
    assert item["stream"] == ["front", "left"]
    assert ((item["capture_ns"][1] - item["capture_ns"][0]) == late).all()
    # The grid that left lacks is masked, and so is what follows it in this window, but not the next window.
    assert data[1]["mask"].tolist() == [[True] * 10, [True, True] + [False] * 8]
    assert data[2]["mask"].all()


def test_other_tokenizers_do_not_mix(tmp_path, token_file, groups_of):
    token_file(tmp_path / "a.safetensors", groups_of([3]))
    token_file(tmp_path / "b.safetensors", groups_of([3]), tokenizer="cd" * 8)
    with pytest.raises(ValueError, match=r"b\.safetensors.*tokenizer cdcd"):
        TokenDataset(tmp_path)


def test_grids_of_several_sizes_say_what_makes_them_one(tmp_path, token_file, groups_of):
    token_file(tmp_path / "a.safetensors", groups_of([3]))
    wide = [replace(group, tokens=np.hstack([group.tokens] * 2)) for group in groups_of([3])]
    token_file(tmp_path / "b.safetensors", wide)
    with pytest.raises(ValueError, match=r"b\.safetensors.*grid \(3, 8\) against \(3, 4\): tokenize .* one --size"):
        TokenDataset(tmp_path)


def test_mistakes_are_told(tmp_path, token_file, recording, groups_of):
    with pytest.raises(FileNotFoundError, match="no token files"):
        TokenDataset(tmp_path)
    for name in ("notes.txt", "r.mcap.zst"):
        (tmp_path / name).write_bytes(b"no tokens")
        with pytest.raises(FileNotFoundError, match="no token files"):
            TokenDataset(tmp_path / name)
    path = token_file(tmp_path / "a.safetensors", groups_of([3]))
    assert len(TokenDataset(path.rename(tmp_path / "a.tokens"), window=1)) == 3
    path = token_file(tmp_path / "a.safetensors", groups_of([3]))
    with pytest.raises(ValueError, match="window is 0"):
        TokenDataset(path, window=0)
    with pytest.raises(ValueError, match="gaps is 'split': expected 'mask' or 'cut'"):
        TokenDataset(path, gaps="split")
    with pytest.raises(ValueError, match="align needs streams"):
        TokenDataset(path, align=True)
    with pytest.raises(ValueError, match="lacks the streams"):
        TokenDataset(path, streams=["front", "rear"], align=True)
    with pytest.raises(ValueError, match="none of the streams"):
        TokenDataset(path, streams=["rear"])
    empty = recording(tmp_path / "empty.mcap", {"front": []})
    with pytest.raises(ValueError, match=r"empty\.mcap holds no tokens: `streamtok info"):
        TokenDataset(empty)
    with pytest.raises(ValueError, match="streamtok repair"):
        TokenDataset(recording(tmp_path / "cut.mcap", {"front": groups_of([50])}, closed=False))


def test_only_the_wanted_part_of_a_recording_is_read(tmp_path, recording, groups_of, monkeypatch):
    """Opening reads no chunk at all, a window reads the chunks that it lies in."""
    from streamtok.recording import mcap_records

    path = recording(tmp_path / "a.mcap", {"front": groups_of([8_000])})
    opened = []
    real = mcap_records.decompress_chunk
    monkeypatch.setattr(mcap_records, "decompress_chunk", lambda *args: opened.append(1) or real(*args))
    data = TokenDataset(path, window=4)
    assert not opened
    data[1500]
    assert len(opened) == 1
    data[0], data[len(data) - 1]
    assert len(opened) == 3  # the file has several chunks, and each of these windows lies in one of its own


@pytest.mark.parametrize("kind", KINDS)
def test_spawned_workers_get_paths_not_tokens(store, groups_of, kind):
    data = TokenDataset(store(kind, groups_of([300])), window=4)
    data[0]
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[7]["tokens"], data[7]["tokens"])


def test_more_token_files_than_a_process_may_open(tmp_path, token_file, groups_of):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in range(20):
        token_file(tmp_path / f"{number}.safetensors", groups_of([4], stream=f"s{number}", seed=number))
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 10, limits[1]))
    try:
        data = TokenDataset(tmp_path, window=4)
        assert all(item["mask"].all() for item in map(data.__getitem__, range(20)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_file_that_is_written_anew_is_refused(tmp_path, token_file, groups_of):
    data = TokenDataset(token_file(tmp_path / "a.safetensors", groups_of([4])), window=4)
    token_file(tmp_path / "a.safetensors", groups_of([3]))
    with pytest.raises(ValueError, match="open the dataset again"):
        data[0]


def test_memory_does_not_grow_with_the_number_of_recordings(tmp_path, recording, groups_of):
    """Chunks that were unpacked are kept for a few windows, not for each stream of each recording."""
    from streamtok.recording import mcap_file

    paths = [recording(tmp_path / f"{n}.mcap", {"front": groups_of([9], seed=n)}) for n in range(3)]
    data = TokenDataset(paths, window=3)
    mcap_file._cached_records.cache_clear()
    assert [data[index]["mask"].all() for index in range(9)]
    assert mcap_file._cached_records.cache_info().currsize == 3
    assert mcap_file._cached_records.cache_info().maxsize == mcap_file.CACHED_CHUNKS


def test_what_is_being_tokenized_is_left_out(tmp_path, token_file, groups_of):
    for folder in ("drive", ".drive.host.1.partial"):
        (tmp_path / folder).mkdir()
        token_file(tmp_path / folder / "front.safetensors", groups_of([4]))
    assert len(TokenDataset(tmp_path, window=4)) == 1


def test_files_of_one_stream_in_a_folder_are_drives(tmp_path, token_file, groups_of):
    """So `streamtok encode` of several videos leaves them; beside other streams that says nothing."""
    for seed, name in enumerate("ab"):
        token_file(tmp_path / f"{name}.safetensors", groups_of([4], seed=seed))
    data = TokenDataset(tmp_path, window=4, streams=["front"], align=True)
    assert len(data) == 2
    assert not torch.equal(data[0]["tokens"], data[1]["tokens"])
    token_file(tmp_path / "c.safetensors", groups_of([4], stream="rear"))
    assert len(TokenDataset(tmp_path, window=4)) == 3
    with pytest.raises(ValueError, match=r"a\.safetensors and .*b\.safetensors both hold 'front'"):
        TokenDataset(tmp_path, window=4, streams=["front", "rear"], align=True)


def test_cameras_of_several_machines_are_aligned_in_utc(tmp_path, token_file, groups_of):
    """Each machine's capture clock started at another time; the offset to UTC is in the file."""
    offsets = {"front": 10**18, "left": 10**18 - 10**12}
    for stream, offset in offsets.items():
        groups = groups_of([8], stream, first_ns=10**18 - offset)
        token_file(tmp_path / f"{stream}.safetensors", groups, clock_offset_ns=offset)
    item = TokenDataset(tmp_path, window=8, streams=["front", "left"], align=True)[0]
    assert item["mask"].all()
    assert (item["time_ns"][0] == item["time_ns"][1]).all()
    assert (item["capture_ns"][1] - item["capture_ns"][0] == 10**12).all()


def test_a_slower_camera_fills_every_step_as_in_a_live_window(tmp_path, token_file, groups_of):
    """Unless the tolerance is given: half a step of the first is what it was."""
    fast = groups_of([16], "front")
    slow = [replace(g, capture_ns=[3 * time for time in g.capture_ns]) for g in groups_of([6], "left", seed=1)]
    for groups in (fast, slow):
        token_file(tmp_path / f"{groups[0].stream}.safetensors", groups)
    given = {"window": 14, "streams": ["front", "left"], "align": True}
    item = TokenDataset(tmp_path, **given)[0]
    assert item["mask"].all()
    assert item["epoch"][1].unique().tolist() == [0]
    step = int(item["time_ns"][0].diff().max())
    apart = (item["time_ns"][1] - item["time_ns"][0]).abs()
    assert apart.max() > step // 2
    mask = TokenDataset(tmp_path, tolerance_ns=step // 2, **given)[0]["mask"]
    assert mask[1].tolist() == (apart <= step // 2).tolist()


def test_a_faster_camera_that_resets_without_loss_is_aligned_throughout(tmp_path, token_file, groups_of):
    """Of a camera at twice the rate every other grid is read, so that a reset may lie between two: that is no gap."""
    slow = [replace(g, capture_ns=[2 * time for time in g.capture_ns]) for g in groups_of([12], "front")]
    fast = groups_of([6, -5, -5, -7], "left", seed=1)
    for groups in (slow, fast):
        token_file(tmp_path / f"{groups[0].stream}.safetensors", groups)
    item = TokenDataset(tmp_path, window=9, streams=["front", "left"], align=True)[0]
    assert item["mask"].all()
    assert item["epoch"][1].unique().tolist() == [0, 1, 2, 3]
    lost = groups_of([6, 5, -5, -7], "left", seed=1)
    token_file(tmp_path / "left.safetensors", lost)
    mask = TokenDataset(tmp_path, window=9, streams=["front", "left"], align=True)[0]["mask"]
    assert mask[0].all()
    assert mask[1].tolist() == sorted(mask[1].tolist(), reverse=True)
    assert 2 < int(mask[1].sum()) < 5


def test_a_file_without_a_whole_header_is_refused_by_name(tmp_path, token_file, groups_of):
    """Training on less without a word is worse; whole files of something else are passed over."""
    whole = token_file(tmp_path / "a.safetensors", groups_of([8])).read_bytes()
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt", "by": "another tool"})
    (tmp_path / "folder.safetensors").mkdir()
    assert len(TokenDataset(tmp_path, window=8)) == 1
    broken = tmp_path / "b.safetensors"
    for content in (whole[:100], b"", b"garbage" * 20, whole.replace(b'"fps":"30.0"', b'"fps":"30.x"')):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=str(broken)):
            TokenDataset(tmp_path, window=8)
