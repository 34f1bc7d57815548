"""The log on standard error: lines of text, or of JSON for log collectors."""

import atexit
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO, cast

from streamtok.node.outlet import Outlet
from streamtok.redaction import MOST_TEXT, clean_text

KEY = re.compile(r"(?:^|\s)(\w+)=")
PLACE = re.compile(r"%(?!%)[-#0 +]*\d*(?:\.\d+)?[a-zA-Z]")  # a placeholder of one argument


def log_to_stderr(log_format: str = "text") -> None:
    """Send streamtok's log to standard error, as "text" or "json" (one object per line); repeated calls are fine.

    Writing to `sys.stderr` holds up nobody from then on.
    """
    if not isinstance(sys.stderr, Outlet):
        outlet = Outlet(sys.stderr)
        atexit.register(outlet.finish)
        os.register_at_fork(after_in_child=outlet.start_anew)
        sys.stderr = cast(TextIO, outlet)
    logger = logging.getLogger("streamtok")
    logger.setLevel(logging.INFO)
    handler = next((known for known in logger.handlers if isinstance(known, StderrHandler)), None) or StderrHandler()
    text = TextFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    logger.addHandler(handler)


class TextFormatter(logging.Formatter):
    """Formats a record as one line without the secrets of URLs, even if a peer's text contains line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        """The line with its traceback, made anew: the one that another handler left in the record may hold secrets."""
        record.exc_text = None
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = clean_text(record.message).replace("\n", "\\n")
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return self.formatStack(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """The end of a stack or traceback, which says the most."""
        if len(stack_info) > MOST_TEXT:
            stack_info = re.sub(r"^\S*", "...", stack_info[-(MOST_TEXT - 3) :])
        return clean_text(stack_info)


class StderrHandler(logging.StreamHandler):
    """Logs to the current `sys.stderr`, which a live display replaces, so that lines appear above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


class JsonFormatter(TextFormatter):
    """Formats a record as one object: `time` (UTC), `level`, `logger`, `message`, and each `key=value` of the message.

    A value that is a single argument of the record keeps its type; any other is text, up to the next key. A traceback
    is in `exception`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the line, in ASCII only."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        values = line | dict(read_fields(record.msg, record.args)) | line
        return json.dumps({key: clean_text(x) if isinstance(x, str) else x for key, x in values.items()})


def read_fields(template: object, arguments: object) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a message's template with their values; nothing unless `arguments` is a tuple."""
    if not isinstance(template, str) or not isinstance(arguments, tuple):
        return
    lead, *parts = KEY.split(template)
    used = len(PLACE.findall(lead))
    for key, text in zip(parts[::2], parts[1::2], strict=True):
        count = len(PLACE.findall(text))
        yield key, read_value(text, arguments[used : used + count])
        used += count


def read_value(text: str, arguments: Sequence[Any]) -> Any:
    """The value of one key, from the template's text after it and the arguments of its placeholders."""
    if len(arguments) == 1 and PLACE.fullmatch(text) and is_plain(arguments[0]):
        return arguments[0]
    shown = text % tuple(arguments) if arguments else text
    quoted = re.fullmatch(r"'([^']*)'", shown)
    return quoted[1] if quoted else shown


def is_plain(argument: object) -> bool:
    """Whether JSON can represent this value as it is."""
    return isinstance(argument, str | int | None) or (isinstance(argument, float) and math.isfinite(argument))
