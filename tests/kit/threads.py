"""Work on a thread of its own, whose errors are not lost."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any


@contextmanager
def beside(work: Callable[..., Any], *args: Any) -> Iterator[Future]:
    """Work that goes on beside the block and has ended behind it; raises what it raised."""
    job: Future = Future()

    def run() -> None:
        try:
            job.set_result(work(*args))
        except BaseException as error:
            job.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield job
    job.result(120)
    thread.join()
