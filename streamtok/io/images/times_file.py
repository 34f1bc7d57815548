"""Find and read the files that hold the times of a folder's pictures; docs/sources.md says what they look like."""

import contextlib
import json
import re
from collections.abc import Collection, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from streamtok.io.images.times import DATE, IS_TIME, Times, read_times
from streamtok.io.suffixes import IMAGE_SUFFIXES

PADDED = re.compile(r"0\d+")
UNIT_IN_BRACKETS = re.compile(r"[\[(].*?[\])]")
UNIT_IN_HEADING = re.compile(r"time\w*[ _]?[\[(_ ](ns|us|ms|s|sec|nsec|usec|msec)\b", re.IGNORECASE)
HAS_NUMBER = re.compile(r"(?:^|[,;\s])[-+]?\d[\d.:eE+-]*(?:[,;\s]|$)")
TIME_COLUMN = re.compile(r"time|stamp|^t(_[num]?s)?$", re.IGNORECASE)
NAME_COLUMN = re.compile(r"file|image|path|name", re.IGNORECASE)
SETTING_COLUMN = re.compile(r"expos|gain|shutter|^iso$", re.IGNORECASE)  # of a camera: numbers, no names
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how such a file begins
FILE_NAMES = ("timestamps.txt", "times.txt", "data.csv", "timestamps.csv", "times.csv", "timestamps.json")


class TimesFile(NamedTuple):
    """A file with times: the column, the file name of each line or None, and the number of each line.

    Blank lines between them count: KITTI leaves a line blank where a picture is missing.
    """

    times: Times
    names: list[str | None]
    numbers: list[int]


def find_times_file(folder: Path) -> Path | None:
    """The times file that belongs to a folder of images, if there is one."""
    places = [folder / name for name in FILE_NAMES]
    if folder.name.partition("_")[0] == "data":  # data_rect of KITTI-360
        places += [folder.parent / name for name in FILE_NAMES]
    places += [folder.parent / f"{folder.name}.txt", folder.parent / "times.txt"]
    return next((path for path in places if path.is_file() and (path.suffix != ".json" or _read_lines(path))), None)


def read_times_file(path: Path, unit: str | None = None, stems: Collection[str] = ()) -> TimesFile:
    """Read a times file of images with these `stems`; ValueError names the file and the line that cannot be read."""
    table = _read_table(path)
    rows, numbers = list(table.rows.values()), table.numbers
    columns = next(filter(None, (_find_columns(line, rows[0]) for line in reversed(table.headings))), None)
    if columns is None and _are_numbered(rows, stems):
        columns, numbers = (1, 2 if min(map(len, rows)) > 2 else None), [int(row[0]) for row in rows]
    texts, names = zip(*(_take_columns(row, columns) for row in rows), strict=True)
    try:
        times = read_times(texts, unit or table.unit, f"file={path}")
    except ValueError as error:
        wrong = next((f", line {n}" for n, text in zip(table.rows, texts, strict=True) if not _is_time(text)), "")
        raise ValueError(f"{path}{wrong}: {error}") from None
    return TimesFile(times, list(names) if _are_names(names, stems) else [None] * len(names), numbers)


class Table(NamedTuple):
    """The lines of a times file: the cells of each row by the number of its line, from 1, and what stands above them.

    `numbers` count the rows from 0, and the blank lines between them unless each row has one.
    """

    rows: dict[int, list[str]]
    numbers: list[int]
    headings: list[str]
    unit: str | None


def _read_table(path: Path) -> Table:
    """Split a times file into headings and rows; ValueError if there are no rows."""
    rows: dict[int, list[str]] = {}
    numbers: list[int] = []
    headings: list[str] = []
    comments: list[str] = []  # the headings, and what stands below
    for number, line in enumerate(_read_lines(path), 1):
        line = line.strip().replace('"', "")
        if line.startswith("#") or (number == 1 and not HAS_NUMBER.search(line) and not DATE.search(line)):
            headings += [] if rows else [line]
            comments.append(line)
        elif line:
            rows[number] = _split_line(line)
            numbers.append(number - len(comments) - 1)
    if not rows:
        raise ValueError(f"{path} holds no times: expected a line for each image, or in JSON one list of numbers")
    if numbers[-1] >= 2 * len(numbers) - 2:  # a blank line after each time is only spacing
        numbers = list(range(len(numbers)))
    units = [named[1].lower().removesuffix("ec") for line in comments if (named := UNIT_IN_HEADING.search(line))]
    return Table(rows, numbers, headings, units[0] if units else None)


def _read_lines(path: Path) -> list[str]:
    """The lines of a text file, or the numbers of a JSON list as written; none if the JSON holds anything else."""
    data = path.read_bytes()
    if path.suffix != ".json":
        return data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig", errors="replace").splitlines()
    try:
        held = json.loads(data, parse_int=Decimal, parse_float=Decimal)
    except (ValueError, RecursionError):
        return []
    is_list = isinstance(held, list) and all(isinstance(one, Decimal) for one in held)
    return [str(one) for one in held] if is_list else []


def _split_line(line: str) -> list[str]:
    """Split a line at semicolons or tabs (then numbers may have decimal commas), else at commas, else at spaces."""
    mark = next((mark for mark in ";\t," if mark in line.rstrip(";\t, ")), None)
    return [line] if DATE.fullmatch(line) else [part.strip().rstrip(";\t, ") for part in line.split(mark)]


def _find_columns(heading: str, row: list[str]) -> tuple[int, int | None] | None:
    """The columns of the time and of the file name (or None) by a table's heading and first row; None without these."""
    names = _split_line(UNIT_IN_BRACKETS.sub("", heading.lstrip("# ")))
    times = [index for index, name in enumerate(names) if TIME_COLUMN.search(name)]
    marked = len(names) > 1 and re.search("[;\t,]", heading)
    is_pair = len(row) == 2 and times == [0] and SETTING_COLUMN.search(names[-1])  # others may be prose
    fits = times and len(row) > times[0] and IS_TIME.fullmatch(row[times[0]])
    if not fits or not (marked or (len(names) == len(row) and (len(row) > 2 or is_pair))):
        return None
    files = [index for index, name in enumerate(names[: len(row)]) if NAME_COLUMN.search(name) and index not in times]
    files += [index for index, text in enumerate(row) if Path(text).suffix.lower() in IMAGE_SUFFIXES]
    return times[0], files[0] if files else None


def _are_numbered(rows: list[list[str]], stems: Collection[str]) -> bool:
    """Whether lines hold a number, which counts them or the files of these stems, a time, and maybe one more number."""
    if not all(len(row) in (2, 3) and row[0].isdecimal() and all(map(IS_TIME.fullmatch, row[1:])) for row in rows):
        return False
    numbers = [int(row[0]) for row in rows]
    named = sum(row[1] in stems or bool(PADDED.fullmatch(row[1])) for row in rows)  # zero-padded as file names are
    counted = {0, 1} | {int(stem) for stem in stems if stem.isdecimal()}
    rising = numbers == sorted(set(numbers)) and numbers[-1] - numbers[0] < 2 * len(numbers)
    return rising and numbers[0] in counted and 2 * named <= len(rows)


def _take_columns(row: list[str], columns: tuple[int, int | None] | None) -> tuple[str, str | None]:
    """(time, file name or None) of a line."""
    if columns is not None and len(row) > max(columns[0], columns[1] or 0):
        text, name = row[columns[0]], "" if columns[1] is None else row[columns[1]]
    else:
        text, name = (*filter(None, row), "", "")[:2]
        if name and not IS_TIME.fullmatch(text):
            text, name = name, text
    return text.replace(",", ".") if IS_TIME.fullmatch(text) else text, name or None


def _are_names(texts: Sequence[str | None], stems: Collection[str]) -> bool:
    """Whether the second column has names. Exposures, which repeat or are decimals, are none; nanoseconds may be."""
    names = [text or "" for text in texts]
    numbers = all(IS_TIME.fullmatch(name) and name not in stems for name in names)
    return not numbers or (len(set(names)) == len(names) and not all("." in name for name in names))


def _is_time(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(read_times([text]).ns)
    return False
