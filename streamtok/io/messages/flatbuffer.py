"""Read Foxglove's image messages in FlatBuffers, without generated code (https://flatbuffers.dev/internals).

A table begins with the distance back to its vtable, which holds the offset of each field. Fields are numbered from 0 in
the order of Foxglove's schemas.
"""

import struct
from collections.abc import Iterable
from types import SimpleNamespace

NUMBERS = ("width", "height", "step")


def read_table(fields: Iterable[str], data: memoryview) -> SimpleNamespace:
    """The fields of the root table of `data`, by name; ValueError or struct.error if it is broken."""
    (table,) = struct.unpack_from("<I", data)
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, vtable)
    found = SimpleNamespace()
    for number, field in enumerate(fields):
        slot = 4 + 2 * number
        offset = struct.unpack_from("<H", data, vtable + slot)[0] if slot + 2 <= size else 0
        setattr(found, field, _read_field(field, data, table + offset if offset else 0))
    return found


def _read_field(field: str, data: memoryview, place: int) -> SimpleNamespace | int | str | memoryview:
    """One field at an offset of `data`; its default if that is 0."""
    if field == "timestamp":
        seconds, nanos = struct.unpack_from("<II", data, place) if place else (0, 0)
        return SimpleNamespace(sec=seconds, nsec=nanos)
    if field in NUMBERS:
        return int(struct.unpack_from("<I", data, place)[0]) if place else 0
    vector = data[:0]
    if place:
        start = place + struct.unpack_from("<I", data, place)[0]
        (count,) = struct.unpack_from("<I", data, start)
        vector = data[start + 4 : start + 4 + count]
        if len(vector) < count:
            raise ValueError(f"{field} runs over the end")
    return vector if field == "data" else bytes(vector).decode("utf-8", "replace")
