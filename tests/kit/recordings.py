"""Token messages without a network: headers and grids as a publisher makes them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from streamtok.wire.message import Info, TokenHeader

SESSION = "ab" * 16
GRID = [4, 6]
LEVELS = [8, 8, 8, 5, 5, 5]
CLOCK = (1_000_000_000, 1_700_000_001_000_000_000)


def info(stream: str = "front", session: str = SESSION, **changes) -> Info:
    """What a publisher says of a stream of 4 x 6 tokens."""
    facts = {"tokenizer": "f" * 40, "model": "tiny", "grid": GRID, "dtype": "uint16", "levels": LEVELS}
    facts |= {"image_size": [32, 48], "temporal_compression": 4, "engine": {"device": "cpu", "threads": 1}}
    return Info(stream=stream, session=session, clock=CLOCK, **facts | changes)


def header(seq: int, stream: str = "front", session: str = SESSION) -> tuple[TokenHeader, np.ndarray]:
    """Message `seq`: a keyframe first, then groups of four frames at 100 Hz."""
    tokens = np.random.default_rng(seq).integers(0, 64000, GRID).astype("<u2")
    ids = [0] if seq == 0 else list(range(4 * seq - 3, 4 * seq + 1))
    made = TokenHeader(
        stream=stream,
        session=session,
        epoch=0,
        seq=seq,
        keyframe=seq == 0,
        tokenizer="f" * 40,
        frame_ids=ids,
        capture_ns=[CLOCK[0] + 10_000_000 * number for number in ids],
        dropped=0,
        repeated=0,
        grid=GRID,
        dtype="uint16",
        levels=LEVELS,
        image_size=[32, 48],
        encode_ns=1000,
        compression="none",
        publish_ns=CLOCK[0] + 10_000_000 * ids[-1] + 5000,
        checksum=zlib.crc32(tokens.tobytes()),
    )
    return made, tokens


def messages(count: int, **which) -> Iterator[tuple[TokenHeader, np.ndarray]]:
    """The first `count` messages."""
    return (header(seq, **which) for seq in range(count))
