"""Measures latency from capture to subscriber: a real `streamtok ingest` on files played in real time, read over ipc.

The files are MJPEG, as from USB cameras, so a frame costs the machine as much besides encoding as a camera's does.
"""

import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

from streamtok.bench.options import BenchOptions
from streamtok.bench.process import Program, ingest_arguments, name_for_child, run_program
from streamtok.bench.timing import percentiles
from streamtok.engine.configuration import EngineConfiguration
from streamtok.io.synthetic import SyntheticDrive
from streamtok.model import Tokenizer

SCENE_FRAMES = 150  # painted, then repeated
FIRST_MESSAGES = 2  # of each camera, left out of the figures as warm-up


def measure_end_to_end(
    tok: Tokenizer, engine: EngineConfiguration, options: BenchOptions, seconds: float = 30.0
) -> dict[str, Any]:
    """Measure milliseconds from the capture of a group's last frame to a reader, and those of transport alone.

    Capture, encoding (by `engine`) and publishing run in another process, the reader in this one. Raises RuntimeError
    if the node fails.
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
