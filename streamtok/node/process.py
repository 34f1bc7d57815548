"""A process and its operating system: sharing cores, ending within two seconds of a signal, notifying systemd.

Needs only the standard library."""

import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from streamtok.node.outlet import Outlet

log = logging.getLogger("streamtok.node")

GRACE_S = 1.9
FILES = 1 << 16
WORDS_S = 0.3  # after a signal, for last words, whose reader may have stopped reading
SAME_S = 0.2  # `timeout`, and others that signal a process and its group, send one signal twice


@dataclass
class _Ending:
    """The signal handler of `stop_on_signals`, and its state."""

    stop: Callable[[], None]
    last_words: Callable[[], None]
    at_stake: Callable[[], bool]
    first: int = 0
    began: float = 0.0
    timer: threading.Timer | None = None
    leaving: bool = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.leaving or (number == self.first and time.monotonic() - self.began < SAME_S):
            return
        if self.timer is not None or not self.at_stake():
            self.leave(f"{signal.Signals(number).name} while it was {'stopping' if self.timer else 'starting'}")
        self.first, self.began = number, time.monotonic()
        Outlet.last_s = WORDS_S
        self.timer = threading.Timer(GRACE_S, self.leave, [f"still busy {GRACE_S} s after the signal"])
        self.timer.daemon = True
        self.timer.start()
        self.stop()

    def leave(self, reason: str) -> NoReturn:
        self.leaving, status = True, int(self.at_stake())

        def speak() -> None:
            nonlocal status
            level, event = (logging.ERROR, "killed") if status else (logging.INFO, "end")
            log.log(level, "event=%s reason=%r", event, reason)
            try:
                self.last_words()
            except OSError as error:  # of standard output
                log.error("event=untold reason=%r", str(error))
                status = 1

        words = threading.Thread(target=speak, daemon=True)  # in a thread, since it may fail or hang
        words.start()
        words.join(WORDS_S)
        os._exit(status)


@contextmanager
def stop_on_signals(
    stop: Callable[[], None],
    last_words: Callable[[], None] = lambda: None,
    at_stake: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Call `stop` at the first SIGINT, SIGTERM or SIGHUP (a closed terminal; one ignored by `nohup` stays ignored).

    If the process still runs 1.9 s later, as one step of a large model on a CPU can take that long, or at a second
    signal, `last_words` is called and the process exits with status 1. While nothing is `at_stake` (it is still
    starting), it does so at the first signal, with status 0, or 1 if standard output takes nothing. The same signal
    twice within 0.2 s is one. Outside the main thread, where Python takes no signals, nothing is installed.
    """
    raise_file_limit()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = _Ending(stop, last_words, at_stake)
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, ending.on_signal) for number in numbers}
    try:
        yield
    finally:
        if ending.timer is not None:
            ending.timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_file_limit() -> None:
    """Raise the limit on open files as far as allowed, up to FILES, since each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def keep_standard_streams() -> None:
    """Open standard streams that were closed at the start (`>&-`) on /dev/null. Otherwise output to them would go into
    a file or socket that gets their descriptor."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 open until the end


def print_result(text: str) -> None:
    """Print the result of a command, on standard error if standard output is closed or has no reader.

    The OSError of standard output is raised all the same.
    """
    if sys.__stdout__ is None:
        print(text, file=sys.stderr, flush=True)
        return
    try:
        print(text, flush=True)
    except OSError:
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)
        raise


def end_process(status: int) -> int:
    """Return the status, or exit at once if a daemon thread still runs; to be called last.

    Such a thread may be inside OpenCV or libzmq, which abort if the interpreter shuts down meanwhile. Without other
    threads signals are ignored from here on, so that a late one does not change the status.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    if not others:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if not any(thread.daemon for thread in others):
        return status
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
            stream.flush()
    if isinstance(sys.stderr, Outlet):
        sys.stderr.finish()
    os._exit(status)


def notify_systemd(message: str) -> None:
    """Send a message to systemd (`Type=notify`), if it started this process; never blocks.

    Failures are ignored, so that cameras go on: systemd notices missing messages itself.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, contextlib.suppress(OSError):
            notify.setblocking(False)
            notify.connect("\0" + address[1:] if address.startswith("@") else address)
            notify.sendall(message.encode())


def share_cores() -> None:
    """Make OpenCV work in the calling thread; to be called before it is imported. `import streamtok` sets up PyTorch.

    Idle threads of both spin otherwise, which costs many times the work if other processes (cameras, readers) run too.
    OpenCV also gets a limit on pixels, since a few bytes of a PNG may claim gigabytes.
    """
    if "cv2" not in sys.modules:
        os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))
        os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")  # each camera has its thread already
