"""Which pictures of an MPEG transport stream file lost packets have touched (ISO/IEC 13818-1, 2.4.3).

A demuxer marks the picture that it is putting together when it notices, and a parser moves the marks to another one.
The packets themselves say more. Each counts on, and the last one of a picture is filled up with stuffing, so that a
picture before a loss is known to be whole.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

SYNC, SIZE = 0x47, 188
ERROR = 0x80  # in a packet's second byte: the receiver could not correct it
SIZES = (SIZE, 192, 204)  # with a time before each packet (M2TS), with a checksum behind it
CHUNK = 1 << 16  # packets
IN_A_ROW = 5  # marks of packets that are believed
REACH = (IN_A_ROW - 1) * max(SIZES)
HEAD = 32  # bytes that tell a packet from one that is sent twice
COUNTED, UNKNOWN = 16, -2  # to which packets count, and a counter behind bytes that may have been so many
PCR_BYTES = 7  # of an adaptation field that holds a clock and no stuffing


@dataclass
class Losses:
    """Where in a file, in bytes, pictures begin that are `touched`, and those before which packets are `missing`."""

    touched: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)

    def hide_picture(self, last: int | None, place: int | None) -> bool:
        """Whether a picture is touched that begins between two that came one after the other: it did not come."""
        if last is None or place is None:
            return False
        return bisect_right(self._in_order, last) < bisect_left(self._in_order, place)

    @cached_property
    def _in_order(self) -> list[int]:
        return sorted(self.touched)


def find_losses(path: Path, pid: int) -> Losses:
    """Read the packets of one elementary stream of a transport stream file; see `Losses`."""
    losses = Losses()
    start, counter, stuffed, last = -1, -1, True, b""
    for places, heads, skipped in _read_packets(path):
        counter = UNKNOWN if skipped >= COUNTED * SIZE else counter
        mine = (heads[:, 1].astype(int) & 0x1F) << 8 | heads[:, 2]
        for place, row in zip(places[mine == pid].tolist(), heads[mine == pid], strict=True):
            head = row.tobytes()
            begins, control, count = bool(head[1] & 0x40), head[3] >> 4 & 3, head[3] & 15
            if not control & 1:  # no payload
                continue
            if head == last:  # sent twice, as it may be (2.4.3.3); FFmpeg takes it for another one
                losses.touched |= {start, place} if begins else {start}
                continue
            jumps = counter >= 0 and count != (counter + 1) % COUNTED
            jumps = counter == UNKNOWN or (jumps and not (control & 2 and head[4] and head[5] & 0x80))
            counter, last = count, head
            if jumps and not (begins and stuffed):
                losses.touched.add(start)
            if jumps and begins:
                losses.missing.add(place)
            start = place if begins else start
            if head[1] & ERROR:
                losses.touched.add(start)
            stuffed = bool(control & 2) and head[4] > (PCR_BYTES if head[5] & 0x10 else 1)
    if not stuffed:  # the file may be cut off here: nothing shows that its last picture is whole
        losses.touched.add(start)
    return losses


def _read_packets(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Places in a file, int64 (N,), of packets, and their first bytes, uint8 (N, HEAD), in order; and how many bytes
    before them are none."""
    data, skipped = np.memmap(path, np.uint8, "r"), 0
    at, size = _find_sync(data, 0)
    while at + SIZE <= len(data):
        count = min(CHUNK, (len(data) - at - SIZE) // size + 1)
        rows = np.lib.stride_tricks.as_strided(data[at:], (count, HEAD), (size, 1))
        bad = np.flatnonzero(rows[:, 0] != SYNC)
        good = int(bad[0]) if len(bad) else count
        heads = np.array(rows[:good])
        if len(bad) and good:  # something is missing, perhaps of the last one
            heads[-1, 1] |= ERROR
        yield at + size * np.arange(good), heads, skipped
        end = at = at + size * good
        if len(bad):
            at, size = _find_sync(data, at)
        skipped = at - end


def _find_sync(data: np.ndarray, at: int) -> tuple[int, int]:
    """Where packets go on, from `at` on, and how far they are apart."""
    for begin in range(at, len(data), CHUNK):
        marks = np.append(data[begin : begin + CHUNK + REACH] == SYNC, np.ones(REACH, bool))  # the file may end sooner
        count = min(CHUNK, len(data) - begin)
        rows = {size: np.all([marks[n * size : n * size + count] for n in range(IN_A_ROW)], axis=0) for size in SIZES}
        found = [(begin + int(row.argmax()), size) for size, row in rows.items() if row.any()]
        if found:
            return min(found)
    return len(data), SIZE
