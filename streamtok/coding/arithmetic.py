"""Two ways to add up the same whole numbers: int8 weights times activations of 0 to 127, sums below 2^24.

Either is exact, so both give the same bytes. Which is faster depends on the processor.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import numpy as np
from threadpoolctl import LibController, ThreadpoolController

from streamtok.measures import time_least

ACTIVATION_MAX = 127
EXACT = 1 << 24  # float32 holds every whole number up to it
Operand = Any  # an array, or what an arithmetic made of it beforehand
_LOCK = threading.RLock()


class Arithmetic(Protocol):
    """What the network computes with: activations (n, C) of one type, sums (n, D) of another."""

    activation: type[np.generic]
    sums: type[np.generic]
    threads: str  # the kind of threads that products are shared among, as threadpoolctl calls it

    def scale(self, x: np.ndarray, shift: np.ndarray) -> Operand:
        """Weights int8 (in, out) or biases int32 (out,), whose sums are divided by 2^shift, as the others take them."""

    def table(self, rows: np.ndarray, most: int) -> np.ndarray:
        """A table int32 (n, W) whose rows are added up, to sums of -most to most."""

    def multiply(self, x: Operand, weight: Operand) -> np.ndarray:
        """Activations (n, in) and weights (in, out), or the other way round -> sums (n, out)."""

    def divide(self, y: np.ndarray, bias: Operand, shift: np.ndarray) -> np.ndarray:
        """(Sums (n, out) + bias) / 2^shift, rounded down, in place; `bias` is scaled."""

    def activate(self, x: np.ndarray) -> np.ndarray:
        """x (n, C) within 0 to 127, as activations."""

    def look_up(self, table: np.ndarray, places: np.ndarray) -> np.ndarray:
        """A table (n,) at places of 0 to n - 1, sums of any shape."""


class Floats:
    """Sums in float32, by NumPy. Weights and biases are divided by 2^shift beforehand, which loses nothing."""

    activation: type[np.generic] = np.float32
    sums: type[np.generic] = np.float32
    threads = "blas"

    def scale(self, x: np.ndarray, shift: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x * 0.5 ** shift.astype(self.sums), self.activation)

    def table(self, rows: np.ndarray, most: int) -> np.ndarray:
        return rows.astype(self.sums)

    def multiply(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x @ weight

    def divide(self, y: np.ndarray, bias: np.ndarray, shift: np.ndarray) -> np.ndarray:
        y += bias
        return np.floor(y, out=y)

    def activate(self, x: np.ndarray) -> np.ndarray:
        return x.clip(0, ACTIVATION_MAX).astype(self.activation, copy=False)

    def look_up(self, table: np.ndarray, places: np.ndarray) -> np.ndarray:
        return table.take(places.astype(np.intp), mode="wrap")  # the modes that check take longer


class Integers:
    """Products of int8 and sums in int32, by PyTorch, for processors with instructions for that (VNNI)."""

    activation: type[np.generic] = np.int8
    sums: type[np.generic] = np.int32
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

    def activate(self, x: np.ndarray) -> np.ndarray:
        return x.clip(0, ACTIVATION_MAX).astype(self.activation)

    def look_up(self, table: np.ndarray, places: np.ndarray) -> np.ndarray:
        return _tensor(table).index_select(0, _tensor(places).reshape(-1)).reshape(places.shape).numpy()


def _tensor(x: Operand) -> Operand:
    """x for PyTorch. Where a size is 1 it gets the strides of a new array: others are taken for a transposed one."""
    import torch

    if isinstance(x, torch.Tensor):
        return x
    return torch.from_numpy(np.ascontiguousarray(x).ravel().reshape(x.shape) if 1 in x.shape else x)


@contextmanager
def one_thread(arithmetic: Arithmetic) -> Iterator[None]:
    """Products in the thread that calls: they are small, and threads that wait for each other cost many times as much.
    It changes no byte."""
    with _LOCK:  # each library itself: `limit` first asks all of them for their facts, which takes a tenth of a grid
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
    """The thread pools of the libraries that are loaded by then."""
    return ThreadpoolController().select(user_api=threads).lib_controllers


def choose_arithmetic() -> Arithmetic:
    """The faster one of what this process has loaded: a reader does not load PyTorch for this."""
    return Integers() if "torch" in sys.modules and integers_pay() else Floats()


@cache
def integers_are_exact() -> bool:
    """Whether PyTorch's products of int8 are exact on this processor.

    Without instructions for them they are not: sums of two products are cut to 16 bits. The name is private to PyTorch,
    which may take it away, or refuse it on a processor.
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
    """Whether PyTorch's products of int8 are exact on this processor, and faster than NumPy's of float32."""
    x, weight = _extremes()
    floats = x.astype(np.float32), weight.astype(np.float32)
    if not integers_are_exact():
        return False
    with one_thread(Integers()):
        integers_s = time_least(lambda: Integers().multiply(x, weight))
    with one_thread(Floats()):
        return integers_s < time_least(lambda: Floats().multiply(*floats))


def _extremes() -> tuple[np.ndarray, np.ndarray]:
    """Activations and weights with the largest sums of two products that there are."""
    x = np.full((900, 264), ACTIVATION_MAX, np.int8)
    return x, np.repeat(np.array([[-128, ACTIVATION_MAX]], np.int8), 264, 0).repeat(32, 1)
