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
from types import FrameType

log = logging.getLogger("streamtok.node")

GRACE_S = 1.9
FILES = 1 << 16
SAME_S = 0.2  # `timeout`, and whoever signals a process and its group, sends one wish twice


@contextmanager
def stop_on_signals(stop: Callable[[], None], last_words: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Call `stop` at the first SIGINT, SIGTERM or SIGHUP (a terminal that closes; `nohup` still holds). If the process
    still runs 1.9 s later (one step of a large model on a CPU can take that long), or at a second signal, `last_words`
    is called and the process exits with status 1. The same signal twice within 0.2 s is one.

    Outside the main thread, where Python takes no signals, nothing is installed.
    """
    raise_file_limit()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers: list[threading.Timer] = []
    first, began = 0, 0.0

    def leave(reason: str) -> None:
        log.error("event=killed reason=%r", reason)
        last_words()
        os._exit(1)

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal first, began
        if number == first and time.monotonic() - began < SAME_S:
            return
        if timers:
            leave(f"{signal.Signals(number).name} while it was stopping")
        first, began = number, time.monotonic()
        timers.append(threading.Timer(GRACE_S, leave, [f"still busy {GRACE_S} s after the signal"]))
        timers[0].daemon = True
        timers[0].start()
        stop()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_file_limit() -> None:
    """Let this process open as many files as it is allowed to: every reader and stranger that connects takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
    """Let PyTorch's threads sleep where they wait for each other, and OpenCV work in the thread that calls it; to be
    called before either is imported.

    Both spin otherwise, which costs many times the work on a machine where other processes (cameras, readers) run too.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "cv2" not in sys.modules:
        os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")  # each camera has its thread already
