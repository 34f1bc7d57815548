"""Ingest of real files, secured nodes, and long runs."""

import json
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtok
from streamtok.commands import ingest
from streamtok.commands.ingest import make_node
from streamtok.io.picture_writer import open_pictures
from streamtok.io.source import open_source
from streamtok.io.synthetic import SyntheticDrive
from streamtok.node.ingest import IngestNode
from streamtok.preprocessing.preprocessor import Preprocessor
from streamtok.wire.security import CurveClient, generate
from streamtok.wire.subscriber import subscribe
from tests.kit.models import ATTENTION, VIDEO, build
from tests.kit.nodes import RunningNode, read_all, rig
from tests.kit.threads import beside

FRAMES = 18


@pytest.fixture
def clip(tmp_path) -> Path:
    """A small H.264 file."""
    drive, path = SyntheticDrive(72, 100, fps=25, seed=5), tmp_path / "drive.mp4"
    video = open_pictures(path, (72, 100), 25)
    for number in range(FRAMES):
        video.write(drive.frame(number), number * 40_000_000)
    video.close()
    return path


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_video_file_by_the_command_gives_the_tokens_of_its_frames(fit, clip, endpoint, tmp_path, capsys):
    streamtok.save(build(ATTENTION), tmp_path / "model")
    model = str(tmp_path / "model")
    arguments = ["--source", str(clip), "--stream", "front", "--model", model, "--bind", endpoint]
    with beside(read_all, endpoint) as reading:
        status = ingest.main([*arguments, "--size", "48x64", "--fit", fit, "--wait-subscribers", "1", "--json"])
    messages = reading.result()
    summary = json.loads(capsys.readouterr().out)["streams"]["front"]
    assert (status, summary["frames"], summary["groups"], summary["dropped"]) == (0, FRAMES, 6, 0)
    prepare = Preprocessor((72, 100), (48, 64), fit)
    with open_source(str(clip)) as source:
        planes = torch.from_numpy(np.stack([prepare(frame.image) for frame in source], 1))[None]
    planes = torch.cat([planes, planes[:, :, -1:].expand(-1, -1, 3, -1, -1)], 2)
    stream = streamtok.load(model).stream(slots=1, height=48, width=64)
    expected = [stream.step(planes[:, :, :1])] + [stream.step(part) for part in planes[:, :, 1:].split(4, 2)]
    for message, out in zip(messages, expected, strict=True):
        np.testing.assert_array_equal(message.tokens, out.indices[0, 0].numpy())
    assert messages[-1].header.repeated == 3


def test_only_readers_with_an_allowed_key_get_tokens(endpoint, tmp_path):
    generate(tmp_path / "keys", "friend")
    generate(tmp_path / "other", "stranger")
    source = {"a": {"source": "synthetic:32x48@100", "realtime": True}}
    settings = rig("tcp://127.0.0.1:*", source, curve=str(tmp_path / "keys"))
    node = make_node(settings, build(VIDEO))
    bound = threading.Event()
    node.on_update = lambda node: bound.set()
    with RunningNode(node):
        assert bound.wait(60)
        address = node.publisher.endpoint
        friend = CurveClient.load(tmp_path / "keys", "friend")
        stranger = CurveClient.load(tmp_path / "other", "stranger")
        stranger = CurveClient(stranger.public, stranger.secret, friend.server)
        with subscribe(address, curve=friend, timeout=60) as welcome, subscribe(address, curve=stranger) as denied:
            assert next(welcome).stream == "a"
            with subscribe(address) as plain:
                assert [next(welcome) for _ in range(10)]
                assert plain.get(0.2) is None
            assert denied.get(0.2) is None


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_the_drive(endpoint):
    frames = 6_000
    sizes: dict[int, int] = {}

    def note(node: IngestNode) -> None:
        done = node.metrics.counter("groups", "a")
        sizes.setdefault(done // 500, int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())

    settings = rig(endpoint, {"a": {"source": f"synthetic:32x48@1000?frames={frames}", "keyframe_interval": 1}})
    with RunningNode(make_node(settings, build(ATTENTION), on_update=note)) as running:
        summary = running.result(timeout=280)
    assert summary["streams"]["a"]["frames"] == frames
    assert summary["streams"]["a"]["keyframes"] >= 5
    assert max(sizes.values()) - sizes[2] < 24 << 20
