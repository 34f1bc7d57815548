"""Read times that people wrote into files and file names as ns: the unit is inferred from the whole column, or given.

    column = read_times(["108000033333333", "108000066666666", "108000100000000"])
    column.ns, column.unit, column.clock  # [108000033333333, ...], "ns", "since boot or start"

A number alone does not say its unit: 1e12 is a Unix time in ms and 17 minutes since boot in ns. The steps between them
do, because cameras take 1 to 200 pictures per second (docs/sources.md).
"""

import itertools
import logging
import re
import statistics
from calendar import timegm
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from streamtok.names import nearest

log = logging.getLogger("streamtok.io")

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
DATE = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,](\d+))?(?:Z|([-+]\d\d):?(\d\d))?", re.IGNORECASE
)
IS_TIME = re.compile(rf"[-+]?(\d+,\d+|[\d.]+)(e[-+]?\d+)?|{DATE.pattern}", re.IGNORECASE)
TIME_IN_NAME = re.compile(r"(?<!\d)(\d{16,19}|1\d{12}|\d{9,10}\.\d{3,9})$")
NUMBER_IN_NAME = re.compile(r"(?<!\d)(\d+(?:\.\d+)?)$")
DATE_FORM = "2011-09-26 13:02:25.964389445"

UNIX, OTHER = "Unix time", "since boot or start"
UNIX_SECONDS = 631_152_000, 4_102_444_800  # 1990 to 2100
USUAL_STEP_S = Decimal("0.005"), Decimal(1)  # 200 to 1 pictures per second; units are 1000 apart
SURE_STEP_S = Decimal("0.00001"), Decimal(5)  # if there is other evidence for a unit too
LAPSE_S = 3600  # the longest step with which a Unix time contests a usual rate since boot
COARSE = 5  # ticks per picture: a coarser unit was not made to time pictures


class Times(NamedTuple):
    """A column of times: ns of its clock, the unit it was written in ("date" for dates), the clock, and the reason."""

    ns: list[int]
    unit: str
    clock: str
    reason: str

    def __str__(self) -> str:
        return f"{self.clock} in {self.unit} ({self.reason})"


def parse_unit(text: str) -> str:
    """Check that the text is a unit of time (s, ms, us or ns); ValueError for any other."""
    if text not in UNITS:
        raise ValueError(f"expected a unit of time: {nearest(text, UNITS)}")
    return text


def read_times(texts: Sequence[str], unit: str | None = None, place: str = "times") -> Times:
    """Read the times of one column, in order of capture; `unit` (of UNITS) is inferred if None.

    A unit that was inferred from the steps is logged, after `place`. Raises ValueError for text that is no time, and
    if no unit, or more than one, is likely.
    """
    found = [_read_time(text) for text in texts]
    values = [value for value in found if isinstance(value, Decimal)]
    if len(values) < len(found):
        if values:
            raise ValueError(f"{values[0]} stands among dates: expected {DATE_FORM}")
        return Times([int(value) for value in found], "date", UNIX, "dates")
    if unit is not None:
        reason = "as told"
    else:
        unit, reason = _find_unit(values, any("." in text and "e" not in text.lower() for text in texts))
    clock = UNIX if _is_unix(values[0], unit) else OTHER
    if clock != UNIX and "per second" in reason:
        log.warning("%s event=unit_of_times unit=%s clock=%r reason=%r", place, unit, clock, reason)
    return Times([int((value * UNITS[unit]).to_integral_value()) for value in values], unit, clock, reason)


def read_date(text: str) -> int | None:
    """ns since 1970 of a date with a clock time (2011-09-26 13:02:25.964389445, 2024-05-01T12:00:00.25Z); None for
    other text. Raises ValueError for a day or a time that does not exist."""
    date = DATE.fullmatch(text.strip())
    if date is None:
        return None
    *day, clock, fraction, hours, minutes = date.groups()
    year, month, number, hour, minute, second = map(int, (*day, *clock.split(":")))
    leap = second == 60
    seconds = timegm(datetime(year, month, number, hour, minute, second - leap).timetuple()) + leap
    if hours:
        seconds -= int(hours) * 3600 + int(f"{hours[0]}{minutes}") * 60
    return seconds * 10**9 + int((fraction or "0")[:9].ljust(9, "0"))


def read_times_in_names(names: list[str], unit: str | None = None, place: str = "names") -> Times | None:
    """Times at the end of file names without suffix (nuScenes, EuRoC, TUM); None unless all have one.

    With `unit` any number at the end of a name is a time.
    """
    found = [(NUMBER_IN_NAME if unit else TIME_IN_NAME).search(name) for name in names]
    texts = [match[1] for match in found if match]
    return read_times(texts, unit, place) if texts and len(texts) == len(names) else None


def _read_time(text: str) -> int | Decimal:
    """ns since 1970 of a date, or a number as it is; ValueError for other text."""
    date = read_date(text)
    if date is not None:
        return date
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError(f"{text!r} is no time: expected a number or {DATE_FORM}") from None
    if not value.is_finite():
        raise ValueError(f"{text!r} is no time: expected a finite number")
    return value


def _is_unix(value: Decimal, unit: str) -> bool:
    low, high = UNIX_SECONDS
    return low <= value * UNITS[unit] / 10**9 < high


def _find_unit(values: list[Decimal], with_point: bool) -> tuple[str, str]:
    """Infer (unit, reason) of a column of numbers; ValueError says what to do if it is ambiguous."""
    unix = next((unit for unit in UNITS if _is_unix(values[0], unit)), None)
    step = _usual_step(values)
    if step is None:  # a single time: its unit does not matter
        return unix or "s", "a single time"
    steps_s = {unit: step * factor / 10**9 for unit, factor in UNITS.items()}
    sure = [unit for unit in dict.fromkeys([unix, "s" if with_point else None]) if unit and _is_sure(steps_s[unit])]
    if sure:
        return sure[0], "the size of the numbers" if sure[0] == unix else "decimals"
    usual = next((unit for unit, seconds in steps_s.items() if USUAL_STEP_S[0] <= seconds <= USUAL_STEP_S[1]), None)
    if usual and values[0] * UNITS[usual] / 10**9 >= UNIX_SECONDS[1]:  # no clock has run for that long
        usual = None
    if usual and (unix is None or steps_s[unix] > LAPSE_S):
        return usual, f"steps of {step.normalize():f} are {float(1 / steps_s[usual]):.4g} pictures per second"
    if 1 <= step < COARSE and values[0] < UNIX_SECONDS[1]:
        return "s", f"steps of {step.normalize():f}"
    likely = [unit for unit in (unix, usual) if unit] or [unit for unit, s in steps_s.items() if _is_sure(s)]
    readings = [f"{unit} (one picture every {float(steps_s[unit]):g} s)" for unit in likely]
    found = " or ".join(readings) or "no unit that gives 1 to 200 pictures per second"
    raise ValueError(
        f"the unit of its times is not clear: {values[0]:f}, then steps of {step.normalize():f}, may be {found}. Say "
        "which: images:DIR?unit=s, ms, us or ns"
    )


def _usual_step(values: list[Decimal]) -> Decimal | None:
    """The median positive step, None for a single time; ValueError if most times repeat the one before."""
    steps = [after - before for before, after in itertools.pairwise(values)]
    if not steps:
        return None
    if 2 * sum(step == 0 for step in steps) > len(steps):
        raise ValueError(
            f"{len(values)} times, of which only {len(set(values))} differ: digits were lost when they were written, "
            f"as {values[0]}. Write them with more (numpy.savetxt: fmt='%.9f'), or give a rate: images:DIR?fps=10"
        )
    return statistics.median([step for step in steps if step > 0] or [abs(step) for step in steps])


def _is_sure(step_s: Decimal) -> bool:
    return SURE_STEP_S[0] <= step_s <= SURE_STEP_S[1]
