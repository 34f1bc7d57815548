"""Converts a camera's bytes to resized uint8 planes on the GPU, byte for byte as `streamtok.preprocessing` does.

It runs once per frame, while the group fills (`streamtok.ingest.preparing`). The Haar transform reads those planes
inside the captured step (`kernels.haar`). The source is `pixels.cu`, compiled by cupy at its first use. Tests compile
it for the CPU and compare it with the numpy code byte for byte.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from math import gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamtok.preprocessing.pixels import ALIASES, PACKED_422, PIXEL_BYTES, coefficients
from streamtok.preprocessing.preprocessor import Preprocessor

PACKED_OFFSETS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}
KINDS = {"mono8": 1, "uyvy": 2, "yuyv": 2, "nv12": 3, "i420": 4} | dict.fromkeys(PACKED_OFFSETS, 0)
FIELDS = """
    height width step out_height out_width window_top window_left rect_top rect_left rect_height rect_width
    sy dy sx dx red green blue pixel_bytes y_at u_at v_at y0
    matrix0 matrix1 matrix2 matrix3 matrix4 matrix5 matrix6 matrix7 matrix8 red_row red_column blue_row blue_column
"""  # of `Shape` in pixels.cu
SHAPE = np.dtype([(name, np.int32) for name in FIELDS.split()])
BLOCK = (32, 8)


def source_code() -> str:
    """The text of `pixels.cu`, without the definitions that select an encoding."""
    return files("streamtok.engine.gpu.kernels").joinpath("pixels.cu").read_text()


def encoding_kind(encoding: str) -> int:
    """The value of ENCODING that `pixels.cu` is compiled with; ValueError for an unknown pixel encoding."""
    encoding = ALIASES.get(encoding, encoding)
    if encoding not in PIXEL_BYTES:
        raise ValueError(f"pixel encoding {encoding!r}: expected one of {', '.join((*PIXEL_BYTES, *ALIASES))}")
    return KINDS.get(encoding, 5)


def pack_shape(resize: Preprocessor, encoding: str, step: int) -> np.ndarray:
    """The `Shape` of `pixels.cu`, one record of int32, for `resize` and rows of `step` bytes in `encoding`."""
    encoding = ALIASES.get(encoding, encoding)
    kind, (height, width) = encoding_kind(encoding), resize.source_size
    (tall, wide), window, rect = resize.size, resize.window, resize.rect
    shape = np.zeros((), SHAPE)
    values = {"height": height, "width": width, "step": step}
    values |= {"out_height": tall, "out_width": wide, "window_top": window[0], "window_left": window[1]}
    values |= dict(zip(("rect_top", "rect_left", "rect_height", "rect_width"), rect, strict=True))
    values |= {"pixel_bytes": PIXEL_BYTES[encoding]}
    for axis, source, target in (("y", window[2], rect[2]), ("x", window[3], rect[3])):
        common = gcd(source, target)
        values |= {f"s{axis}": source // common, f"d{axis}": target // common}
    values |= _encoding_values(kind, encoding)
    for name, value in values.items():
        shape[name] = value
    return shape


def _encoding_values(kind: int, encoding: str) -> dict[str, int]:
    """The fields of `Shape` that say where an encoding's colours lie and how they become RGB."""
    values: dict[str, int] = {}
    if kind == 0:
        values |= dict(zip(("red", "green", "blue"), PACKED_OFFSETS[encoding], strict=True))
    if kind == 2:
        values |= dict(zip(("y_at", "u_at", "v_at"), PACKED_422[encoding], strict=True))
    if kind in (2, 3, 4):
        black, table = coefficients()
        values |= {"y0": black} | {f"matrix{i}": int(value) for i, value in enumerate(table.ravel())}
    if kind == 5:
        order = encoding[6:10]
        for name, letter in (("red", "r"), ("blue", "b")):
            values |= {f"{name}_row": order.index(letter) // 2, f"{name}_column": order.index(letter) % 2}
    return values


def load_kernel(encoding: str) -> Callable[[Tensor, Tensor, Tensor], None]:
    """`launch(data, planes, numbers)` for an encoding of `to_rgb`; it queues the kernel on torch's current CUDA stream.

    data: uint8 (n,), `step` bytes per row (chroma planes follow for nv12 and i420); planes: uint8 (3, H, W) contiguous,
    the output; numbers: the record of `pack_shape` as int32; all on the GPU. Without cupy, ImportError says what to do.
    """
    return _compiled(encoding_kind(encoding))


@lru_cache
def _compiled(kind: int) -> Callable[[Tensor, Tensor, Tensor], None]:
    cupy = import_cupy()
    code = f"#define DEVICE __device__ static inline\n#define ENCODING {kind}\n{source_code()}"
    kernel = cupy.RawModule(code=code, options=("-std=c++14",)).get_function("prepare")

    def launch(data: Tensor, planes: Tensor, numbers: Tensor) -> None:
        _, height, width = planes.shape
        grid = (-(-width // BLOCK[0]), -(-height // BLOCK[1]))
        # DLPack shares torch's memory without a copy; cupy must use torch's stream, or it would synchronize two
        with _same_stream(cupy, torch.cuda.current_stream(data.device)):
            source, target, shape = (cupy.from_dlpack(tensor) for tensor in (data, planes, numbers))
            kernel(grid, BLOCK, (source, target, np.int64(height * width), shape))

    return launch


def _same_stream(cupy: Any, stream: Any) -> Any:
    """torch's CUDA stream as cupy's: by the stream protocol of newer versions, else by its address."""
    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream)


def import_cupy() -> Any:
    """The cupy module, or ImportError that says how to install it."""
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "preprocessing on the GPU needs cupy: pip install 'streamtok[cuda13]' (or [cuda12]); without it frames are "
            "prepared on the CPU"
        ) from error
    return cupy
