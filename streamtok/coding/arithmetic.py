"""Exact integer arithmetic for the coder's network, in float32 or in int8: int8 weights, activations 0 to 127.

Sums stay below 2^24, so both are exact and give the same bytes. Which is faster depends on the processor.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import LibController, ThreadpoolController

from streamtok.measures import time_least

ACTIVATION_MAX = 127
EXACT = 1 << 24  # float32 represents every integer up to this
Operand = Any  # an array, or what `scale` of the same arithmetic made of one
_LOCK = threading.RLock()


class Arithmetic:
    """The network's arithmetic: activations (n, C) have one type, sums (n, D) another.

    This one is in float32, by NumPy. Weights and biases are divided by 2^shift beforehand, which is exact.
    """

    activation: type[np.generic] = np.float32
    sums: type[np.generic] = np.float32
    threads = "blas"  # the thread pool that products run on, by threadpoolctl's name

    def scale(self, x: np.ndarray, shift: np.ndarray) -> Operand:
        """Prepare int8 weights (in, out) or int32 biases (out,), whose sums are divided by 2^shift, as an operand."""
        return np.ascontiguousarray(x * 0.5 ** shift.astype(self.sums), self.activation)

    def table(self, rows: np.ndarray, most: int) -> np.ndarray:
        """Prepare an int32 table (n, W) whose rows are added up to sums from -most to most."""
        return rows.astype(self.sums)

    def multiply(self, x: Operand, weight: Operand) -> np.ndarray:
        """Activations (n, in) and weights (in, out), or the other way round -> sums (n, out)."""
        return x @ weight

    def divide(self, y: np.ndarray, bias: Operand, shift: np.ndarray) -> np.ndarray:
        """floor((y + bias) / 2^shift) of sums y (n, out), in place; `bias` comes from `scale`."""
        y += bias
        return np.floor(y, out=y)

    def activate(self, x: np.ndarray) -> np.ndarray:
        """x (n, C) clipped to 0 to 127, in the type of activations."""
        return x.clip(0, ACTIVATION_MAX).astype(self.activation, copy=False)

    def look_up(self, table: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The values of a table (n,) at places 0 to n - 1, of any shape and of the type of sums."""
        return table.take(places.astype(np.intp), mode="wrap")  # faster than the modes that check bounds


class Integers(Arithmetic):
    """Arithmetic in int8 with sums in int32, by PyTorch, for processors with instructions for it (VNNI)."""

    activation = np.int8
    sums = np.int32
    threads = "openmp"

    def scale(self, x: np.ndarray, shift: np.ndarray) -> Operand:
        return _tensor(np.ascontiguousarray(x))

    def table(self, rows: np.ndarray, most: int) -> np.ndarray:
        return rows.astype(np.int16 if most < 1 << 15 else np.int32)

    def multiply(self, x: Operand, weight: Operand) -> np.ndarray:
        import torch

        return torch._int_mm(_tensor(x), _tensor(weight)).numpy()

    def divide(self, y: np.ndarray, bias: Operand, shift: np.ndarray) -> np.ndarray:
        _tensor(y).add_(bias).bitwise_right_shift_(_tensor(shift))  # NumPy takes twice as long
        return y

    def look_up(self, table: np.ndarray, places: np.ndarray) -> np.ndarray:
        return _tensor(table).index_select(0, _tensor(places).reshape(-1)).reshape(places.shape).numpy()


def _tensor(x: Operand) -> Operand:
    """x for PyTorch. If a size is 1, x gets a new array's strides: PyTorch may take others for a transposed matrix."""
    import torch

    if isinstance(x, torch.Tensor):
        return x
    return torch.from_numpy(np.ascontiguousarray(x).ravel().reshape(x.shape) if 1 in x.shape else x)


@contextmanager
def one_thread(arithmetic: Arithmetic) -> Iterator[None]:
    """Compute products in the calling thread: they are small, and synchronizing threads costs many times as much.
    The bytes stay the same."""
    with _LOCK:  # not `limit` of threadpoolctl: it queries all libraries first, which takes a tenth of a grid's time
        pools = _pools(arithmetic.threads, "torch" in sys.modules)
        before = [pool.get_num_threads() for pool in pools]
        for pool in pools:
            pool.set_num_threads(1)
        try:
            yield
        finally:
            for pool, threads in zip(pools, before, strict=True):
                pool.set_num_threads(threads)


@cache
def _pools(threads: str, with_torch: bool) -> list[LibController]:
    """The thread pools of the libraries loaded so far; `with_torch` is only part of the cache's key."""
    return ThreadpoolController().select(user_api=threads).lib_controllers


def choose_arithmetic() -> Arithmetic:
    """The faster arithmetic of what this process has loaded: PyTorch is not imported for it."""
    return Integers() if "torch" in sys.modules and integers_pay() else Arithmetic()


@cache
def integers_are_exact() -> bool:
    """Whether PyTorch's int8 products are exact on this processor.

    Without VNNI they are not: sums of two products saturate at 16 bits. `torch._int_mm` is private, so a version may
    lack it, or refuse it on a processor.
    """
    x, weight = _extremes()
    expected = x.astype(np.float32) @ weight.astype(np.float32)
    try:
        found = Integers().multiply(x, weight), Integers().multiply(weight.T, x.T).T
    except (AttributeError, RuntimeError):
        return False
    return all((each == expected).all() for each in found)


@cache
def integers_pay() -> bool:
    """Whether PyTorch's int8 products are exact on this processor, and faster than NumPy's in float32."""
    x, weight = _extremes()
    floats = x.astype(np.float32), weight.astype(np.float32)
    if not integers_are_exact():
        return False
    with one_thread(Integers()):
        integers_s = time_least(lambda: Integers().multiply(x, weight))
    with one_thread(Arithmetic()):
        return integers_s < time_least(lambda: Arithmetic().multiply(*floats))


def _extremes() -> tuple[np.ndarray, np.ndarray]:
    """Activations and weights with the largest possible sums of two products."""
    x = np.full((900, 264), ACTIVATION_MAX, np.int8)
    return x, np.repeat(np.array([[-128, ACTIVATION_MAX]], np.int8), 264, 0).repeat(32, 1)
