"""Token files and recordings with known content, for the tests of datasets and exports."""

import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamtok.tokens.tokenfile_writer import TokenFileWriter
from streamtok.types import TokenGroup

GRID = (3, 4)
FRAME_NS = 33_000_000
LEVELS = [8, 8, 8, 5, 5, 5]


def use_workers(count: int) -> dict[str, Any]:
    """Arguments of a DataLoader. Its workers are forked from a process without threads: one that is forked here while
    another test's thread holds a lock would wait for it for ever."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "streamtok.data"])
    return {"num_workers": count, "multiprocessing_context": context} if count else {}


def make_groups(lengths: Sequence[int], stream: str = "front", seed: int = 0, first_ns: int = 0) -> list[TokenGroup]:
    """Epochs of so many groups; between two of them some frames are lost, except where the length is negative."""
    rng = np.random.default_rng(seed)
    groups, frame_id = [], 0
    for epoch, length in enumerate(lengths):
        lost = 3 if epoch and length > 0 else 0
        frame_id += lost
        for index in range(abs(length)):
            ids = list(range(frame_id, frame_id + (1 if index == 0 else 4)))
            frame_id = ids[-1] + 1
            groups.append(
                TokenGroup(
                    stream=stream,
                    tokens=rng.integers(0, 64_000, GRID).astype(np.uint16),
                    keyframe=index == 0,
                    epoch=epoch,
                    frame_ids=ids,
                    capture_ns=[first_ns + FRAME_NS * each for each in ids],
                    dropped=lost if index == 0 else 0,
                    repeated=0,
                    encode_ns=1000,
                    image_size=(24, 32),
                )
            )
    return groups


def write_token_file(path: Path, groups: list[TokenGroup], tokenizer: str = "ab" * 8, **more: Any) -> Path:
    """A token file as `streamtok tokenize` writes it."""
    meta = more | {
        "tokenizer": tokenizer,
        "stream": groups[0].stream,
        "levels": LEVELS,
        "fps": 30.0,
        "clock": "capture",
    }
    with TokenFileWriter(path, meta | {"image_size": (24, 32), "source_rect": (0, 0, 24, 32)}) as writer:
        for group in groups:
            writer.write(group)
    return path


def write_recording(path: Path, streams: dict[str, list[TokenGroup]], closed: bool = True) -> Path:
    """A recording as `streamtok record` writes it, messages of all streams in order of time."""
    pytest.importorskip("mcap")
    from streamtok.recording.writer import RecordingWriter
    from streamtok.wire.message import Info, TokenHeader, compute_checksum

    writer = RecordingWriter(path, {"tokenizer": "ab" * 8})
    common: dict[str, Any] = {
        "session": "0" * 31 + "1",
        "tokenizer": "ab" * 8,
        "grid": list(GRID),
        "dtype": "uint16",
        "levels": LEVELS,
        "image_size": [24, 32],
    }
    messages = []
    for stream, groups in streams.items():
        writer.add_stream(stream, Info(stream=stream, temporal_compression=4, **common), 10**18)
        for seq, group in enumerate(groups):
            names = ("epoch", "keyframe", "frame_ids", "capture_ns", "dropped", "repeated", "encode_ns")
            payload = group.tokens.tobytes()
            header = TokenHeader(
                stream=stream,
                seq=seq,
                publish_ns=group.capture_ns[-1] + 5000,
                compression="none",
                checksum=compute_checksum(payload),
                **common,
                **{name: getattr(group, name) for name in names},
            )
            messages.append((group.capture_ns[-1], header, payload))
    for _, header, payload in sorted(messages, key=lambda message: message[0]):
        writer.write_tokens(header, payload)
    writer.flush()
    writer.close() if closed else writer.abandon()
    return path


META = {"tokenizer": "00ff" * 8, "image_size": (48, 64), "source_rect": (0, 0, 48, 64), "fps": 30.0, "stream": "front"}


def group_of(index: int, tokens: np.ndarray, frames: int = 4, **changes) -> TokenGroup:
    first = 0 if index == 0 else 1 + 4 * (index - 1)
    ids = [first] if index == 0 else list(range(first, first + frames))
    values = {
        "stream": "front",
        "tokens": tokens,
        "keyframe": index == 0,
        "epoch": 0,
        "frame_ids": ids,
        "capture_ns": [33_333_333 * i for i in ids],
        "dropped": 0,
        "repeated": 0 if index == 0 else 4 - frames,
        "encode_ns": 123,
        "image_size": (48, 64),
    }
    return TokenGroup(**(values | changes))


def write_grids(path: Path, grids: list[np.ndarray]) -> list[TokenGroup]:
    groups = [group_of(i, grid) for i, grid in enumerate(grids)]
    with TokenFileWriter(path, META) as writer:
        for each in groups:
            writer.write(each)
    return groups


def random_grids(count: int, shape=(6, 8), dtype=np.uint16, seed=0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 60_000, shape).astype(dtype) for _ in range(count)]
