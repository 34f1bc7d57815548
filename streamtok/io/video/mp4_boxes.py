"""What the outermost boxes of an MP4 or MOV file show to be missing (ISO/IEC 14496-12)."""

import itertools
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_BOXES = 1000


def lacks_index(target: str) -> bool:
    """Whether a target is an MP4 or MOV file whose index (the moov box) is missing or cut off."""
    if not Path(target).is_file():  # a pipe cannot be read twice
        return False
    size = Path(target).stat().st_size
    kinds = [kind if end <= size else b"" for kind, _, end in itertools.islice(_walk_boxes(target), MOST_BOXES)]
    return b"ftyp" in kinds[:1] and not {b"moov", b"meta"} & {*kinds}  # HEIC has its own


def find_cut_off(path: str, stream: Any) -> tuple[int, str]:
    """How many pictures of a file's index lie behind its end, or 1 for fragments behind a hole; and that in words."""
    size = Path(path).stat().st_size if Path(path).exists() else 0  # of a pipe, or a file deleted meanwhile
    index = getattr(stream, "index_entries", ()) if size else ()  # older PyAV gives no index
    count = sum(entry.pos >= size and not entry.is_discard for entry in index)
    if count:
        return count, f"{count} pictures lie behind the end of the file"
    hole = find_hole(path) if size and stream.container.format.name.startswith("mov") else None
    return (0, "") if hole is None else (1, f"zeros overwrite what is at byte {hole}: nothing behind it is read")


def find_hole(path: str) -> int | None:
    """Where zeros overwrite a box before others of fragments, at which FFmpeg silently ends; None if nowhere."""
    hole = next((at for kind, at, _ in _walk_boxes(path) if not any(kind)), None)
    if hole is None:
        return None
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return hole if data.find(b"moof", hole) >= 0 else None


def _walk_boxes(path: str) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each outermost box, and the file offsets of its start and end."""
    at, size = 0, Path(path).stat().st_size
    with open(path, "rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            end = at + (int.from_bytes(head[8:], "big") if length == 1 else length if length >= 8 else size - at)
            yield kind, at, end
            at = max(end, at + 8)
