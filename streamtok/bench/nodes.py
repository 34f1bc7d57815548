"""Measures a real `streamtok ingest`, read over ipc: latency from capture to reader, and the start to a first token."""

import itertools
import json
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import torch

from streamtok.bench.options import BenchOptions
from streamtok.bench.process import Program, ingest_arguments, name_for_child, run_program
from streamtok.bench.timing import percentiles
from streamtok.engine.configuration import EngineConfiguration
from streamtok.io.synthetic import SyntheticDrive
from streamtok.model import Tokenizer

NEEDS = ("zmq", "msgspec", "msgpack", "pydantic", "yaml", "rich", "prometheus_client", "cv2")
SCENE_FRAMES = 150  # painted, then repeated
FIRST_MESSAGES = 2  # of each camera, left out of the figures as warm-up


def measure_end_to_end(
    tok: Tokenizer, engine: EngineConfiguration, options: BenchOptions, seconds: float = 30.0
) -> dict[str, Any]:
    """Measure milliseconds from the capture of a group's last frame to a reader, and those of transport alone.

    Capture, encoding (by `engine`) and publishing run in another process, the reader in this one. The node plays MJPEG
    files in real time, so a frame costs as much besides encoding as a USB camera's. RuntimeError if the node fails.
    """
    with tempfile.TemporaryDirectory(prefix="st-") as temporary:
        folder = Path(temporary)
        socket, engine_file, video = folder / "tokens", folder / "engine.json", folder / "camera.avi"
        engine_file.write_text(json.dumps(engine.to_dict()))
        record_camera(video, options.size, options.fps, round(seconds * options.fps))
        model = name_for_child(tok, options.model, folder)
        arguments = ingest_arguments(model, str(engine_file), engine.device, socket)
        arguments += ["--realtime", "--policy=latest", "--json"]
        for camera in range(options.cameras):
            arguments += [f"--source={video}", f"--stream=cam{camera}"]
        with run_program("node", arguments, folder) as node:
            whole, transport = _time_arrivals(node, socket)
        summary = json.loads(node.output.read_text())
    first = FIRST_MESSAGES * options.cameras
    return {
        "seconds": seconds,
        "messages": len(whole),
        "dropped_frames": sum(stream["dropped"] for stream in summary["streams"].values()),
        "capture_to_reader": percentiles(whole[first:] or whole),
        "publish_to_reader": percentiles(transport[first:] or transport),
        "node_latency_ms": summary["latency_ms"],
    }


def _time_arrivals(node: Program, socket: Path) -> tuple[list[float], list[float]]:
    """Read until the streams end; returns milliseconds of each message since its capture, and since its publication."""
    from streamtok.wire.subscriber import subscribe

    whole, transport = [], []
    node.wait_for(socket)
    with subscribe(f"ipc://{socket}", until_end=True) as reader:
        while not reader.ended:
            message = reader.get(1.0)
            now = time.monotonic_ns()
            if message is not None:
                whole.append((now - message.capture_ns) / 1e6)
                transport.append((now - message.header.publish_ns) / 1e6)
            elif not reader.ended:
                node.check_running()
    return whole, transport


def record_camera(path: Path, size: tuple[int, int], fps: float, frames: int) -> None:
    """Write a synthetic drive of `frames` frames as MJPEG; its scene repeats after SCENE_FRAMES."""
    height, width = size
    drive = SyntheticDrive(height, width, fps=fps)
    scene = [cv2.cvtColor(drive.frame(i), cv2.COLOR_RGB2BGR) for i in range(min(frames, SCENE_FRAMES))]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
    for image in itertools.islice(itertools.cycle(scene), frames):
        video.write(image)
    video.release()


def measure_start(tok: Tokenizer, options: BenchOptions) -> dict[str, Any]:
    """Measure milliseconds of a node's first and second start with this model and `engine="auto"`, and its engine.

    The node loads a copy of `tok` unless `options.model` names weights. Both starts share a streamtok cache that is
    empty at first; the file caches of Python and the system are warm. Raises RuntimeError if a start gives no token,
    or if a node cannot run here.
    """
    if lacking := list_missing():
        raise RuntimeError(f"no node can run here, for it lacks {', '.join(lacking)}")
    with tempfile.TemporaryDirectory(prefix="st-") as temporary:
        folder = Path(temporary)
        model = name_for_child(tok, options.model, folder)
        (first_ms, _), (second_ms, engine) = (_start_node(model, options, folder) for _ in range(2))
    return {
        "measured": "node",
        "missing": [],
        "weights": model if model == options.model else "copy",
        "engine": {key: engine[key] for key in ("precision", "kernels", "convolutions", "graph", "threads")},
        "first_ms": first_ms,
        "second_ms": second_ms,
    }


def list_missing() -> list[str]:
    """The packages that `streamtok ingest` needs but this machine lacks."""
    return [name for name in NEEDS if find_spec(name) is None]


def _start_node(model: str, options: BenchOptions, folder: Path) -> tuple[float, dict[str, Any]]:
    """Milliseconds until a reader has the node's first token, and its engine configuration."""
    from streamtok.wire.subscriber import subscribe

    socket, (height, width) = folder / "tokens", options.size
    arguments = ingest_arguments(model, "auto", options.device, socket)
    arguments += [f"--source=synthetic:{height}x{width}@{options.fps:g}?seed=0&frames=1"]
    arguments += [f"--threads={torch.get_num_threads()}"]
    begin = time.monotonic()
    with run_program("node", arguments, folder) as node:
        node.wait_for(socket)
        with subscribe(f"ipc://{socket}") as reader:
            while (message := reader.get(0.1)) is None:
                node.check_running()
            passed_ms = 1000 * (time.monotonic() - begin)
            return passed_ms, reader.info(message.stream).engine
