"""Reads the tensors of a TorchScript archive without running its code, so that untrusted files are only data.

`torch.jit.load` may run code of an archive, such as a class's `__setstate__`. An archive is a zip of `data.pkl`, which
names modules and tensors, and of the tensors' bytes in `data/`. The unpickler here allows only tensors, lists and plain
objects.
"""

import errno
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MOST_MODULES = 1 << 14  # of an archive; a limit against cycles, and modules that are referred to very often
MOST_PICKLED = 1 << 26  # bytes of data.pkl
LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")
KNOWN: dict[tuple[str, str], Any] = {  # the names that a pickle may refer to
    # A view of its storage, not a copy: strides of zero would let a small file fill memory.
    ("torch._utils", "_rebuild_tensor_v2"): lambda storage, start, size, steps, *_: storage.as_strided(
        size, steps, start
    ),
    ("torch.jit._pickle", "restore_type_tag"): lambda value, tag: value,
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch.jit._pickle", name): list for name in LISTS},
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


def is_archive(path: Path) -> bool:
    """Whether a file is a zip with TorchScript code in it; `torch.save` writes zips without code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2].startswith("code/") for name in archive.namelist())


def read_archive(path: Path) -> dict[str, Tensor]:
    """Read the parameters and buffers of a TorchScript module, by their names in its state dict.

    Args:
        path: a file written by `torch.jit.save`.

    Returns:
        Tensors on the CPU. Some may share memory, as views of one storage.

    Raises:
        ValueError: the file is no such archive, is damaged, or cannot be read without running its code.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ValueError("it has no data.pkl")
            if archive.getinfo(pickles[0]).file_size > MOST_PICKLED:
                raise ValueError(f"its data.pkl is larger than {MOST_PICKLED} bytes")
            folder = pickles[0].removesuffix("data.pkl")
            with archive.open(pickles[0]) as file:
                root = _Reader(file, archive, folder).load()
        return dict(_tensors_below(root))
    except Exception as error:  # zipfile, zlib, pickle and PyTorch raise many kinds for damaged bytes
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek to a corrupt offset
            raise
        raise ValueError(f"{path} is no TorchScript archive of plain tensors: {error}") from error


class _Module:
    """Placeholder for an object of the archive, with its attributes by name."""

    def __init__(self) -> None:
        self.attributes: Mapping[str, object] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise ValueError("a class of it has a __setstate__, which would have to run")
        self.attributes = state


class _Reader(pickle.Unpickler):
    """Unpickles modules and tensors only; any other name in a pickle is refused."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no tensor, list or module")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it refers to {pid!r}, expected a storage")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._folder}data/{key}")
            if entry.file_size != count * dtype.itemsize or entry.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError(f"storage {key} has {entry.file_size} bytes for {count} of {dtype}")
            data = bytearray(self._archive.read(entry))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _tensors_below(root: object) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(root, _Module):
        raise ValueError("it holds no module")
    waiting, seen = [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        seen += 1
        if seen > MOST_MODULES:
            raise ValueError(f"it holds more than {MOST_MODULES} modules, or some that hold each other in a circle")
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                yield prefix + name, value
            elif isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
