"""Coded streams over real sockets: the same tokens, or none, and the reader is told."""

import os
import resource
from itertools import islice

import msgspec
import numpy as np
import pytest

from streamtok.coding.coder import grid_checksum, save_coder
from streamtok.coding.library import Coders
from streamtok.wire.coded import GridReader
from streamtok.wire.errors import WireError
from streamtok.wire.message import TokenMessage, compute_checksum, pack, unpack
from streamtok.wire.publisher import Publisher
from streamtok.wire.streams import StreamTable
from streamtok.wire.subscriber import Subscription, subscribe
from tests.kit.coders import draw_grids, make_coder
from tests.kit.wire import GRID, Served, eventually, make_group, make_info

CODER = make_coder(tokenizer="ab12")
GRIDS = draw_grids(CODER, 20, (GRID[0], GRID[1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("coder")
    save_coder(CODER, path)
    return path


@pytest.fixture(params=["coded", "independent"])
def node(request):
    with Served(compression=request.param, coder=CODER) as served:
        served.do(lambda publisher: publisher.add_stream(make_info(compression="coded")))
        yield served


def send(node: Served, first: int, last: int) -> None:
    node.publish(*(make_group(number, tokens=GRIDS[number]) for number in range(first, last)))


def read(reader: Subscription, count: int) -> list[TokenMessage]:
    messages = list(islice(reader, count))
    for message in messages:
        if not message.unreadable:
            assert np.array_equal(message.tokens, GRIDS[message.header.seq])
            assert message.tokens.dtype == np.uint16
    return messages


def test_tokens_arrive_as_they_were_in_fewer_bytes_and_a_late_reader_gets_the_epoch(node, folder):
    with subscribe(node.endpoint, timeout=60, coders=[folder]) as reader:
        node.wait_subscribers(1)
        send(node, 0, 12)
        messages = read(reader, 12)
        assert not any(message.unreadable for message in messages)
        assert reader.infos["front"].coder == CODER.fingerprint
        with subscribe(node.endpoint, timeout=60, join="epoch", coders=[folder]) as late:
            assert [message.header.seq for message in read(late, 4)] == [8, 9, 10, 11]
            send(node, 12, 14)
            assert not any(message.unreadable for message in read(late, 2))
        assert reader.counts()["front"]["unreadable"] == 0


def test_a_reader_that_joins_within_an_epoch_reads_from_the_next_keyframe_on(node, folder):
    send(node, 0, 3)
    with subscribe(node.endpoint, timeout=60, coders=[folder]) as reader:
        node.wait_subscribers(1)
        reader.info("front")
        send(node, 3, 10)
        messages = read(reader, 7)
        independent = node.publisher.compression == "independent"
        assert [bool(message.unreadable) for message in messages] == [not independent] * 5 + [False] * 2
        assert reader.counts()["front"]["unreadable"] == (0 if independent else 5)
        if not independent:
            assert not messages[0].decodable
            with pytest.raises(WireError, match="front seq 3: a grid that it is coded from was lost"):
                _ = messages[0].tokens


def test_who_keeps_the_newest_alone_reads_it_all_the_same(node, folder):
    with subscribe(node.endpoint, timeout=60, latest_only=True, coders=[folder]) as reader:
        node.wait_subscribers(1)
        send(node, 0, 7)
        assert eventually(lambda: reader.counts().get("front", {}).get("discarded") == 6)
        (message,) = read(reader, 1)
        assert message.header.seq == 6
        assert not message.unreadable


def test_a_relay_without_the_coder_passes_it_on_and_its_reader_is_told_by_name(node, folder):
    with subscribe(node.endpoint, timeout=60) as blind, Publisher("tcp://127.0.0.1:*") as relay:
        node.wait_subscribers(1)
        relay.forward_info(blind.info("front"), -1)
        with subscribe(relay.endpoint, timeout=60, coders=[folder]) as reader:
            assert relay.wait_subscribers(1, 60)
            send(node, 0, 3)
            for message in islice(blind, 3):
                with pytest.raises(WireError, match=f"coded by token coder {CODER.fingerprint}, which is not here"):
                    _ = message.tokens
                relay.forward(message)
            assert not any(message.unreadable for message in read(reader, 3))
        assert blind.counts()["front"]["unreadable"] == 3


def coded_messages(count: int) -> list[TokenMessage]:
    """Messages of one epoch, as they come from a socket."""
    table = StreamTable({"session": "0" * 32, "control": None}, coder=CODER)
    table.add(make_info(compression="coded"))
    messages = []
    for number in range(count):
        state = table.get("front")
        header, parts = state.pack_group(make_group(number, interval=99, tokens=GRIDS[number]), 0)
        state.note_sent(header, parts)
        messages.append(unpack(parts))
    return messages


def test_damage_another_coder_and_a_gap_are_errors_and_never_other_tokens(folder):
    messages = coded_messages(6)
    other = make_coder(tokenizer="ab12", seed=1)
    damaged = bytearray(messages[2].payload)
    damaged[0] ^= 64
    header = msgspec.structs.replace(messages[2].header, checksum=compute_checksum(bytes(damaged)))
    forged = msgspec.structs.replace(messages[2].header.coding, coder=other.fingerprint)
    wrong = {
        "damaged": unpack(pack(header, bytes(damaged))),
        "by another coder": unpack(
            pack(msgspec.structs.replace(messages[2].header, coding=forged), messages[2].payload)
        ),
    }
    rng = np.random.default_rng(0)
    noise = rng.bytes(len(messages[0].payload))
    header = msgspec.structs.replace(messages[0].header, checksum=compute_checksum(noise), seq=2)
    wrong["a damaged keyframe"] = unpack(pack(header, noise))
    for message in wrong.values():
        coders = Coders([folder])
        coders._given[other.fingerprint] = other
        reader = GridReader(coders)
        for each in messages[:2]:
            assert np.array_equal(reader.read(each, True).tokens, GRIDS[each.header.seq])
        with pytest.raises(WireError, match="front seq 2"):
            reader.read(message, True)
        assert reader.read(messages[3], True).unreadable  # it is coded from the damaged one
        assert reader.read(messages[4], True).unreadable  # whatever is said of its continuity
        assert reader.unreadable["front"] == 2
        assert np.array_equal(reader.read(messages[0], True).tokens, GRIDS[0])


@pytest.mark.parametrize(
    "change", [{"compression": "none"}, {"coding": None}, {"grid": [1, 4, 6]}, {"levels": [8, 8, 8, 5, 25]}]
)
def test_headers_that_do_not_fit_coded_payloads_are_refused(change, folder):
    (message,) = coded_messages(1)
    topic, header, payload = pack(message.header, message.payload)
    changed = msgspec.msgpack.encode(msgspec.msgpack.decode(header) | change)
    with pytest.raises(WireError):
        GridReader(Coders([folder])).read(unpack([topic, changed, payload]), True)


def test_a_grid_that_could_not_be_sent_is_not_what_the_next_one_is_coded_from(folder):
    """As where a reader does not keep up under `lossless`: it gets the right tokens of what is sent after that."""
    table = StreamTable({"session": "0" * 32, "control": None}, coder=CODER)
    table.add(make_info(compression="coded"))
    state, reader = table.get("front"), GridReader(Coders([folder]))
    for number in range(4):
        header, parts = state.pack_group(make_group(number, interval=99, tokens=GRIDS[number]), 0)
        if number != 2:
            state.note_sent(header, parts)
            assert np.array_equal(reader.read(unpack(parts), True).tokens, GRIDS[number])


def test_a_node_cannot_send_what_its_coder_is_not_for():
    with (
        Publisher("tcp://127.0.0.1:*", coder=make_coder()) as publisher,
        pytest.raises(ValueError, match="tokenizer ab12 needs its own token coder, given is that of tokenizer 000"),
    ):
        publisher.add_stream(make_info(compression="coded"))
    table = StreamTable({"session": "0" * 32, "control": None}, coder=CODER)
    table.add(make_info(compression="coded"))
    with pytest.raises(ValueError, match="tokenizer cd34 needs its own token coder, given is that of tokenizer ab12"):
        table.add(make_info(compression="coded", tokenizer="cd34"))


def damage(payload: bytes, rng: np.random.Generator) -> bytes:
    """Noise, or a payload with some of its bytes changed, or cut off, or with more behind it."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.bytes(int(rng.integers(24)))
    if kind == 1:
        return payload[: rng.integers(len(payload))]
    if kind == 2:
        return payload + rng.bytes(int(rng.integers(1, 9))) + b"\1"
    changed = bytearray(payload)
    for place in rng.integers(len(payload), size=rng.integers(1, 4)):
        changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed)


@pytest.mark.slow
def test_hostile_payloads_end_in_errors_and_leave_no_memory_behind(folder):
    """As many as STREAMTOK_HOSTILE_PAYLOADS says."""
    count, rng = int(os.environ.get("STREAMTOK_HOSTILE_PAYLOADS", 20_000)), np.random.default_rng(0)
    (message,) = coded_messages(1)
    tokens = np.array([[1, 20_000, 63_999]], np.uint16)
    payload = CODER.encode(tokens)[0]
    coding = msgspec.structs.replace(message.header.coding, checksum=grid_checksum(tokens))
    header = msgspec.structs.replace(message.header, grid=[1, 3], coding=coding)
    reader, errors, right, peak = GridReader(Coders([folder])), 0, 0, 0
    for number in range(count):
        hostile = damage(payload, rng)
        forged = msgspec.structs.replace(header, checksum=compute_checksum(hostile))
        try:
            right += np.array_equal(reader.read(unpack(pack(forged, hostile)), True).tokens, tokens)
        except WireError:
            errors += 1
        if number == 1000:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert errors + right == count
    assert errors > 0.9 * count  # other bytes may name a number in the same interval
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    print(
        f"{errors} of {count} hostile payloads ended in an error, {right} in the right tokens; {grown} kB more memory"
    )
    assert grown < 20_000
