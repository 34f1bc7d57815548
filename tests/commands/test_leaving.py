"""However an ingest node is made to leave, it says what it has done."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from itertools import islice

import pytest

from streamtok.commands import ingest, replay
from streamtok.node import process, rig
from streamtok.wire.subscriber import subscribe

ENDLESS = "synthetic:32x48@50?seed=3"
STARTING = """
import sys, time
import streamtok.commands.ingest as ingest
from streamtok.node import process, rig
process.GRACE_S = 600
{slow}
sys.argv = ["streamtok", "ingest", "--source", "{source}", "--bind", "{bind}", "--model", "nano", "--json"]
from streamtok.cli import main
sys.exit(main())
"""
SLOW = {  # short sleeps, since a signal that comes before a long one has begun waits for its end
    "loading": "def make_core(*a):\n"
    "    print('busy', file=sys.stderr, flush=True)\n"
    "    while True: time.sleep(0.01)\n"
    "rig.make_core = make_core",
    "in one call": "def make_core(*a): b''.join(Stuck())\n"
    "class Stuck:\n"
    "    def __iter__(self):\n"
    "        try:\n"
    "            print('busy', file=sys.stderr, flush=True)\n"
    "            while True: time.sleep(0.01)\n"
    "        except BaseException: time.sleep(600)\n"
    "rig.make_core = make_core",
    "importing": "def make_node(*a, **b):\n"
    "    print('busy', file=sys.stderr, flush=True)\n"
    "    while True: time.sleep(0.01)\n"
    "ingest.make_node = make_node",
}


@pytest.mark.parametrize(
    ("slow", "number"), list(zip(SLOW, [signal.SIGINT, signal.SIGTERM, signal.SIGINT], strict=True))
)
def test_a_node_that_is_told_to_stop_while_it_starts_leaves_with_its_summary_and_status_0(slow, number, endpoint):
    program = STARTING.format(slow=SLOW[slow], source=ENDLESS, bind=endpoint)
    node = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "busy" not in node.stderr.readline():
        assert node.poll() is None
    try:
        node.send_signal(number)
        output, log = node.communicate(timeout=60)
    finally:
        node.kill()
    assert node.returncode == 0, log
    assert "event=end reason='SIG" in log
    [stream] = json.loads(output)["streams"].values()
    assert stream["frames"] == 0


@pytest.mark.parametrize("arguments", [["decode", "tcp://127.0.0.1:1", "-o", "x.mp4"], ["view", "tcp://127.0.0.1:1"]])
def test_a_viewer_that_is_told_to_stop_while_it_starts_leaves_with_status_0(arguments, tmp_path):
    """At once: here its imports never end."""
    (tmp_path / "torch.py").write_text(
        "import sys, time\nprint('busy', file=sys.stderr, flush=True)\nwhile True: time.sleep(0.01)\n"
    )
    command = [sys.executable, "-m", "streamtok.cli", *arguments]
    viewer = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        assert viewer.stderr.readline() == "busy\n"
        viewer.send_signal(signal.SIGTERM)
        _, log = viewer.communicate(timeout=60)
    finally:
        viewer.kill()
    assert viewer.returncode == 0, log
    assert "reason='SIGTERM while it was starting'" in log


def test_a_node_that_is_told_to_stop_while_it_binds_ends_its_recording_and_removes_its_socket(tmp_path):
    slow = """
import os, signal
def make_recorder(*a, begin=rig.make_recorder):
    recorder = begin(*a)
    os.kill(os.getpid(), signal.SIGTERM)
    return recorder
rig.make_recorder = make_recorder"""
    program = STARTING.format(slow=slow, source=ENDLESS, bind=f"ipc://{tmp_path}/t") + "\n"
    program = program.replace('"--json"', f'"--json", "--record", "{tmp_path}/d.mcap"')
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["streams"]["cam0"]["frames"] == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "d.mcap"]
    assert (tmp_path / "d.mcap").read_bytes().endswith(b"\x89MCAP0\r\n")


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
@pytest.mark.parametrize("option", ["--bind", "--control"])
def test_a_taken_endpoint_is_noticed_before_a_model_is_loaded(scheme, option, endpoint, capsys, monkeypatch):
    from streamtok.wire.publisher import Publisher

    monkeypatch.setattr(rig, "make_core", lambda *_: pytest.fail("a model was loaded"))
    with Publisher("tcp://127.0.0.1:*" if scheme == "tcp" else endpoint) as other:
        other_end = {"--bind": "--control", "--control": "--bind"}[option]
        free = "tcp://127.0.0.1:*"
        assert ingest.main(["--source", ENDLESS, option, other.endpoint, other_end, free]) == 1
    assert other.endpoint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("drive.mcap", "exists and is not overwritten"),
        ("away/d.mcap", "does not exist; create it"),
        ("away", "no folder"),
    ],
)
def test_a_recording_that_cannot_begin_is_noticed_before_a_model_is_loaded(
    name, words, tmp_path, endpoint, capsys, monkeypatch
):
    from streamtok.node import replay_node

    monkeypatch.setattr(rig, "make_core", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr(replay_node, "ReplayNode", lambda *_: pytest.fail("a drive was opened"))
    (tmp_path / "drive.mcap").touch()
    record = ["--record", str(tmp_path / name)]
    assert ingest.main(["--source", ENDLESS, "--bind", endpoint, *record]) == 1
    assert words in capsys.readouterr().err
    assert replay.main([str(tmp_path / "drive.mcap"), *record]) == 1
    assert words in capsys.readouterr().err


def test_a_replay_notices_a_taken_endpoint_too(tmp_path, capsys, monkeypatch):
    from streamtok.node import replay_node
    from streamtok.wire.publisher import Publisher

    monkeypatch.setattr(replay_node, "ReplayNode", lambda *_: pytest.fail("a drive was opened"))
    (tmp_path / "drive.mcap").touch()
    with Publisher("tcp://127.0.0.1:*") as other:
        assert replay.main([str(tmp_path / "drive.mcap"), "--bind", other.endpoint]) == 1
    assert other.endpoint in capsys.readouterr().err


def test_a_port_that_a_node_has_just_left_is_free(endpoint):
    from streamtok.wire.binding import probe_endpoints
    from streamtok.wire.publisher import Publisher
    from streamtok.wire.subscriber import subscribe

    with Publisher("tcp://127.0.0.1:*") as publisher, subscribe(publisher.endpoint):
        assert publisher.wait_subscribers(1, 60)
    probe_endpoints(publisher.endpoint, endpoint)


@pytest.mark.parametrize("host", ["eth99", "198.51.100.1", "elsewhere.example"])
def test_an_address_that_is_not_of_this_machine_is_refused_before_a_model_is_loaded(host):
    """An interface, an address, or a name, which is not looked up."""
    from streamtok.wire.binding import BindError, probe_endpoints

    with pytest.raises(BindError, match=re.escape(f"cannot bind tcp://{host}:5555: ") + ".*; name an address"):
        probe_endpoints(f"tcp://{host}:5555")


@pytest.mark.parametrize("host", ["lo", "localhost", "*"])
def test_a_host_may_be_an_interface_a_name_of_this_machine_or_any(host):
    from streamtok.wire.publisher import Publisher
    from streamtok.wire.subscriber import subscribe

    with Publisher(f"tcp://{host}:*", insecure=True) as publisher:
        port = publisher.endpoint.rpartition(":")[2]
        with subscribe(f"tcp://127.0.0.1:{port}"):
            assert publisher.wait_subscribers(1, 60)


def run_shell(line: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m streamtok.cli ingest --source '{ENDLESS}&frames=4' --model nano "
    return subprocess.run(["bash", "-c", command + line], capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("| head -c0; exit ${PIPESTATUS[0]}", 141),
        (">&-", 0),
        (">/dev/full", 1),
        ("<&- >&-", 0),
    ],
)
def test_a_summary_that_nobody_takes_goes_to_standard_error(line, status, endpoint):
    done = run_shell(f"--bind {endpoint} --json {line}")
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    [summary] = [json.loads(text) for text in done.stderr.splitlines() if text.startswith("{")]
    assert summary["streams"]["cam0"]["frames"] == 4


@pytest.mark.parametrize("line", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_end_no_node_and_get_nothing_of_others(line, endpoint):
    done = run_shell(f"--bind {endpoint} --json {line}")
    assert done.returncode == 0
    assert bool(done.stdout) == (line == "2>&-")


def test_a_node_whose_terminal_takes_no_more_goes_on_and_ends(ipc_path):
    """As after Ctrl-S, or behind a link that hangs."""
    endpoint = f"ipc://{ipc_path}"
    master, terminal = os.openpty()
    command = [sys.executable, "-m", "streamtok.cli", "ingest", "--source", ENDLESS, "--realtime", "--bind", endpoint]
    with subscribe(endpoint, timeout=60) as reader:
        node = subprocess.Popen(command, stdin=terminal, stdout=subprocess.DEVNULL, stderr=terminal)
        try:
            next(reader)
            os.write(master, b"\x13")
            deque(islice(reader, 100), 0)  # its display is drawn several times meanwhile
            node.terminate()
            assert node.wait(60) == 0
        finally:
            node.kill()
            os.close(master)
            os.close(terminal)


def test_a_stuck_process_whose_last_words_nobody_reads_ends_within_two_seconds_and_some():
    """Not measured here, where others work too: it has ended by these two limits, not by itself."""
    assert process.GRACE_S + process.WORDS_S <= 2.2
    program = """
import sys, time
from streamtok.node.process import stop_on_signals
with stop_on_signals(lambda: None, lambda: sys.stdout.write("x" * 10_000_000)):
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as stuck:
        assert stuck.stdout.readline() == "ready\n"
        stuck.send_signal(signal.SIGTERM)
        assert stuck.wait(60) == 1
        assert "still busy 1.9 s after the signal" in stuck.stderr.read()


def test_last_words_are_said_once_although_a_signal_comes_twice():
    """As `timeout` sends it; here the second one comes while they are said."""
    program = """
import os, signal, time
from streamtok.node import process
process.WORDS_S = 600
def speak():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    print("last words", flush=True)
with process.stop_on_signals(lambda: None, speak, lambda: False):
    os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "last words\n")


def test_a_summary_that_nobody_takes_from_a_node_that_starts_goes_to_standard_error(endpoint):
    program = STARTING.format(slow=SLOW["loading"], source=ENDLESS, bind=endpoint)
    with open("/dev/full", "w") as full:
        node = subprocess.Popen([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    while "busy" not in node.stderr.readline():
        assert node.poll() is None
    node.terminate()
    _, log = node.communicate(timeout=60)
    assert node.returncode == 1
    assert "Traceback" not in log
    [summary] = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert summary["streams"]["cam0"]["frames"] == 0


def test_a_reader_of_standard_error_that_takes_nothing_delays_no_stop():
    """It is waited for less than where no signal came; otherwise this process would wait for an hour."""
    program = """
import os, signal, sys
from streamtok.node import logs, outlet, process
outlet.Outlet.last_s = 3600
logs.log_to_stderr()
with process.stop_on_signals(lambda: None):
    print(300_000 * "x", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit(process.end_process(0))
"""
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as stopped:
        try:
            assert stopped.wait(60) == 0
        finally:
            stopped.kill()


def test_a_bound_socket_that_does_not_listen_yet_is_taken_too():
    from streamtok.wire.binding import BindError, probe_endpoints

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(BindError, match="is another node running there"):
            probe_endpoints(f"tcp://127.0.0.1:{taken.getsockname()[1]}")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_node_whose_camera_is_in_the_midst_of_an_image_ends_with_status_0(tmp_path):
    """A thread that is inside a library when the process ends can abort it. `ENDINGS=1000` makes it as many stops."""
    source = "camera:synthetic:256x448@30?seed=7#loop=1"
    command = [sys.executable, "-m", "streamtok.cli", "ingest", "--source", source, "--size", "32x48"]
    for number in range(int(os.environ.get("ENDINGS", "10"))):
        socket_path = tmp_path / "tokens"
        with (tmp_path / "log").open("w") as log:
            node = subprocess.Popen([*command, "--bind", f"ipc://{socket_path}"], stdout=log, stderr=log)
        while not socket_path.exists():
            assert node.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        time.sleep(random.Random(number).uniform(0, 0.5))
        node.terminate()
        assert node.wait(60) == 0, f"stop {number}: " + (tmp_path / "log").read_text()
