"""Standard error that holds up nobody, although its terminal, pipe or log collector takes no more."""

import contextlib
import logging
import threading
from collections import deque
from typing import Any, TextIO

log = logging.getLogger("streamtok.node")

PATIENCE_S = 0.1  # in a healthy process text is written, in order with that of others, when `write` returns
MOST_WAITING = 1 << 18  # characters


class Outlet:
    """A text stream that a thread writes to another `stream`, while there is something to write.

    Callers wait for that thread up to PATIENCE_S, but not again until all is written. Text beyond MOST_WAITING is
    dropped, and the log says so once the stream takes text again.
    """

    last_s = 1.0  # of every outlet, for the text that waits when the process ends; less after a signal

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.start_anew()

    def start_anew(self) -> None:
        """Start with nothing to write, also in a forked child: the thread that writes is its parent's."""
        self._lock = threading.RLock()  # re-entrant, for a signal handler that interrupts a write
        self._texts: deque[str] = deque()
        self._waiting = self._lost = 0  # characters
        self._writer: threading.Thread | None = None
        self._stuck = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or let it wait; returns its length. Raises nothing if nobody reads the stream."""
        with self._lock:
            if self._texts and self._waiting + len(text) > MOST_WAITING:
                self._lost += len(text)
                return len(text)
            self._texts.append(text)
            self._waiting += len(text)
            if self._writer is None:
                writer = threading.Thread(target=self._write_all, name="stderr", daemon=True)
                try:
                    writer.start()
                    self._writer = writer
                except RuntimeError:  # no more threads
                    self._write_all()
        self.flush()
        return len(text)

    def flush(self) -> None:
        """Wait until all is written, or it shows that the stream takes no more."""
        writer = self._writer
        if writer is not None and writer is not threading.current_thread() and not self._stuck:
            writer.join(PATIENCE_S)
            self._stuck = writer.is_alive()

    def finish(self) -> None:
        """Give a reader that lags `last_s` more seconds, at the end of the process."""
        writer = self._writer
        if writer is not None and writer is not threading.current_thread():
            writer.join(self.last_s)

    def _write_all(self) -> None:
        while (text := self._take()) is not None:
            with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it
                self._stream.write(text)
                self._stream.flush()

    def _take(self) -> str | None:
        """The next text to write; None, which ends the thread, if there is none."""
        with self._lock:
            if self._texts:
                text = self._texts.popleft()
                self._waiting -= len(text)
                return text
            lost, self._lost = self._lost, 0
            if not lost:
                self._writer, self._stuck = None, False
                return None
        log.warning("event=log_lost characters=%d reason='standard error took no more'", lost)
        return self._take()
