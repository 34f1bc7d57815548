"""How a process lives with its operating system: how it shares cores, ends within two seconds of a signal, and tells
systemd how it is. Needs only the standard library."""

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

log = logging.getLogger("streamtok.node")

GRACE_S = 1.9
FILES = 1 << 16
WORDS_S = 0.3  # for last words: whoever reads them may have stopped reading
SAME_S = 0.2  # `timeout`, and whoever signals a process and its group, sends one wish twice


@dataclass
class _Ending:
    """What signals make of a process; see `stop_on_signals`."""

    stop: Callable[[], None]
    last_words: Callable[[], None]
    at_stake: Callable[[], bool]
    first: int = 0
    began: float = 0.0
    timer: threading.Timer | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == self.first and time.monotonic() - self.began < SAME_S:
            return
        if self.timer is not None:
            self.leave(f"{signal.Signals(number).name} while it was stopping")
        self.first, self.began = number, time.monotonic()
        self.timer = threading.Timer(GRACE_S, self.leave, [f"still busy {GRACE_S} s after the signal"])
        self.timer.daemon = True
        self.timer.start()
        self.stop()

    def leave(self, reason: str) -> NoReturn:
        status = int(self.at_stake())
        log.log(logging.ERROR if status else logging.INFO, "event=killed reason=%r", reason)
        words = threading.Thread(target=self.last_words, daemon=True)  # which may fail or hang
        words.start()
        words.join(WORDS_S)
        os._exit(status)


@contextmanager
def stop_on_signals(
    stop: Callable[[], None],
    last_words: Callable[[], None] = lambda: None,
    at_stake: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Call `stop` at the first SIGINT, SIGTERM or SIGHUP (a terminal that closes; `nohup` still holds).

    If the process still runs 1.9 s later, or at a second signal, `last_words` is called and the process exits with
    status 1. One step of a large model on a CPU can take that long. The same signal twice within 0.2 s is one. While
    nothing is `at_stake` (the process is still starting) it exits like this with status 0. Outside the main thread,
    where Python takes no signals, nothing is installed.
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
    """Let this process open as many files as it is allowed to: every reader and stranger that connects takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def keep_standard_streams() -> None:
    """Let writing to a standard stream that was closed at the start (`>&-`) go nowhere, not into a file or socket that
    would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 until the end


def print_result(text: str) -> None:
    """Print what a command has to say at its end; on standard error if standard output was closed or nobody reads it.

    OSError still tells that it could not go where it was meant to.
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
    """Called last: the status, or at once the end of the process if a daemon thread still runs.

    Such a thread may be inside OpenCV or libzmq, which abort when the interpreter is taken down around them.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    if not any(thread.daemon for thread in others):
        return status
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
            stream.flush()
    os._exit(status)


def notify_systemd(message: str) -> None:
    """Tell systemd (`Type=notify`) about this process; nothing happens elsewhere.

    Where it cannot be told, cameras go on: systemd notices what it does not hear. Nothing waits for it either.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, contextlib.suppress(OSError):
            notify.setblocking(False)
            notify.connect("\0" + address[1:] if address.startswith("@") else address)
            notify.sendall(message.encode())


def share_cores() -> None:
    """Let OpenCV work in the thread that calls it; to be called before it is imported. `import streamtok` does the
    same for PyTorch.

    Both spin otherwise, which costs many times the work on a machine where other processes (cameras, readers) run too.
    OpenCV also takes no picture of more pixels than cameras have: a few bytes of a PNG may claim gigabytes.
    """
    if "cv2" not in sys.modules:
        os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))
        os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")  # each camera has its thread already
