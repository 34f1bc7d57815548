"""Standard error that holds nobody up when a terminal (Ctrl-S), a hung link or a log collector takes no more."""

import contextlib
import io
import os
import select
import stat
import sys
import threading

PATIENCE_S = 0.3  # of a write, unless the one before has waited in vain
MOST_BYTES = 1 << 16  # that may wait; what is written beyond them is left out


class PatientError(io.TextIOBase):
    """Standard error of a process, for `sys.stderr`; thread-safe. OSError if it is a file, which always takes all."""

    encoding, errors = "utf-8", "backslashreplace"

    def __init__(self) -> None:
        if stat.S_ISREG(os.fstat(2).st_mode):
            raise OSError("standard error is a file")
        # Opened anew, since O_NONBLOCK holds for all processes that share a descriptor.
        self._out = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        self._waiting, self._stuck, self._lock = b"", False, threading.Lock()

    def write(self, text: str) -> int:
        """Write what is taken in time; the rest waits for the next call."""
        with self._lock:
            self._send()
            if len(self._waiting) < MOST_BYTES:
                self._waiting += text.encode(errors=self.errors)
                self._send()
        return len(text)

    def _send(self) -> None:
        poll = select.poll()
        poll.register(self._out, select.POLLOUT)
        try:
            while self._waiting and poll.poll(0 if self._stuck else 1000 * PATIENCE_S):
                self._waiting = self._waiting[os.write(self._out, self._waiting) :]
                self._stuck = False
        except BlockingIOError:
            pass
        except OSError:  # its reader has gone
            self._waiting = b""
        self._stuck = bool(self._waiting)

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)


def unblock_standard_error() -> None:
    """Replace `sys.stderr`, unless it is a file, or a socket, which cannot be opened anew."""
    with contextlib.suppress(OSError):
        sys.stderr = PatientError()
