"""Find the pictures of an MPEG transport stream file that lost packets have damaged (ISO/IEC 13818-1, 2.4.3).

FFmpeg's demuxer marks the picture that it is assembling when it notices a loss, and its parser moves the mark to
another one. The packets show more. Each has a continuity counter, and the last one of a picture has stuffing. So a
picture before a loss is known to be complete.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

SYNC, SIZE = 0x47, 188
ERROR = 0x80  # in a packet's second byte: the receiver could not correct it
SIZES = (SIZE, 192, 204)  # plain, with a time before each packet (M2TS), with a checksum after it
CHUNK = 1 << 16  # packets
IN_A_ROW = 5  # sync bytes at the same distance that are trusted
REACH = (IN_A_ROW - 1) * max(SIZES)
HEAD = 32  # first bytes, which are equal only in a duplicate packet
COUNTED, UNKNOWN = 16, -2  # the counter's modulus; its value after skipped bytes that may have been 16 packets
PCR_BYTES = 7  # of an adaptation field that holds a clock and no stuffing


@dataclass
class Losses:
    """File offsets, bytes, of `touched` (damaged) pictures, and of those before which packets are `missing`."""

    touched: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)

    def hide_picture(self, last: int | None, place: int | None) -> bool:
        """Whether a touched picture begins between two successive pictures at `last` and `place`: it did not come."""
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
            if head == last:  # a duplicate, which is allowed (2.4.3.3); FFmpeg takes it for another packet
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
    """Runs of packets: their file offsets, int64 (N,), first bytes, uint8 (N, HEAD), and the number of bytes skipped
    before."""
    data, skipped = np.memmap(path, np.uint8, "r"), 0
    at, size = _find_sync(data, 0)
    while at + SIZE <= len(data):
        count = min(CHUNK, (len(data) - at - SIZE) // size + 1)
        rows = np.lib.stride_tricks.as_strided(data[at:], (count, HEAD), (size, 1))
        bad = np.flatnonzero(rows[:, 0] != SYNC)
        good = int(bad[0]) if len(bad) else count
        heads = np.array(rows[:good])
        if len(bad) and good:  # bytes are missing, perhaps of the last packet
            heads[-1, 1] |= ERROR
        yield at + size * np.arange(good), heads, skipped
        end = at = at + size * good
        if len(bad):
            at, size = _find_sync(data, at)
        skipped = at - end


def _find_sync(data: np.ndarray, at: int) -> tuple[int, int]:
    """(offset, size) of the next run of packets at or after `at`."""
    for begin in range(at, len(data), CHUNK):
        marks = np.append(data[begin : begin + CHUNK + REACH] == SYNC, np.ones(REACH, bool))  # the file may end sooner
        count = min(CHUNK, len(data) - begin)
        rows = {size: np.all([marks[n * size : n * size + count] for n in range(IN_A_ROW)], axis=0) for size in SIZES}
        found = [(begin + int(row.argmax()), size) for size, row in rows.items() if row.any()]
        if found:
            return min(found)
    return len(data), SIZE
