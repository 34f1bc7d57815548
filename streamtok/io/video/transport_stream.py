"""Find the pictures of an MPEG transport stream file that lost packets have damaged (ISO/IEC 13818-1, 2.4.3).

FFmpeg's demuxer marks the picture that it is assembling when it notices a loss, and its parser moves the mark to
another one. The packets show more. Each has a continuity counter, and the last one of a picture has stuffing. So a
picture before a loss is known to be complete.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SYNC, SIZE = 0x47, 188
ERROR = 0x80  # in a packet's second byte: the receiver could not correct it
SIZES = (SIZE, 192, 204)  # plain, with a time before each packet (M2TS), with a checksum after it
CHUNK = 1 << 16  # packets
IN_A_ROW = 5  # sync bytes at the same distance that are trusted
REACH = (IN_A_ROW - 1) * max(SIZES)
HEAD = 32  # first bytes, which are equal only in a duplicate packet
COUNTED = 16  # the counter's modulus
PCR_BYTES = 7  # of an adaptation field that holds a clock and no stuffing


class Losses(NamedTuple):
    """File offsets, bytes, of `touched` (damaged) pictures, and of those before which packets are `missing`."""

    touched: set[int]
    missing: set[int]


class FoundLosses:
    """Says of the packets of a transport stream file, in their order, what `Losses` were found."""

    def __init__(self, losses: Losses) -> None:
        self._losses, self._in_order = losses, sorted(losses.touched)
        self._place: int | None = None  # of the last packet, in bytes; packets inside a PES packet have none

    def see(self, packet: Any) -> tuple[bool, bool]:
        """Whether packets are missing before this one, and whether it is damaged itself."""
        last, self._place = self._place, self._place if packet.pos is None else packet.pos
        missing = packet.pos in self._losses.missing
        if last is not None and self._place is not None:  # a touched picture between the two did not come
            missing |= bisect_right(self._in_order, last) < bisect_left(self._in_order, self._place)
        return missing, packet.size > 0 and self._place in self._losses.touched


class MarkedLosses:
    """Says of packets what the demuxer marks; with `late` a mark concerns the next packet, too."""

    def __init__(self, late: bool) -> None:
        self._late, self._was_marked = late, False

    def see(self, packet: Any) -> tuple[bool, bool]:
        """As `FoundLosses` has it."""
        damaged = packet.is_corrupt or (self._late and self._was_marked)
        self._was_marked = packet.is_corrupt
        return False, damaged


class Head(NamedTuple):
    """The header of a packet with payload, at the file offset `place`; `data` are its first bytes."""

    place: int
    begins: bool  # a picture begins in it
    counter: int  # of packets, modulo COUNTED
    restarts: bool  # it says that the counter may jump here
    broken: bool
    stuffed: bool  # the last one of a picture is
    follows_hole: bool  # bytes are missing before it that may be any number of packets
    data: bytes


def find_losses(path: Path, pid: int) -> Losses:
    """Read the packets of one elementary stream of a transport stream file; see `Losses`."""
    losses, start = Losses(set(), set()), -1  # the place where the picture of a packet begins
    before: Head | None = None
    for packet in _read_heads(path, pid):
        if before and packet.data == before.data:  # a copy, which is allowed (2.4.3.3); FFmpeg takes it for another one
            losses.touched.update([start, packet.place] if packet.begins else [start])
            continue
        jumps = before and packet.counter != (before.counter + 1) % COUNTED and not packet.restarts
        lost = packet.follows_hole or jumps
        if lost and before and not (packet.begins and before.stuffed):
            losses.touched.add(start)
        if packet.begins:
            start = packet.place
            if lost:
                losses.missing.add(start)
        if packet.broken:
            losses.touched.add(start)
        before = packet
    if before and not before.stuffed:  # the file may be cut off here: nothing shows that its last picture is whole
        losses.touched.add(start)
    return losses


def _read_heads(path: Path, pid: int) -> Iterator[Head]:
    hole = False
    for places, heads, skipped in _read_packets(path):
        hole |= skipped >= COUNTED * SIZE
        pids = (heads[:, 1].astype(int) & 0x1F) << 8 | heads[:, 2]
        mine = (pids == pid) & (heads[:, 3] & 0x10 > 0)
        heads = heads[mine]
        flags = np.where((heads[:, 3] & 0x20 > 0) & (heads[:, 4] > 0), heads[:, 5], 0)  # of an adaptation field
        stuffed = (heads[:, 3] & 0x20 > 0) & (heads[:, 4] > np.where(flags & 0x10, PCR_BYTES, 1))
        begins, broken, restarts = heads[:, 1] & 0x40 > 0, heads[:, 1] & ERROR > 0, flags & 0x80 > 0
        follows_hole = hole & (np.arange(len(heads)) == 0)
        hole = hole and not len(heads)
        data = np.ascontiguousarray(heads).view(f"V{HEAD}").ravel()
        columns = places[mine], begins, heads[:, 3] & 15, restarts, broken, stuffed, follows_hole, data
        yield from map(Head._make, zip(*map(np.ndarray.tolist, columns), strict=True))


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
        yield at + SIZE - size + size * np.arange(good), heads, skipped  # as FFmpeg counts, by a packet's end
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
