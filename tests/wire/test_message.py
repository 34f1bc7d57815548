"""Messages: they survive the trip, plain msgpack reads them, and nothing else gets through."""

import math

import msgpack
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.wire.message import (
    DTYPES,
    FrameHeader,
    Info,
    Limits,
    Status,
    TokenHeader,
    WireError,
    compute_checksum,
    pack,
    unpack,
    unpack_frame,
    unpack_info,
    unpack_status,
)

SESSION = "0123456789abcdef0123456789abcdef"
KINDS = {"uint16": ([4, 6], [8, 8, 8, 5, 5, 5]), "uint32": ([2, 4, 6], [512, 512]), "float16": ([16, 4, 6], [])}


def fields_of(payload: bytes, dtype: str = "uint16", **changes) -> dict:
    grid, levels = KINDS.get(dtype, KINDS["uint16"])
    fields = {"version": 1, "stream": "front", "session": SESSION, "epoch": 3, "seq": 41, "keyframe": False}
    fields |= {"tokenizer": "ab12", "frame_ids": [5, 6, 7, 9], "capture_ns": [1, 2, 3, 5], "dropped": 1, "repeated": 0}
    fields |= {"grid": grid, "dtype": dtype, "levels": levels, "image_size": [32, 48], "encode_ns": 7}
    return fields | {"publish_ns": 9, "compression": "none", "checksum": compute_checksum(payload)} | changes


NAMES = list(fields_of(b""))


def tokens_of(dtype: str) -> np.ndarray:
    dtype = dtype if dtype in KINDS else "uint16"
    grid, levels = KINDS[dtype]
    rng = np.random.default_rng(0)
    if dtype == "float16":
        return rng.standard_normal(grid).astype(DTYPES[dtype])
    return rng.integers(0, math.prod(levels), grid).astype(DTYPES[dtype])


def parts_of(dtype: str = "uint16", payload: bytes | None = None, topic: bytes = b"tokens/front", **changes) -> list:
    payload = tokens_of(dtype).tobytes() if payload is None else payload
    return [topic, msgpack.packb(fields_of(payload, dtype, **changes)), payload]


@pytest.mark.parametrize("dtype", KINDS)
def test_a_message_of_plain_msgpack_reads_as_a_read_only_view_of_the_payload(dtype):
    tokens = tokens_of(dtype)
    parts = parts_of(dtype)
    message = unpack(parts)
    assert message.tokens.dtype == tokens.dtype
    assert np.array_equal(message.tokens, tokens)
    assert np.shares_memory(message.tokens, np.frombuffer(parts[2], np.uint8))
    assert not message.tokens.flags.writeable
    assert message.stream == "front"
    assert message.capture_ns == 5


@pytest.mark.parametrize("dtype", KINDS)
def test_plain_msgpack_reads_what_we_pack(dtype):
    payload = tokens_of(dtype).tobytes()
    header = TokenHeader(**fields_of(payload, dtype))
    topic, head, body = pack(header, payload)
    assert (topic, body) == (b"tokens/front", payload)
    assert msgpack.unpackb(head) == fields_of(payload, dtype)
    assert list(msgpack.unpackb(head)) == NAMES
    assert [bytes(part) for part in unpack([topic, head, body]).parts] == [topic, head, body]


def test_tokens_become_tensors_that_a_decoder_takes():
    assert unpack(parts_of("uint16")).torch().dtype == torch.int32
    assert unpack(parts_of("uint32")).torch().shape == (2, 4, 6)
    latent = unpack(parts_of("float16")).torch()
    assert latent.dtype == torch.float16
    assert np.array_equal(latent.numpy(), tokens_of("float16"))


def test_a_payload_that_is_not_aligned_is_still_read_right():
    parts = parts_of()
    parts[2] = memoryview(b"x" + parts[2])[1:]
    assert np.array_equal(unpack(parts).tokens, tokens_of("uint16"))


def test_unknown_fields_are_for_later_versions_of_the_same_protocol():
    parts = parts_of()
    parts[1] = msgpack.packb(fields_of(parts[2]) | {"gps": [1.0, 2.0]})
    assert unpack(parts).header.seq == 41


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused_naming_both(version):
    old = {"version": version, "camera": "front", "seq": 1}
    with pytest.raises(WireError, match=f"wire version {version}, this reader knows version 1") as error:
        unpack([b"tokens/front", msgpack.packb(old), b""])
    assert error.value.kind == "version"


@pytest.mark.parametrize("missing", NAMES)
def test_every_field_is_required(missing):
    parts = parts_of()
    fields = fields_of(parts[2])
    del fields[missing]
    parts[1] = msgpack.packb(fields)
    with pytest.raises(WireError, match=missing):
        unpack(parts)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"stream": "front\n"}, "header"),
        ({"stream": "a/b"}, "header"),
        ({"stream": "x" * 65}, "header"),
        ({"session": SESSION.upper()}, "header"),
        ({"seq": -1}, "header"),
        ({"seq": 1.0}, "header"),
        ({"seq": True}, "header"),
        ({"keyframe": 1}, "header"),
        ({"frame_ids": [1, 2]}, "header"),
        ({"frame_ids": [5, 6, 6, 9]}, "header"),
        ({"capture_ns": [1, 2, 3, 2]}, "header"),
        ({"frame_ids": [], "capture_ns": []}, "header"),
        ({"frame_ids": list(range(300)), "capture_ns": list(range(300))}, "header"),
        ({"keyframe": True}, "header"),
        ({"grid": [4]}, "header"),
        ({"grid": [0, 6]}, "header"),
        ({"grid": [1, 1, 4, 6]}, "header"),
        ({"grid": [2**31, 2**31]}, "header"),
        ({"grid": [2**31 - 1, 2**31 - 1]}, "size"),
        ({"grid": [4, 7]}, "size"),
        ({"dtype": "uint8"}, "header"),
        ({"dtype": "uint32", "levels": [8]}, "header"),
        ({"dtype": "float16", "levels": [8]}, "header"),
        ({"levels": []}, "header"),
        ({"levels": [2**31, 2]}, "header"),
        ({"levels": [256, 257]}, "header"),
        ({"levels": [2, 2]}, "values"),
        ({"image_size": [32]}, "header"),
        ({"compression": "gzip"}, "header"),
        ({"checksum": 2**32}, "header"),
        ({"checksum": 1}, "checksum"),
        ({"topic": b"tokens/front_left"}, "topic"),
        ({"topic": b"info/front"}, "topic"),
        ({"payload": b""}, "size"),
        ({"payload": bytes(49)}, "size"),
    ],
)
def test_a_field_out_of_its_range_is_refused(changes, kind):
    with pytest.raises(WireError) as error:
        unpack(parts_of(**changes))
    assert error.value.kind == kind


def test_limits_bound_grid_and_header():
    with pytest.raises(WireError, match="max_grid"):
        unpack(parts_of(), Limits(max_grid=23))
    with pytest.raises(WireError, match="accepted up to 100"):
        unpack(parts_of(), Limits(max_header=100))


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_three_parts_or_nothing(count):
    with pytest.raises(WireError, match=f"{count} parts"):
        unpack([*parts_of(), b""][:count])


def test_zstd_payloads_are_bounded_by_the_grid():
    zstandard = pytest.importorskip("zstandard")
    tokens = tokens_of("uint16").tobytes()
    good = zstandard.ZstdCompressor().compress(tokens)
    assert unpack(parts_of(payload=good, compression="zstd")).tokens.tobytes() == tokens
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(tokens)
    lying = good[:5] + bytes([good[5] ^ 0xFF]) + good[6:]
    for payload in (bomb, silent, lying, good[:-3], good + b"x", tokens, b""):
        with pytest.raises(WireError) as error:
            unpack(parts_of(payload=payload, compression="zstd"))
        assert error.value.kind in ("size", "compression")


def make_frame(encoding, image_size):
    numbers = {"seq": 0, "frame_id": 1, "capture_ns": 2, "publish_ns": 3}
    return FrameHeader(stream="front", session=SESSION, encoding=encoding, image_size=image_size, **numbers)


def test_info_frame_and_status_make_the_round_trip():
    info = Info(stream="front", tokenizer="ab", grid=[4, 6], dtype="uint16", levels=[8] * 5, image_size=[32, 48])
    assert unpack_info(pack(info)) == info
    status = Status(node="rig", session=SESSION, time_ns=5, values={"fps": 29.9, "streams": {"front": 3}})
    assert unpack_status(pack(status)) == status
    pixels = bytes(range(18))
    frame = make_frame("rgb8", [2, 3])
    message = unpack_frame(pack(frame, pixels))
    assert (message.header, bytes(message.payload)) == (frame, pixels)
    with pytest.raises(WireError, match="18"):
        unpack_frame(pack(frame, pixels[:-1]))
    with pytest.raises(WireError, match="CRC"):
        unpack_frame(pack(msgspec.structs.replace(frame, checksum=1), pixels))
    with pytest.raises(WireError, match="accepted up to"):
        unpack_frame(pack(msgspec.structs.replace(frame, encoding="h264"), pixels), Limits(max_frame=17))


@pytest.mark.parametrize(("encoding", "nbytes"), [("mono8", 24), ("uyvy", 48), ("nv12", 36), ("bayer_rggb8", 24)])
def test_raw_frames_have_the_size_of_their_encoding(encoding, nbytes):
    frame = make_frame(encoding, [4, 6])
    assert frame.nbytes == nbytes


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)
values = st.recursive(scalars | st.binary(max_size=8), lambda inner: st.lists(inner, max_size=4), max_leaves=8)
READERS = [unpack, unpack_info, unpack_frame, unpack_status]


@settings(max_examples=150)
@given(st.lists(st.binary(max_size=64), max_size=5), st.sampled_from(READERS))
def test_random_bytes_are_an_error_of_the_protocol_and_nothing_else(parts, reader):
    with pytest.raises(WireError):
        reader(parts)


@settings(max_examples=200)
@given(st.data())
def test_a_header_with_any_field_replaced_reads_or_is_refused(data):
    parts = parts_of()
    name = data.draw(st.sampled_from(NAMES))
    parts[1] = msgpack.packb(fields_of(parts[2]) | {name: data.draw(values)})
    read_or_refuse(parts)


@settings(max_examples=200)
@given(st.data())
def test_damaged_parts_read_or_are_refused(data):
    parts = parts_of(data.draw(st.sampled_from(sorted(KINDS))))
    which = data.draw(st.integers(0, 2))
    damaged = bytearray(parts[which])
    start = data.draw(st.integers(0, len(damaged)))
    damaged[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    parts[which] = bytes(damaged)
    read_or_refuse(parts)


def read_or_refuse(parts: list) -> None:
    try:
        message = unpack(parts)
    except WireError:
        return
    assert list(message.tokens.shape) == message.header.grid
    assert message.tokens.nbytes == message.header.nbytes <= len(parts[2])


@pytest.mark.parametrize("head", [b"", b"\xc1", b"\xdf\xff\xff\xff\xff", b"\x91" * 5000, b"\xdd\xff\xff\xff\xff" * 9])
def test_hostile_msgpack_is_refused(head):
    for reader, topic in zip(READERS, (b"tokens/a", b"info/a", b"frames/a", b"status/a"), strict=True):
        with pytest.raises(WireError):
            reader([topic, head, b""])


def test_a_deeply_nested_engine_map_in_info_is_refused():
    info = Info(stream="front", tokenizer="ab", grid=[4, 6], dtype="uint16", levels=[8] * 5, image_size=[32, 48])
    topic, head, payload = pack(info)
    deep = msgpack.packb("engine") + b"\x81\xa1a" + b"\x91" * 20000 + b"\xc0"
    with pytest.raises(WireError):
        unpack_info([topic, head.replace(msgpack.packb("engine") + b"\x80", deep), payload])
