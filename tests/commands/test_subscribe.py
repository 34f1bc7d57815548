"""`streamtok subscribe` as a user runs it, and the relay behind --forward."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from streamtok.commands import replay
from streamtok.commands import subscribe as node_of
from streamtok.wire import connection
from streamtok.wire.subscriber import subscribe
from tests.kit.threads import beside
from tests.kit.wire import Served, eventually, make_group


def run_and_publish(node: Served, arguments: list[str], numbers: range, readers: int = 1) -> int:
    """Run the command in this process while the node publishes; its exit status."""

    def publish() -> None:
        node.wait_subscribers(readers)
        node.publish(*[make_group(number) for number in numbers])

    with beside(publish):
        return node_of.main([node.endpoint, *arguments])


def test_one_line_per_message_and_a_summary(capsys):
    with Served("front") as node:
        assert run_and_publish(node, ["--max-messages", "3", "--timeout", "60"], range(3)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("front seq 0 epoch 0 grid 4x6 uint16 frames 0-0 capture-to-publish")
    assert lines[0].endswith("keyframe")
    assert lines[3].startswith("3 messages")
    assert lines[5].startswith("  publish to reader ms: p50 ")


def test_json_is_one_line_on_standard_output(capsys):
    with Served("front") as node:
        arguments = ["--stream", "front", "--max-messages", "9", "--timeout", "60", "--json"]
        assert run_and_publish(node, arguments, range(9)) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    summary = json.loads(out)
    assert (summary["messages"], summary["bytes"], summary["malformed"]) == (9, 9 * 48, {})
    assert summary["streams"]["front"]["keyframes"] == 2
    assert 0 < summary["latency_ms"]["publish_to_reader"]["p50"] < 10_000


HOUR_NS = 3_600_000_000_000


class ShiftedClock:
    """A node's clock that can be wrong by so many ns."""

    def __init__(self, shift_ns: int) -> None:
        self.shift_ns = shift_ns

    def __call__(self) -> int:
        return time.monotonic_ns() + self.shift_ns


def test_what_came_with_joining_tells_nothing_of_the_way(capsys):
    clock = ShiftedClock(-HOUR_NS)
    with Served("front", clock_ns=clock) as node:
        node.publish(*[make_group(number) for number in range(4)])
        clock.shift_ns = 0
        stop = threading.Event()

        def publish_live() -> None:
            for number in range(4, 1000):
                if not stop.wait(0.02):
                    node.publish(make_group(number, interval=1000))

        arguments = ["--join", "epoch", "--max-messages", "40", "--timeout", "60", "--json"]
        with beside(publish_live):
            assert node_of.main([node.endpoint, *arguments]) == 0
            stop.set()
    summary = json.loads(capsys.readouterr().out)
    assert summary["streams"]["front"]["undecodable"] == 0
    assert 0 < summary["latency_ms"]["publish_to_reader"]["p99"] < HOUR_NS / 1e6 / 2


@pytest.mark.parametrize(("ahead", "parts"), [("some", ["publish", "capture"]), ("most", ["publish"])])
def test_frames_taken_in_the_future_have_no_age_but_their_messages_have(ahead, parts, capsys):
    def publish(node: Served) -> None:
        node.wait_subscribers(1)
        for number in range(12):
            shift = -HOUR_NS if ahead == "some" and number % 2 else HOUR_NS
            node.publish(make_group(8 * number, capture_ns=[time.monotonic_ns() + shift]))

    with Served("front") as node, beside(publish, node):
        assert node_of.main([node.endpoint, "--max-messages", "12", "--timeout", "60"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"  (\w+) to reader ms: p50 \d", out) == parts
    assert re.search(r"  \d+ came before their capture time", out)
    assert "disagree" not in out


def test_clocks_that_disagree_are_told_of(capsys):
    with Served("front", clock_ns=ShiftedClock(HOUR_NS)) as node:
        assert run_and_publish(node, ["--max-messages", "9", "--timeout", "60"], range(9)) == 0
    out = capsys.readouterr().out
    assert re.search(r"the clocks of node and reader disagree: \d came before they were sent, by up to 3[56]\d{5}", out)
    assert "to reader ms" not in out


def test_messages_that_no_decoder_can_take_are_counted_and_explained(capsys):
    with Served("front") as node:
        node.publish(make_group(0))
        assert run_and_publish(node, ["--max-messages", "3", "--timeout", "60"], range(1, 4)) == 0
    out = capsys.readouterr().out
    assert "messages 3, keyframes 0, lost 0, stale 0, sessions 1, discarded 0, undecodable 3" in out
    told = [line for line in out.splitlines() if "--join epoch fetches" in line]
    assert [line.split("decodable")[0][-4:] for line in told] == ["not ", "  un"]  # the first of the three, the summary


def test_it_ends_with_the_node_when_asked(capsys):
    def publish_and_end() -> None:
        node.wait_subscribers(1)
        node.publish(make_group(0))
        node.close()

    with Served("front") as node, beside(publish_and_end):
        assert node_of.main([node.endpoint, "--until-end", "--timeout", "60", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["messages"] == 1


def test_its_log_may_be_lines_of_json(ipc_path, capsys, monkeypatch):
    monkeypatch.setattr(connection, "SILENCE_S", 0.1)
    arguments = [f"ipc://{ipc_path}", "--timeout", "2", "--log-format", "json"]
    assert node_of.main(arguments) == 1
    first = capsys.readouterr().err.splitlines()[0]
    assert json.loads(first)["event"] == "waiting"


def test_silence_is_a_failure_with_a_summary(capsys):
    with Served("front") as node:
        assert node_of.main([node.endpoint, "--timeout", "0.2"]) == 1
    captured = capsys.readouterr()
    assert "no message from" in captured.err
    assert captured.out.startswith("0 messages")


def test_a_node_that_is_not_there_is_told_of_once(capsys, monkeypatch):
    monkeypatch.setattr(connection, "SILENCE_S", 0.1)
    assert node_of.main(["tcp://127.0.0.1:1", "--timeout", "2"]) == 1
    assert capsys.readouterr().err.count("event=waiting endpoint=tcp://127.0.0.1:1: no node answers there yet") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "endpoint: required"),
        (["front"], 2, "expected tcp://HOST:PORT or ipc://PATH"),
        (["tcp://127.0.0.1:1", "--max-messages", "0"], 2, "max_messages"),
        (["tcp://127.0.0.1:1", "--config", "/no/such.yaml"], 2, "no such configuration file"),
        (["tcp://127.0.0.1:1", "--curve", "/no/such"], 1, "does not exist"),
        (["tcp://127.0.0.1:1", "--forward", "tcp://*:5999"], 1, "refusing to bind"),
        (["tcp://127.0.0.1:1", "--join", "epoch", "--latest-only"], 1, "choose one"),
    ],
)
def test_wrong_use_says_what_is_wrong(arguments, status, text, capsys):
    assert node_of.main(arguments) == status
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1


def test_options_from_a_file_and_flags_on_top(tmp_path, capsys):
    config = tmp_path / "reader.yaml"
    with Served("front") as node:
        config.write_text(
            f"endpoint: {node.endpoint}\nstreams: [front]\nmax_messages: 1\ntimeout: 20\nlatest_onli: true\n"
        )
        assert node_of.main(["--config", str(config)]) == 2
        assert (
            "reader.yaml:5: latest_onli: unknown key (value True); did you mean 'latest_only'"
            in capsys.readouterr().err
        )
        config.write_text(f"endpoint: {node.endpoint}\nmax_messages: 1\ntimeout: 20\njson: true\n")
        with beside(lambda: (node.wait_subscribers(1), node.publish(make_group(0), make_group(1)))):
            assert node_of.main(["--config", str(config), "--max-messages", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["messages"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_its_summary_and_leaves_nothing(number, ipc_path):
    relayed = ipc_path.with_name("relay")
    with Served("front", bind=f"ipc://{ipc_path}") as node:
        command = [sys.executable, "-m", "streamtok.cli", "subscribe", node.endpoint, "--json"]
        process = subprocess.Popen([*command, "--forward", f"ipc://{relayed}"], stdout=subprocess.PIPE, text=True)
        node.wait_subscribers(1)
        assert eventually(relayed.exists)
        with subscribe(f"ipc://{relayed}", timeout=60) as reader:
            reader.info("front", timeout=60)
            node.publish(make_group(0))
            assert next(reader).header.seq == 0
            process.send_signal(number)
            out, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    assert json.loads(out)["forwarded"] == 1
    assert list(ipc_path.parent.iterdir()) == []


def test_no_thread_is_left():
    before = {thread.name for thread in threading.enumerate()}
    with Served("front") as node, subscribe(node.endpoint) as reader:
        node.wait_subscribers(1)
        reader.info("front")
    assert eventually(lambda: {thread.name for thread in threading.enumerate()} <= before)


def test_a_group_without_sockets_of_its_own_is_refused(ipc_path, tmp_path, capsys):
    assert node_of.main([f"ipc://{ipc_path}", "--ipc-group", "0"]) == 2
    assert "ipc_group '0' is for the sockets of forward" in capsys.readouterr().err
    assert replay.main([str(tmp_path), "--ipc-group", "0"]) == 2
    assert "ipc_group '0' is for the sockets of bind" in capsys.readouterr().err


def test_a_relay_gives_its_group_the_sockets(ipc_path, capsys):
    forward = ipc_path.parent / "relay"

    def publish_once_it_is_shared() -> None:
        node.wait_subscribers(1)
        eventually(lambda: forward.exists() and forward.stat().st_mode & 0o777 == 0o660)
        node.publish(make_group(0))

    with Served("front") as node, beside(publish_once_it_is_shared):
        arguments = ["--forward", f"ipc://{forward}", "--ipc-group", str(os.getgid()), "--max-messages", "1"]
        assert node_of.main([node.endpoint, *arguments, "--timeout", "60"]) == 0
