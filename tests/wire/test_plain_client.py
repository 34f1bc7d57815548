"""The example client, which knows only the protocol page: pyzmq and msgpack, no streamtok."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.kit.wire import Served, make_group, make_info

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
