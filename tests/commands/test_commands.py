"""The commands as processes: flags, exit status, JSON, signals."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest
import torch

import streamtok
from streamtok.commands import decode, demo, doctor, ingest, record, replay
from streamtok.io.picture_writer import open_pictures
from streamtok.node.live_view import first_info
from streamtok.wire.message import unpack_frame
from streamtok.wire.subscriber import subscribe
from tests.kit.models import VIDEO, build
from tests.kit.threads import beside
from tests.kit.wire import Served, eventually, make_info

ENDLESS = "synthetic:32x48@50?seed=3"
CONTROL = "tcp://127.0.0.1:5999"


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "streamtok.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_node(model: str, endpoint: str, *flags: str, source: str = ENDLESS) -> subprocess.Popen:
    """`streamtok ingest` of one camera in real time that loses nothing."""
    live = ("--realtime", "--policy", "lossless")
    return start("ingest", "--source", source, *live, "--model", model, "--bind", endpoint, *flags)


def wait_for(event: str, node: subprocess.Popen) -> None:
    """Read the node's log until it tells of the event."""
    while f"event={event}" not in node.stderr.readline():
        assert node.poll() is None


@pytest.mark.parametrize(("stream", "text"), [(None, "no stream at ipc:"), ("front", "no stream front at ipc:")])
def test_decode_says_which_stream_is_not_there(stream, text, endpoint):
    with subscribe(endpoint) as subscription, pytest.raises(TimeoutError, match=text):
        first_info(subscription, threading.Event(), stream, timeout=0.1)


def test_decode_waits_for_a_node_as_subscribe_does(endpoint, caplog, monkeypatch):
    monkeypatch.setattr("streamtok.node.live_view.TOLD_S", 0.3)
    with (
        subscribe(endpoint) as subscription,
        beside(first_info, subscription, threading.Event(), "front") as waiting,
        Served("rear", bind=endpoint) as node,
    ):
        assert eventually(lambda: "has announced no stream front yet" in caplog.text)
        node.do(lambda publisher: publisher.add_stream(make_info("front")))
        assert waiting.result(60).stream == "front"


@pytest.mark.parametrize("command", [ingest, record, replay])
def test_help_says_that_a_recording_may_go_into_a_folder(command, capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "FILE|DIR" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_ingest_with_its_summary_and_every_message_arrives(number, model, endpoint):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the tests run under nohup, whose children ignore this signal")
    node = start_node(model, endpoint, "--wait-subscribers", "1", "--json")
    with subscribe(endpoint, until_end=True, timeout=60) as subscription:
        messages = [next(subscription) for _ in range(6)]
        node.send_signal(number)
        messages += list(subscription)
    output, log = node.communicate(timeout=200)
    assert node.returncode == 0, log
    [line] = output.splitlines()
    [stream] = json.loads(line)["streams"].values()
    assert stream["published"] == len(messages)
    assert [message.header.seq for message in messages] == list(range(len(messages)))


def test_a_signal_while_waiting_for_readers_ends_ingest(model, endpoint):
    node = start("ingest", "--source", ENDLESS, "--model", model, "--bind", endpoint, "--wait-subscribers", "9")
    wait_for("waiting", node)
    node.send_signal(signal.SIGTERM)
    output, log = node.communicate(timeout=200)
    assert node.returncode == 0, log
    assert "0 frames in 0 groups" in output


def test_systemd_hears_that_the_node_is_ready_and_alive_and_stopping(model, endpoint, tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"{folder}/n")
        notify.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/n")
        assert ingest.main(["--source", "synthetic:32x48@30?frames=5", "--model", model, "--bind", endpoint]) == 0
        heard = []
        while b"STOPPING=1" not in heard:
            heard.append(notify.recv(100))
    assert heard[0] == b"READY=1"
    assert b"WATCHDOG=1" in heard


def test_a_node_without_the_systemd_that_it_was_told_of_runs_all_the_same(model, endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert ingest.main(["--source", "synthetic:32x48@30?frames=5", "--model", model, "--bind", endpoint]) == 0


def test_nohup_holds():
    program = """
import signal, threading
from streamtok.node.process import stop_on_signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)
stop = threading.Event()
with stop_on_signals(stop.set):
    signal.raise_signal(signal.SIGHUP)
print(stop.is_set())
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_a_second_signal_ends_a_process_that_does_not_stop():
    program = """
import time
from streamtok.node.process import stop_on_signals
with stop_on_signals(lambda: None, last_words=lambda: print("last words", flush=True)):
    print("ready", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=200)
    assert (output, process.returncode) == ("last words\n", 1)


@pytest.mark.parametrize(("pause", "status", "words"), [(0.0, 0, "stopped\n"), (0.3, 1, "last words\n")])
def test_the_same_signal_twice_at_once_is_one(pause, status, words):
    """`timeout` signals its process and then the group that it is in."""
    program = f"""
import signal, threading, time
from streamtok.node.process import stop_on_signals
stop = threading.Event()
with stop_on_signals(stop.set, last_words=lambda: print("last words", flush=True)):
    signal.raise_signal(signal.SIGTERM)
    time.sleep({pause})
    signal.raise_signal(signal.SIGTERM)
print("stopped" if stop.is_set() else "goes on")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (words, status)
    assert ("SIGTERM while it was stopping" in done.stderr) == bool(status)


def test_ingest_in_this_process_reads_its_flags(model, endpoint, capsys):
    sources = ["--source", "synthetic:40x50@30?frames=7", "--source", "synthetic:40x50@30?frames=9"]
    options = ["--stream", "front", "--size", "32x48", "--fit", "crop", "--tail", "drop", "--max-frames", "8"]
    options += ["--keyframe-interval", "0.1", "--on-gap", "bridge", "--device", "cpu", "--deterministic"]
    status = ingest.main([*sources, "--model", model, "--bind", endpoint, *options, "--no-realtime", "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert status == 0
    assert list(summary["streams"]) == ["front", "cam1"]
    front, cam1 = summary["streams"].values()
    assert (front["frames"], front["groups"], front["dropped"]) == (7, 3, 1)  # 0; 1 to 4; keyframe 5; 6 is the tail
    assert cam1["frames"] == 8
    assert front["tokens_per_group"] == 24


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "nothing to read: give --source SRC or --config FILE"),
        (["--stream", "a"], 2, "1 --stream for 0 --source"),
        (["--source", ENDLESS, "--size", "big"], 2, "streams.0.size: expected HEIGHTxWIDTH in pixels"),
        (["--source", ENDLESS, "--set", "modle=small"], 2, "did you mean 'model'?"),
        (["--source", ENDLESS, "--config", "none.yaml"], 2, "none.yaml: no such configuration file"),
        (["--source", "none.mp4"], 1, "stream cam0: source 'none.mp4': no such file"),
        (["--source", ENDLESS, "--model", "nanoo"], 2, "did you mean nano"),
        (["--source", "synthetic:32x48@50?sead=3"], 2, "unknown option 'sead'; known: seed, frames"),
        (["--source", ENDLESS, "--engine", "fast"], 2, "engine 'fast': expected auto, eager or"),
        (["--source", ENDLESS, "--bind", "ipc:///nodir/x.ipc"], 2, "folder /nodir does not exist; create it first"),
        (["--source", ENDLESS, "--policy", "latest", "--set", "batch_wait_ms=5"], 2, "have no `size`: give them one"),
        (["--source", "/dev/v4l/by-id/gone"], 1, "camera /dev/v4l/by-id/gone: no such device"),
        (["--source", ENDLESS, "--size", "30x44"], 2, "needs multiples of 8"),
        (["--source", ENDLESS, "--bind", "tcp://0.0.0.0:*"], 2, "refusing to bind tcp://0.0.0.0:* without keys"),
        (["--source", ENDLESS, "--ipc-group", "no-such-group"], 2, "expected the name or number of a group"),
        (["--source", ENDLESS, "--curve", "/nonexistent"], 2, "streamtok keys generate"),
        (["--source", ENDLESS, "--bind", CONTROL, "--control", CONTROL], 2, "which is what bind is: give it a port"),
    ],
)
def test_ingest_says_what_is_wrong(arguments, status, message, model, capsys):
    bind = [] if "--bind" in arguments else ["--bind", "tcp://127.0.0.1:*"]
    weights = [] if "--model" in arguments else ["--model", model]
    assert ingest.main([*arguments, *weights, *bind]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_start_that_fails_leaves_no_recording(model, tmp_path):
    arguments = ["--source", ENDLESS, "--model", model, "--bind", "tcp://127.0.0.1:*", "--record", str(tmp_path)]
    assert ingest.main([*arguments, "--size", "30x44"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_may_heal_by_itself_is_told_from_wrong_settings(model, capsys):
    """A supervisor tries again after status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert ingest.main(["--source", ENDLESS, "--model", model, "--bind", endpoint]) == 1
    assert "is another node running there?" in capsys.readouterr().err
    if not torch.cuda.is_available():
        arguments = ["--source", ENDLESS, "--model", model, "--bind", "tcp://127.0.0.1:*", "--device", "cuda"]
        assert ingest.main(arguments) == 1
        assert "this machine has no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["none.mcap"], 1, "drive 'none.mcap': no such file or folder"),
        (["DRIVE", "--model", "nanoo"], 2, "did you mean nano"),
        (["DRIVE", "--size", "30x44"], 2, "needs multiples of 8"),
        (["DRIVE", "--bind", "tcp://0.0.0.0:*"], 2, "refusing to bind tcp://0.0.0.0:* without keys"),
        (["DRIVE", "--bind", "ipc:///nodir/x.ipc"], 2, "folder /nodir does not exist"),
        (["DRIVE", "--verify"], 2, "has no recorded tokens"),
    ],
)
def test_replay_says_what_is_wrong(arguments, status, message, model, tmp_path, capsys):
    drive = open_pictures(tmp_path / "drive.mp4", (32, 48), 30.0)
    for number in range(5):
        drive.write(np.zeros((32, 48, 3), np.uint8), number * 33_333_333)
    drive.close()
    weights = [] if "--model" in arguments else ["--model", model]
    given = [str(tmp_path / "drive.mp4") if word == "DRIVE" else word for word in arguments]
    assert replay.main([*given, *weights]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_ingest_says_at_once_that_the_package_for_its_compression_is_missing(endpoint, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    arguments = ["--source", ENDLESS, "--bind", endpoint, "--compression", "zstd"]
    assert ingest.main([*arguments, "--model", "/a/model/that/is/not/there"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "compression 'zstd' (not 'none') needs the extra 'zstd': pip install 'zstandard" in line


def test_decode_writes_a_live_stream_to_a_file(model, endpoint, tmp_path, capsys):
    import av

    source = "synthetic:40x60@50?seed=3&frames=600"
    node = start_node(model, endpoint, "--wait-subscribers", "1", source=source)
    video = tmp_path / "back.mp4"
    wait_for("waiting", node)
    arguments = [endpoint, "-o", str(video), "--model", model, "--max-frames", "22", "--json"]
    assert decode.main(arguments) == 0
    node.send_signal(signal.SIGTERM)
    node.communicate(timeout=200)
    assert json.loads(capsys.readouterr().out)["shown"] == 22
    with av.open(str(video)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 22
    assert pictures[0].shape == (40, 60, 3)  # the padding to 40x64 is gone


def test_decode_sends_jpeg_over_zeromq(model, endpoint):
    import zmq

    node = start_node(model, endpoint)
    wait_for("bound", node)
    viewer = start("decode", endpoint, "-o", f"zmq:{endpoint}.jpeg", "--model", model)
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.subscribe(b"frames/")
        socket.connect(f"{endpoint}.jpeg")
        assert socket.poll(60_000)
        message = unpack_frame(socket.recv_multipart())
        socket.close(0)
    for process in (viewer, node):
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=200)
        assert process.returncode == 0, log
    assert message.header.encoding == "jpeg"
    assert bytes(message.payload[:2]) == b"\xff\xd8"


def test_decode_refuses_another_model(model, endpoint, tmp_path, capsys):
    streamtok.save(build(VIDEO, seed=1), tmp_path / "other")
    node = start("ingest", "--source", ENDLESS, "--realtime", "--model", model, "--bind", endpoint)
    wait_for("bound", node)
    assert decode.main([endpoint, "-o", str(tmp_path / "x.mp4"), "--model", str(tmp_path / "other")]) == 1
    node.send_signal(signal.SIGTERM)
    node.communicate(timeout=200)
    assert "give the checkpoint that the node runs with --model" in capsys.readouterr().err
    assert decode.main(["tokens.safetensors"]) == 2
    assert "a token file has no window" in capsys.readouterr().err


def test_flags_may_come_from_a_file_and_faults_in_it_are_named(tmp_path, capsys):
    path = tmp_path / "demo.yaml"
    path.write_text("source: none.mp4\nmax_frames: 5\n")
    assert demo.main(["--config", str(path), "--out", str(tmp_path)]) == 1
    assert "none.mp4" in capsys.readouterr().err
    path.write_text("sorce: x\nmax_frames: many\ndevice: tpu\n")
    assert demo.main(["--config", str(path)]) == 2
    message = capsys.readouterr().err
    for part in (
        f"{path}:1: sorce: unknown key (value 'x'); did you mean 'source'?",
        f"{path}:2: max_frames: input should be a valid integer",
        f"{path}:3: device: expected auto, cpu, cuda or cuda:N (got 'tpu')",
    ):
        assert part in message


def test_doctor_reports(capsys):
    status = doctor.main(["--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == int(not report["ok"])
    assert {"python", "torch", "cuda", "zmq", "video", "cameras", "disk"} <= {
        check["name"] for check in report["checks"]
    }
    assert all(check["advice"] for check in report["checks"] if check["state"] != "ok")
    carried = [check["found"] for check in report["checks"] if check["name"] == "carries"]
    sizes = ["nano 128x224 at 30 fps", "nano 256x448 at 30 fps"]
    assert [words.split(":")[0] for words in carried] == (
        ["not measured on a GPU"] if torch.cuda.is_available() else sizes
    )
    assert doctor.main(["--folder", "/nonexistent", "--no-measure"]) == status
    out = capsys.readouterr().out
    assert "carries" not in out
    assert "free in /nonexistent" in out


def test_doctor_does_not_say_of_a_gpu_what_no_node_runs_there(monkeypatch):
    """Nodes run engine "auto" on it, which measures before it runs."""
    from streamtok.bench.machine_checks import NOTE, check_capacity

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    [finding] = check_capacity()
    assert (finding.name, finding.state) == ("carries", NOTE)
    assert "streamtok bench" in finding.advice


def test_doctor_makes_a_finding_of_a_probe_that_fails():
    from streamtok.bench.machine_checks import collect

    def check_something():
        raise ImportError("no library")

    [finding] = collect(check_something)
    assert (finding.name, finding.state, finding.found) == ("something", "bad", "ImportError: no library")


@pytest.mark.slow
def test_the_demo_shows_the_whole_pipeline(model, tmp_path, capsys):
    import av
    import cv2

    source = "synthetic:64x96@30?seed=7&frames=40"
    assert demo.main(["--source", source, "--model", model, "--out", str(tmp_path / "demo")]) == 0
    text = capsys.readouterr().out
    for word in ("frames per second", "latency", "Mbit/s", "PSNR", "side_by_side.mp4", "picture.png"):
        assert word in text
    with av.open(str(tmp_path / "demo" / "side_by_side.mp4")) as container:
        shown = sum(1 for _ in container.decode(video=0))
    assert f" {shown} frames of 64x96" in text
    assert 0 < shown <= 40
    assert shown == 40 or "to stay in real time" in text
    assert cv2.imread(str(tmp_path / "demo" / "picture.png")) is not None
