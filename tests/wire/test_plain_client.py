"""The example client, which knows only the protocol page: pyzmq and msgpack, no streamtok."""

import itertools
import json
import subprocess
import sys
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from tests.kit.wire import Served, eventually, make_group, make_header, make_info

CLIENT = Path(__file__).parents[2] / "examples" / "plain_client.py"
# a client of another language has no streamtok either
PROGRAM = (
    "import sys, runpy; sys.modules['streamtok'] = sys.modules['msgspec'] = sys.modules['numpy'] = None; "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(CLIENT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(client: subprocess.Popen) -> list[dict]:
    out, err = client.communicate(timeout=200)
    assert client.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_a_client_finds_the_control_socket_of_a_node_bound_to_all_addresses():
    with Served("front", bind="tcp://0.0.0.0:*", insecure=True) as node:
        node.publish(make_group(0), make_group(1))
        client = start(node.endpoint.replace("0.0.0.0", "127.0.0.1"), "front", "--join", "--messages", "2")
        assert [line["seq"] for line in lines_of(client)] == [0, 1]


def test_the_client_uses_nothing_of_ours():
    text = CLIENT.read_text()
    imports = {line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imports <= {"argparse", "json", "math", "struct", "sys", "time", "zlib", "msgpack", "zmq"}


@pytest.mark.parametrize(
    ("dtype", "grid", "levels"),
    [("uint16", [4, 6], [8, 8, 8, 5, 5, 5]), ("uint32", [2, 4, 6], [1024, 1024]), ("float16", [16, 4, 6], [])],
)
def test_a_client_from_the_page_alone_reads_every_kind_of_grid(dtype, grid, levels):
    rng = np.random.default_rng(0)
    grids = [(rng.integers(0, 4096, grid) / 16).astype(dtype) for _ in range(5)]
    with Served("front_left") as node:
        node.do(lambda publisher: publisher.add_stream(make_info("front", dtype=dtype, grid=grid, levels=levels)))
        client = start(node.endpoint, "front", "--messages", "5")
        node.wait_subscribers(1)
        for number, tokens in enumerate(grids):
            node.publish(make_group(number, stream="front_left"), make_group(number, tokens=tokens))
        lines = lines_of(client)
    for seq, (line, tokens) in enumerate(zip(lines, grids, strict=True)):
        assert (line["stream"], line["seq"], line["decodable"], line["lost"]) == ("front", seq, True, 0)
        assert line["first_tokens"] == tokens.ravel()[:4].tolist()
        assert line["sum"] == tokens.astype(np.float64).sum()


def test_nonsense_and_forged_numbers_cost_a_client_nothing():
    """Every field of another kind, and numbers and sessions that lie; what comes between is read, and is decodable."""
    grid = np.zeros((4, 6), "<u2").tobytes()
    good = [msgspec.to_builtins(make_header(seq, interval=100)) | {"checksum": zlib.crc32(grid)} for seq in range(40)]
    info = msgspec.to_builtins(make_info(session="0" * 32, control=None, last_seq=0))
    bad = [good[5] | {name: value} for name in good[5] for value in ({}, 1.5, b"\xff")]
    bad += [good[5] | {"seq": 2**62}, good[5] | {"session": "f" * 32}, good[5] | {"seq": 0}]
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        client = start(f"tcp://127.0.0.1:{port}", "front", "--messages", "40")
        assert [socket.recv() for _ in range(2)]
        odd = [[b"tokens/front", each] for each in (b"\x91" * 60_000, b"\xc1", *map(msgspec.msgpack.encode, bad))]
        used = ("version", "stream", "session", "last_seq", "control")
        odd += [[b"info/front", msgspec.msgpack.encode(info | {name: value})] for name in used for value in ({}, 1.5)]
        odd += [[b"info/front", msgspec.msgpack.encode(info | {"last_seq": 2**62})]]
        for seq, header in enumerate(good):
            socket.send_multipart([b"tokens/front", msgspec.msgpack.encode(header), grid])
            for each in odd[seq::39]:
                socket.send_multipart([*each, grid])
        lines = lines_of(client)
    assert [(line["seq"], line["lost"], line["decodable"]) for line in lines] == [(seq, 0, True) for seq in range(40)]


def test_every_second_message_may_be_lost_and_repeats_are_skipped():
    """Infos bear a message out as the next one does; the last one here has none behind it."""
    order = [0, 1, 1, 3, 5, 3, 7, 8, 10, 10, 12, 14]
    grid = np.zeros((4, 6), "<u2").tobytes()
    headers = {seq: msgspec.to_builtins(make_header(seq, interval=5)) | {"checksum": zlib.crc32(grid)} for seq in order}
    info = msgspec.to_builtins(make_info(session="0" * 32, control=None, last_seq=14))
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        client = start(f"tcp://127.0.0.1:{port}", "front", "--messages", "9")
        assert [socket.recv() for _ in range(2)]
        for seq in order:
            socket.send_multipart([b"tokens/front", msgspec.msgpack.encode(headers[seq]), grid])
        socket.send_multipart([b"info/front", msgspec.msgpack.encode(info), b""])
        lines = lines_of(client)
    decodable = [0, 1, 5, 10]
    lost = {0: 0, 1: 0, 3: 1, 5: 2, 7: 3, 8: 3, 10: 4, 12: 5, 14: 6}
    assert [(line["seq"], line["lost"]) for line in lines] == list(lost.items())
    assert [line["seq"] for line in lines if line["decodable"]] == decodable


def test_a_client_skips_what_came_with_the_epoch_and_one_wrong_number_in_it_costs_nothing():
    grid = np.zeros((4, 6), "<u2").tobytes()
    fields = [msgspec.to_builtins(make_header(seq, interval=20)) | {"checksum": zlib.crc32(grid)} for seq in range(9)]
    messages = [[b"tokens/front", msgspec.msgpack.encode(each), grid] for each in (*fields, fields[5] | {"seq": 2**62})]
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket, context.socket(zmq.ROUTER) as control:
        port, beside = (each.bind_to_random_port("tcp://127.0.0.1") for each in (socket, control))
        client = start(f"tcp://127.0.0.1:{port}", "front", "--join", "--messages", "9")
        assert [socket.recv() for _ in range(2)]
        info = make_info(session="0" * 32, control=f"tcp://127.0.0.1:{beside}", last_seq=3)
        socket.send_multipart([b"info/front", msgspec.msgpack.encode(info), b""])
        asker, _ = control.recv_multipart()
        reply = {"version": 1, "id": 1, "ok": True, "result": {"messages": [*messages[:6], messages[9]]}}
        control.send_multipart([asker, msgspec.msgpack.encode(reply)])
        for message in messages[4:9]:
            socket.send_multipart(message)
        lines = lines_of(client)
    assert [(line["seq"], line["lost"], line["decodable"]) for line in lines] == [(seq, 0, True) for seq in range(9)]


def test_a_client_that_is_refused_the_epoch_reads_what_comes():
    with Served(max_epoch_bytes=100) as node:
        node.publish(*(make_group(number) for number in range(4)))
        client = start(node.endpoint, "front", "--join", "--messages", "3")
        numbers = itertools.count(4)
        ended = eventually(lambda: node.publish(make_group(next(numbers))) or client.poll() is not None)
        client.kill()
        out, told = client.communicate()
    assert ended, told
    assert "not kept" in told
    seqs = [json.loads(line)["seq"] for line in out.splitlines()]
    assert seqs == list(range(seqs[0], seqs[0] + 3))


def lose_two(publisher) -> None:
    """As if two messages had found the client's queue full."""
    state = publisher._table.get("front")
    state.info = msgspec.structs.replace(state.info, last_seq=state.info.last_seq + 2)


def test_a_client_joins_late_and_finds_losses():
    with Served("front") as node:
        node.publish(*[make_group(number) for number in range(12)])
        client = start(node.endpoint, "front", "--join", "--messages", "6")
        node.wait_subscribers(1)
        joined = [json.loads(client.stdout.readline()) for _ in range(4)]
        node.publish(make_group(12))
        node.do(lose_two)
        node.publish(make_group(15))
        lines = joined + [json.loads(client.stdout.readline()) for _ in range(2)]
        assert client.wait(60) == 0
    assert [line["seq"] for line in lines] == [8, 9, 10, 11, 12, 15]
    assert [line["decodable"] for line in lines] == [True] * 5 + [False]
    assert lines[-1]["lost"] == 2
