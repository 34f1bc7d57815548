"""When the images of a folder were taken: from a timestamps file, from their names, or from a given rate.

Timestamps files, looked for in the folder, in its parent if the images lie in `data/`, and (odometry layouts) beside:
`timestamps.txt`, `times.txt`, `data.csv`, `<folder>.txt`. A line holds a time, a time and a file name (either order,
spaces or comma between), or a date with a clock time as KITTI writes it. Lines that start with # are comments.
Numbers: with a point seconds; without one seconds, ms, us or ns by their size (up to 11, 14, 17 or more digits).
"""

from __future__ import annotations

import re
from calendar import timegm
from decimal import Decimal, InvalidOperation
from pathlib import Path
from time import strptime

DATE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d+))?")
TIME_IN_NAME = re.compile(r"(?<!\d)(\d{16,19}|1\d{12}|\d{9,10}\.\d{3,9})$")
FILE_NAMES = ("timestamps.txt", "times.txt", "data.csv")


def time_ns(text: str) -> int:
    """A time as people write it into timestamps files, in ns; raises ValueError."""
    text = text.strip()
    date = DATE.fullmatch(text)
    if date:
        seconds = timegm(strptime(f"{date[1]} {date[2]}", "%Y-%m-%d %H:%M:%S"))
        return seconds * 10**9 + int((date[3] or "0")[:9].ljust(9, "0"))
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no time: expected a number or 2011-09-26 13:02:25.964389445") from None
    if not value.is_finite():
        raise ValueError(f"{text!r} is no time")
    digits = 0 if "." in text or "e" in text.lower() else len(text.lstrip("+-"))
    unit = 10**9 if digits <= 11 else 10**6 if digits <= 14 else 10**3 if digits <= 17 else 1
    return int((value * unit).to_integral_value())


def times_in_names(names: list[str]) -> list[int] | None:
    """Times at the end of file names without suffix (nuScenes, EuRoC, TUM), in ns; None unless all have one."""
    found = [TIME_IN_NAME.search(name) for name in names]
    return [time_ns(match[1]) for match in found if match] if found and all(found) else None


def find_times_file(folder: Path) -> Path | None:
    """The timestamps file that belongs to a folder of images, if there is one."""
    places = [folder / name for name in FILE_NAMES]
    if folder.name == "data":
        places += [folder.parent / name for name in FILE_NAMES]
    places += [folder.parent / f"{folder.name}.txt", folder.parent / "times.txt"]
    return next((path for path in places if path.is_file()), None)


def read_times(path: Path) -> list[tuple[int, str | None]]:
    """(time in ns, file name or None) of each line; ValueError names the line that cannot be read."""
    result: list[tuple[int, str | None]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            result.append(_parse(line))
        except ValueError as error:
            if number == 1 and not any(character.isdigit() for character in line):
                continue  # the heading of a table
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not result:
        raise ValueError(f"{path} holds no times")
    return result


def _parse(line: str) -> tuple[int, str | None]:
    if DATE.fullmatch(line):
        return time_ns(line), None
    parts = [part for part in re.split(r"[,;\s]+", line) if part]
    if len(parts) == 1:
        return time_ns(parts[0]), None
    first, second = parts[:2]
    if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", first):
        return time_ns(first), second
    return time_ns(second), first
