"""What the outermost boxes of an MP4 or MOV file show to be missing (ISO/IEC 14496-12)."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_BOXES = 1000
FRAGMENT = re.compile(rb"moof.{4}mfhd", re.DOTALL)  # the head of one
MOST_SEARCHED = 1 << 26  # bytes behind zeros, which may fill up gigabytes


def find_missing(target: str) -> str:
    """What an MP4 or MOV file lacks, in words: its index (the moov box), or the header of a fragment; else nothing."""
    if not Path(target).is_file():  # a pipe cannot be read twice
        return ""
    size = Path(target).stat().st_size
    kinds = [head[4:8] if end <= size else b"" for head, _, end in itertools.islice(_walk_boxes(target), MOST_BOXES)]
    if {b"moov", b"meta"} & {*kinds}:  # HEIC has its own
        return ""
    if b"moof" in kinds[:3]:
        return "a fragment, whose header is another file (of HLS its EXT-X-MAP): cat HEADER FRAGMENTS > whole.mp4"
    missing = "its index (moov) is missing or cut off: it was not closed; untrunc may repair it"
    return missing if b"ftyp" in kinds[:1] else ""


def find_cut_off(path: str, stream: Any) -> tuple[int, str]:
    """How many pictures of a file's index lie behind its end, or 1 for fragments behind a hole; and that in words."""
    size = Path(path).stat().st_size if Path(path).exists() else 0  # of a pipe, or a file deleted meanwhile
    index = getattr(stream, "index_entries", ()) if size else ()  # older PyAV gives no index
    count = sum(entry.pos >= size and not entry.is_discard for entry in index)
    if count:
        return count, f"{count} pictures lie behind the end of the file"
    hole = find_hole(path) if size and stream.container.format.name.startswith("mov") else None
    told = f"zeros overwrite what is at byte {hole}: pictures behind it are not read"
    return (0, "") if hole is None else (1, told)


def find_hole(path: str) -> int | None:
    """Where zeros overwrite what is in the head of a fragment, or a box before other fragments; None if nowhere.

    FFmpeg reports neither, and reads nothing of that fragment, or nothing from there on.
    """
    for head, at, _ in _walk_boxes(path):
        if head[4:] == b"moof" + bytes(8):
            return at
        if not any(head[4:8]):
            with open(path, "rb") as file:
                file.seek(at)
                return at if FRAGMENT.search(file.read(MOST_SEARCHED)) else None
    return None


def _walk_boxes(path: str) -> Iterator[tuple[bytes, int, int]]:
    """The first 16 bytes of each outermost box (size, kind and more), and the file offsets of its start and end."""
    at, size = 0, Path(path).stat().st_size
    with open(path, "rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            end = at + (int.from_bytes(head[8:], "big") if length == 1 else length if length >= 8 else size - at)
            yield head, at, end
            at = max(end, at + 8)
