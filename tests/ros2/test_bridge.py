"""The bridge in real ROS 2 (rclpy over Fast DDS) between a Cyclone DDS camera and a streamtok node, all on loopback.

ROS_PYTHON names a Python with rclpy and cyclonedds; without it one is made, from wheels, in a venv of its own. With
`pytest -s` the test prints what the bridge adds to the time from the camera to a reader.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from streamtok.commands.ingest import make_node
from streamtok.io.images.stills import encode_jpeg
from streamtok.types import Frame
from streamtok.wire.header import TokenHeader
from streamtok.wire.message import FrameMessage
from streamtok.wire.subscriber import Subscription
from tests.kit.models import VIDEO, build
from tests.kit.nodes import RunningNode, rig
from tests.kit.wire import Served, eventually

ROOT = Path(__file__).parents[2]
WHEELS = ["ros-rclpy[fastrtps]", "ros-sensor-msgs", "ros-diagnostic-msgs", "cyclonedds", "pyzmq", "msgpack"]


@pytest.fixture(scope="module")
def ros_python(tmp_path_factory) -> str:
    """A Python with ROS; skipped where its wheels cannot be had."""
    given = os.environ.get("ROS_PYTHON")
    if given:
        return given
    folder = tmp_path_factory.mktemp("ros")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    done = subprocess.run([folder / "bin" / "pip", "install", "-q", *WHEELS], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"ROS's wheels cannot be installed here: {done.stderr.splitlines()[-1:]}")
    return str(folder / "bin" / "python")


def print_share(into_ns: float, out_of_ns: float, node_ns: float) -> None:
    """What of the time from a camera's stamp to a ROS reader of its tokens is the bridge's, with DDS on both sides."""
    print(
        f"\nbridge: {(into_ns + out_of_ns) / (node_ns + out_of_ns):.2f} of the time from camera to reader: "
        f"{into_ns / (node_ns + out_of_ns):.2f} on the way in, {out_of_ns / (node_ns + out_of_ns):.2f} on the way out"
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tokens_of_a_dds_camera_come_back_as_a_topic(ros_python, tmp_path):
    """Every grid that Cyclone gets from Fast DDS is one that the node published, with the camera's own stamp."""
    environment = os.environ | {"ROS_DOMAIN_ID": "37", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    environment |= {"PYTHONPATH": str(ROOT / "ros2" / "streamtok_ros")}
    frames, tokens, pictures = (f"ipc://{tmp_path}/{name}" for name in ("f", "t", "p"))
    parameters = [f"frames_endpoint:={frames}", f"tokens_endpoint:={tokens}", f"pictures_endpoint:={pictures}"]
    parameters.append("front.topic:=/cam/front/image_raw")
    ros_arguments = [word for parameter in parameters for word in ("-p", parameter)]
    command = [ros_python, "-m", "streamtok_ros.bridge", "--ros-args", *ros_arguments]
    settings = rig(tokens, {"front": {"source": f"zmq:{frames}", "keyframe_interval": 2.0}})
    published: list[TokenHeader] = []
    image = np.zeros((48, 64, 3), np.uint8)
    shown = (Frame("front", n, 10**9 + n, image, encode_jpeg(image), "jpeg") for n in itertools.count())
    bridge = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        node = make_node(settings, build(VIDEO))
        camera = Subscription[FrameMessage](frames, ["front"], kinds=("frames",))
        with RunningNode(node), Served("front", bind=pictures) as decoder, camera:
            reading, listening = (
                subprocess.Popen(
                    [ros_python, str(Path(__file__).with_name(program)), "25"],
                    env=environment,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for program in ("dds_peer.py", "ros_reader.py")
            )
            assert eventually(lambda: node.unready() != ["starting: not bound yet"])
            publish = node.publisher.publish
            node.publisher.publish = lambda group: published.append(header := publish(group)) or header
            into: list[int] = []  # ns from the camera's stamp until the bridge has sent its frame on
            while listening.poll() is None:
                while (message := camera.get(0)) is not None:
                    into.append(message.header.publish_ns - message.header.capture_ns)
                decoder.do(lambda publisher: publisher.publish_frame(next(shown)))
                time.sleep(0.3)
            heard = json.loads(listening.communicate()[0])
            seen = [json.loads(line) for line in reading.communicate(timeout=120)[0].splitlines()]
    finally:
        bridge.terminate()
        errors = bridge.communicate(timeout=200)[1]
    sums = [header.checksum for header in published]
    assert len(seen) > 20, errors
    node_ns = {header.checksum: header.publish_ns - header.capture_ns[-1] for header in published}
    out_of = [each["age_ns"] - node_ns[each["crc"]] for each in seen if each["crc"] in node_ns]
    print_share(statistics.median(into), statistics.median(out_of), statistics.median(node_ns.values()))
    left = iter(sums)
    assert all(each["crc"] in left for each in seen), "a grid that the node has not published, or out of order"
    assert all(each["known"] and each["frame"] == "front_optical" for each in seen)
    assert len(seen) >= 0.8 * len(sums)
    assert heard["pictures"] > 5
    assert heard["diagnostics"]["lost"] == heard["diagnostics"]["unreadable"] == "0"
    if heard["groups"] is not None:  # streamtok_msgs is built there
        by_seq = {header.seq: header for header in published}
        assert len(heard["groups"]) > 20
        for group in heard["groups"]:
            header = by_seq[group["seq"]]
            assert (group["crc"], group["grid"], group["lost"]) == (header.checksum, header.grid, 0)
            assert group["stamps"] == len(header.frame_ids)
