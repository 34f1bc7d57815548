"""The ingest node end to end, over real sockets."""

import math
import threading
import urllib.request
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import zmq

from streamtok.coding.coder import save_coder
from streamtok.commands.ingest import make_node
from streamtok.engine.optimized import describe_engine
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.io.base import RecordedSource
from streamtok.io.cameras import played_device
from streamtok.io.cameras.camera import Backoff, CameraSource
from streamtok.io.cameras.played_device import Faults, PlayedDevice
from streamtok.io.source import open_source
from streamtok.node import ingest
from streamtok.node.live_decoder import LiveDecoder
from streamtok.node.rig import make_core, make_sources
from streamtok.node.summary import format_ingest
from streamtok.settings.errors import SettingsError
from streamtok.settings.rig import load_rig
from streamtok.types import Frame
from streamtok.wire.message import unpack, unpack_frame
from streamtok.wire.subscriber import subscribe
from tests.kit.coders import make_coder
from tests.kit.models import ATTENTION, CONTINUOUS, IMAGE, VIDEO, build
from tests.kit.nodes import RunningNode, ScriptedCamera, SteppedClock, ask, read_all, rig
from tests.kit.pictures import SIZE, image
from tests.kit.wire import eventually

MODELS = {config.name: build(config) for config in (VIDEO, ATTENTION, CONTINUOUS, IMAGE)}
TINY = MODELS["tiny"]


def grids(tok, messages, frames) -> list[np.ndarray]:
    """What `tok.stream` makes of the frames that the messages name."""
    result, stream = [], None
    for message in messages:
        header = message.header
        pictures = [frames[number].image for number in header.frame_ids]
        pictures += pictures[-1:] * header.repeated
        clip = torch.from_numpy(np.stack(pictures).transpose(3, 0, 1, 2)[None].copy())
        if stream is None or (header.keyframe and tok.config.video):
            stream = tok.stream(slots=1, height=clip.shape[3], width=clip.shape[4])
        out = stream.step(clip)
        result.append(out.indices[0, 0].numpy() if tok.config.discrete else out.latent[0, :, 0].half().numpy())
    return result


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("interval", [0, 0.4])
def test_a_recording_arrives_whole_and_bit_identical_to_tok_stream(name, interval, endpoint):
    tok, count, source = MODELS[name], 42, "synthetic:32x48@30?seed=3&frames=42"
    settings = rig(endpoint, {"a": {"source": source, "keyframe_interval": interval}}, wait_subscribers=1)
    with RunningNode(make_node(settings, tok)) as running:
        messages = read_all(endpoint)
        summary = running.result()
    with open_source(source) as opened:
        frames = list(opened)
    assert [message.header.seq for message in messages] == list(range(len(messages)))
    assert [number for message in messages for number in message.header.frame_ids] == list(range(count))
    assert all(message.decodable and message.lost == 0 for message in messages)
    epochs = {message.header.epoch for message in messages}
    assert len(epochs) == (1 if interval == 0 else 4)  # 13 frames are 0.4 s at a boundary, 42 frames
    for epoch in epochs:
        part = [message for message in messages if message.header.epoch == epoch]
        real = sum(len(message.header.frame_ids) for message in part)
        assert len(part) == 1 + math.ceil((real - 1) / tok.config.temporal_compression)
    for message, grid in zip(messages, grids(tok, messages, frames), strict=True):
        np.testing.assert_array_equal(message.tokens, grid)
    decoder = LiveDecoder(tok)
    pictures = [picture for message in messages for picture in decoder.feed(message)]
    assert [picture.frame_id for picture in pictures] == list(range(count))
    stream = summary["streams"]["a"]
    assert stream == {
        "frames": count,
        "groups": len(messages),
        "keyframes": sum(message.header.keyframe for message in messages),
        "dropped": 0,
        "gaps": 0,
        "damaged": 0,
        "published": len(messages),
        "tokens_per_group": 24,
    }
    assert set(summary) == {"streams", "latency_ms", "fps"}
    assert all(set(stage) == {"p50", "p95", "p99"} for stage in summary["latency_ms"].values())


def test_the_summary_says_what_was_asked_sent_and_paid(endpoint):
    """Two cameras share a budget that is too small for both, one of which has its own as well."""
    sources = {name: {"source": f"synthetic:32x48@30?seed={n}&frames=150"} for n, name in enumerate("ab")}
    sources["a"] |= {"bitrate": "8k", "hold": 0.5}
    sources["b"]["hold"] = 0.5
    node = make_node(rig(endpoint, sources, rig_bitrate="30k", wait_subscribers=1), TINY)
    with RunningNode(node) as running:
        messages = read_all(endpoint)
        summary = running.result()
    first, second = summary["streams"]["a"], summary["streams"]["b"]
    assert (first["bitrate_asked"], second["bitrate_asked"], summary["rig_bitrate_asked"]) == (8000, None, 30_000)
    assert first["bitrate_sent"] < 9500

    def seconds(streams: str) -> float:
        times = [time for message in messages if message.stream in streams for time in message.header.capture_ns]
        return (max(times) - min(times)) / 1e9

    bits = first["bitrate_sent"] * seconds("a") + second["bitrate_sent"] * seconds("b")
    assert summary["rig_bitrate_sent"] == pytest.approx(bits / seconds("ab"), rel=0.1)  # one may begin later
    assert first["bitrate_sent"] + second["bitrate_sent"] == pytest.approx(30_000, rel=0.15)
    held = [message.header.hold or 0.0 for message in messages if message.stream == "b"]
    assert second["hold_margin"] == pytest.approx(np.mean(held), abs=1e-4)
    assert (first["left_out"], second["left_out"]) == (first["dropped"], second["dropped"])
    words = format_ingest(summary)
    assert "8.0 asked" in words
    assert "all streams: " in words


@pytest.mark.parametrize("compression", ["none", "zstd", "independent", "coded"])
def test_a_bitrate_holds_levels_where_that_makes_messages_smaller(compression):
    """Grids that are sent by themselves take no fewer bytes for being like those before."""
    given = {"source": "synthetic:32x48@30?frames=9", "name": "a", "bitrate": "8k"}
    settings = load_rig(None, {"streams": [given], "compression": compression})
    core = make_core(settings, TINY, make_sources(settings))
    assert core.lane("a").budget.most_hold == (0.5 if compression == "coded" else 0)


def test_a_decoder_that_gives_nothing_finite_says_so_once(endpoint, caplog):
    tok = build(IMAGE)
    with torch.no_grad():
        next(tok.decoder.parameters()).fill_(float("nan"))
    with RunningNode(make_node(rig(endpoint, ["synthetic:32x48@30?frames=9"], wait_subscribers=1), tok)):
        messages = read_all(endpoint)
    decoder = LiveDecoder(tok)
    assert [decoder.feed(message) for message in messages] == [[]] * 9
    assert decoder.counts["nonfinite"] == 9
    assert caplog.text.count("event=nonfinite") == 1


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_tokens_are_the_same_with_compression(compression, endpoint, tmp_path):
    from streamtok.recording.reader import open_recording

    source = {"a": {"source": "synthetic:96x128@30?seed=5&frames=9"}}
    values = {"compression": compression, "wait_subscribers": 1, "record": str(tmp_path / "d.mcap")}
    with RunningNode(make_node(rig(endpoint, source, **values), TINY)):
        messages = read_all(endpoint)
    assert [message.header.compression for message in messages] == [compression] * 3
    recorded = list(open_recording(tmp_path / "d.mcap").messages())
    plain = IngestCore(TINY, {"a": StreamOptions("lossless")})
    with open_source("synthetic:96x128@30?seed=5&frames=9", "a") as frames:
        groups = [group for item in frames for group in plain.feed(item)]
    for message, stored, group in zip(messages, recorded, groups, strict=True):
        np.testing.assert_array_equal(message.tokens, group.tokens)
        np.testing.assert_array_equal(stored.tokens, group.tokens)


def test_coded_tokens_are_the_same_and_a_node_without_their_coder_says_so(endpoint, tmp_path):
    from streamtok.recording.reader import open_recording

    source = {"a": {"source": "synthetic:96x128@30?seed=5&frames=9"}}
    values = {"compression": "coded", "wait_subscribers": 1, "model": str(tmp_path)}
    with pytest.raises(SettingsError, match="has no token coder: make one with streamtok train-coder"):
        make_node(rig(endpoint, source, **values), TINY).run()
    save_coder(make_coder(TINY.config.levels, TINY.fingerprint), tmp_path)
    settings = rig(endpoint, source, **values, record=str(tmp_path / "d.mcap"))
    with RunningNode(make_node(settings, TINY)), subscribe(endpoint, until_end=True, coders=[tmp_path]) as reader:
        messages = list(reader)
    stored = list(open_recording(tmp_path / "d.mcap").messages())
    assert [message.header.compression for message in messages + stored] == ["coded"] * 3 + ["none"] * 3
    for message, kept in zip(messages, stored, strict=True):
        np.testing.assert_array_equal(message.tokens, kept.tokens)


def test_readers_learn_what_the_rig_says_of_a_stream(endpoint):
    facts = {"extrinsics": {"translation": [1.7, 0.0, 1.5]}, "serial": "0042"}
    source = {"source": "synthetic:32x48@50", "realtime": True}
    settings = rig(endpoint, {"a": source | {"metadata": facts}, "b": source})
    with RunningNode(make_node(settings, TINY)), subscribe(endpoint) as subscription:
        assert subscription.info("a", 30).metadata == facts
        assert subscription.info("b", 30).metadata == {}


def test_a_camera_that_dies_and_one_that_freezes_cost_the_others_nothing(endpoint):
    scripts = {
        "good": (40, 80, lambda number: image(number)),
        "slow": (15, 30, lambda number: image(number)),
        "dying": (25, 50, lambda number: None if 20 <= number < 30 else image(number)),
        "frozen": (25, 50, lambda number: image(min(number, 10))),
    }
    streams = {name: {"policy": "latest" if name == "dying" else "lossless"} for name in scripts}
    node = make_node(rig(endpoint, streams, wait_subscribers=1), TINY)
    node.sources = {name: ScriptedCamera(name, *script) for name, script in scripts.items()}
    with RunningNode(node) as running:
        messages = read_all(endpoint)
        summary = running.result()
    ids = {name: [] for name in scripts}
    for message in messages:
        ids[message.stream] += message.header.frame_ids
    for name in ("good", "slow", "frozen"):
        assert ids[name] == list(range(scripts[name][1]))
        assert (summary["streams"][name]["dropped"], summary["streams"][name]["gaps"]) == (0, 0)
    back = next(message for message in messages if message.stream == "dying" and message.header.frame_ids[0] >= 30)
    assert back.header.keyframe
    assert summary["streams"]["dying"]["gaps"] >= 1
    assert node.metrics.counter("reconnects", "dying") == 1


class Reel(RecordedSource):
    """A recording at 100 frames per second that costs next to nothing to read."""

    def _open(self) -> None:
        self.fps, self.size, self._number = 100.0, SIZE, 0

    def _next(self) -> Frame | None:
        number, self._number = self._number, self._number + 1
        if number >= 500:
            return None
        return Frame(self.stream, number, self.start_ns + 10_000_000 * number, image(number % 20))

    def _close(self) -> None:
        pass


def test_every_frame_of_a_camera_is_in_a_group_or_dropped_for_one_counted_reason(endpoint, monkeypatch):
    """A camera with an outage, and a node that stands still until frames had to be left out."""
    monkeypatch.setattr(played_device, "LATE_NS", 10**12)  # or a busy machine may miss the last frames of all

    def stand_still(node) -> None:
        if node.metrics.counter("published", "a") > 3 and not node.core.lane("a").reasons["behind"]:
            before = source.counts["dropped"]
            assert eventually(lambda: source.counts["dropped"] > before or source.capture.ended)

    source = CameraSource(PlayedDevice(lambda: Reel("reel"), faults=Faults(lost=((3.0, 3.3),))), "a")
    node = make_node(rig(endpoint, {"a": {"tail": "drop"}}, wait_subscribers=1), TINY, on_update=stand_still)
    node.sources = {"a": source}
    with RunningNode(node) as running:
        messages = read_all(endpoint)
        running.result()
    ids = [number for message in messages for number in message.header.frame_ids]
    told, lane = sum(message.header.dropped for message in messages), node.core.lane("a")
    assert ids == sorted(set(ids))
    before = 500 - len(ids) - lane.counts["dropped"]  # taken before the node began to read
    assert 0 <= before <= ids[0]
    assert sum(lane.reasons.values()) == lane.counts["dropped"] == told + lane.dropped
    assert lane.reasons.keys() <= {"missed", "behind", "cut", "tail"}
    assert lane.reasons["missed"] >= 30
    assert lane.reasons["behind"] > 0
    lost = lane.reasons["behind"] + lane.reasons["missed"] + before
    assert lost == source.counts["dropped"] + source.counts["missed"]


class LateDevice(PlayedDevice):
    """A camera that is out of reach at first."""

    def __init__(self, there: threading.Event, spec: str) -> None:
        super().__init__(lambda: open_source(spec), clock=SteppedClock())
        self.there = there

    def connect(self) -> None:
        if not self.there.is_set():
            raise ConnectionRefusedError("out of reach")
        super().connect()


def test_a_camera_that_is_not_there_at_the_start_costs_the_others_nothing(endpoint):
    """The size of a late camera, which nobody knew at the start, is announced before its first message."""
    there = threading.Event()
    late = CameraSource(LateDevice(there, "synthetic:32x48@25?seed=2&frames=60"), "late", backoff=Backoff(0.05, 0.1))
    late.required = False
    node = make_node(rig(endpoint, {"a": {}, "late": {"policy": "lossless"}}, wait_subscribers=1), TINY)
    node.sources["late"] = late
    with RunningNode(node) as running:
        with subscribe(endpoint, until_end=True, timeout=60) as subscription:
            assert next(subscription).stream == "a"
            there.set()
            assert {message.stream for message in subscription} == {"late"}
            assert subscription.infos["late"].source_size == [32, 48]
            published = subscription.counts()["late"]["messages"]
        summary = running.result()
    assert summary["streams"]["late"]["published"] == published > 0
    assert node.failures == []


def test_the_shipped_rig_starts_without_its_cameras_and_waits_for_them(endpoint):
    bind = {"bind": endpoint, "control": f"{endpoint}.control", "metrics": 0}
    settings = load_rig("rig_six_cameras", bind)
    node = make_node(settings, TINY)
    with RunningNode(node) as running:
        assert eventually(lambda: node.metrics_port and ask(node.metrics_port, "/readyz") == (200, "ok\n"))
        assert [source.state for source in node.sources.values()] == ["lost"] * 6
        node.stop()
        running.result()
    assert node.failures == []


def test_a_new_picture_size_is_announced_and_starts_with_a_keyframe(endpoint):
    node = make_node(rig(endpoint, {"a": {"policy": "lossless"}}, wait_subscribers=1), TINY)
    node.sources = {"a": ScriptedCamera("a", 200, 20, lambda number: image(number, SIZE if number < 10 else (48, 48)))}
    with RunningNode(node) as running:
        messages = read_all(endpoint)
        running.result()
    changed = [message for message in messages if message.header.image_size == [48, 48]]
    assert changed[0].header.keyframe
    assert changed[0].tokens.shape == (6, 6)
    assert [number for message in messages for number in message.header.frame_ids] == list(range(20))


def test_a_picture_of_a_size_that_cannot_be_encoded_costs_only_itself(endpoint):
    """A side beyond 65,535, or 2.25 million pixels, which would take gigabytes in the network."""
    odd = {7: (1, 70_000), 12: (1500, 1500)}
    node = make_node(rig(endpoint, {"a": {"policy": "lossless"}}, wait_subscribers=1), TINY)
    node.sources = {"a": ScriptedCamera("a", 200, 20, lambda number: image(number, odd.get(number, SIZE)))}
    with RunningNode(node) as running:
        messages = read_all(endpoint)
        running.result()
    assert {tuple(message.header.image_size) for message in messages} == {SIZE}
    assert messages[-1].header.frame_ids[-1] == 19
    assert node.sources["a"].counts["damaged"] == 2


def test_a_frame_that_cannot_be_read_ends_its_stream_only(endpoint):
    def broken(number: int) -> np.ndarray:
        if number == 5:
            raise OSError("unplugged for good")
        return image(number)

    node = make_node(
        rig(endpoint, {"a": {"policy": "lossless"}, "b": {"policy": "lossless"}}, wait_subscribers=1), TINY
    )
    node.sources = {"a": ScriptedCamera("a", 100, 9, broken), "b": ScriptedCamera("b", 100, 9, image)}
    with RunningNode(node) as running:
        messages = read_all(endpoint)
        running.result()
    assert [number for message in messages if message.stream == "b" for number in message.header.frame_ids] == list(
        range(9)
    )
    assert node.failures == ["a: unplugged for good"]


def test_a_reader_may_ask_for_a_keyframe_and_for_the_epoch(endpoint):
    settings = rig(endpoint, {"a": {"source": "synthetic:32x48@100", "realtime": True, "policy": "lossless"}})
    with RunningNode(make_node(settings, TINY)), subscribe(endpoint, ["a"], timeout=60) as first:
        head = [next(first) for _ in range(5)]
        with subscribe(endpoint, ["a"], join="epoch", timeout=60) as late:
            joined = next(late)
            assert (joined.header.keyframe, joined.decodable, joined.header.epoch) == (True, True, 0)
        first.request_keyframe("a")
        asked = next(message for message in first if message.header.keyframe and message.header.epoch > 0)
        assert asked.header.dropped == 0
        assert head[0].header.session == asked.header.session


def test_frames_are_published_when_asked_for(endpoint):
    settings = rig(endpoint, ["synthetic:32x48@30?seed=3&frames=9"], publish_frames=True, wait_subscribers=1)
    with RunningNode(make_node(settings, TINY)), zmq.Context() as context, context.socket(zmq.SUB) as socket:
        for topic in (b"frames/", b"info/"):
            socket.subscribe(topic)
        socket.connect(endpoint)
        assert socket.poll(60_000)  # the first info: what follows will be seen
        socket.recv_multipart()
        socket.subscribe(b"tokens/")
        headers = []
        while len(headers) < 9 and socket.poll(60_000):
            parts = socket.recv_multipart()
            if parts[0] == b"frames/a":
                message = unpack_frame(parts)
                assert len(message.payload) == 32 * 48 * 3
                headers.append(message.header)
    assert [header.frame_id for header in headers] == list(range(9))


def test_a_recording_holds_what_was_published(endpoint, tmp_path):
    from streamtok.recording.reader import open_recording

    path = tmp_path / "drive.mcap"
    settings = rig(endpoint, ["synthetic:32x48@30?seed=3&frames=13"], record=str(path), record_frames="lossless")
    with RunningNode(make_node(settings, TINY)) as running:
        running.result()
    recorded = list(open_recording(path).messages())
    assert [number for entry in recorded for number in entry.header.frame_ids] == list(range(13))


def test_a_recording_does_not_hold_the_password_of_a_camera(endpoint, tmp_path):
    url = "http://admin:hunter2@127.0.0.1:1/video"
    streams = {"a": {}, "gate": {"source": url, "required": False}}
    node = make_node(rig(endpoint, streams, record=str(tmp_path / "d.mcap")), TINY)
    with RunningNode(node) as running:
        assert eventually(lambda: node.metrics.counter("published", "a"))
        node.stop()
        running.result()
    recorded = (tmp_path / "d.mcap").read_bytes()
    assert b"http://127.0.0.1:1/video" in recorded
    assert b"hunter2" not in recorded


def test_metrics_tell_what_the_node_does(endpoint):
    settings = rig(endpoint, {"a": {"source": "synthetic:32x48@50", "realtime": True}}, metrics=0)
    seen = threading.Event()
    node = make_node(
        settings, TINY, on_update=lambda node: seen.set() if node.metrics.counter("groups", "a") > 2 else None
    )
    with RunningNode(node):
        assert seen.wait(60)
        with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics_port}/metrics") as answer:
            text = answer.read().decode()
    for name in ("frames_total", "groups_total", "dropped_total", "up", "is_frozen", "queue_depth", "subscribers"):
        assert f'streamtok_{name}{{stream="a"}}' in text
    for name in ("deadline_misses", "publish_errors", "published", "published_bytes"):
        assert f'streamtok_{name}_total{{stream="a"}}' in text
    assert 'stage="total"' in text


class LateCamera(ScriptedCamera):
    """A camera that cannot be opened before `opens`, and delivers nothing before `delivers`."""

    def __init__(self, stream: str) -> None:
        self.opens, self.delivers = threading.Event(), threading.Event()
        super().__init__(stream, 50, 10**6, lambda number: image(number) if self.delivers.is_set() else None)

    def _open(self) -> None:
        assert self.opens.wait(60)
        super()._open()


def test_supervisors_learn_whether_the_node_is_ready_and_alive(endpoint, monkeypatch):
    goes_on = threading.Event()
    goes_on.set()
    streams = {"front": {}, "rear": {"required": False}}
    node = make_node(rig(endpoint, streams, metrics=0), TINY, on_update=lambda node: goes_on.wait(60))
    node.sources |= {name: LateCamera(name) for name in streams}
    node.sources["rear"].required = False
    front, rear = node.sources.values()
    with RunningNode(node):
        assert eventually(lambda: node.metrics_port)
        port = node.metrics_port
        assert ask(port, "/readyz") == (503, "starting: not bound yet\n")
        assert ask(port, "/healthz") == (200, "ok\n")
        front.opens.set()
        rear.opens.set()
        assert eventually(lambda: ask(port, "/readyz") == (503, "front: no frame yet\n"))
        front.delivers.set()
        assert eventually(lambda: ask(port, "/readyz") == (200, "ok\n"))
        assert ask(port, "/healthz") == (200, "ok\n")
        goes_on.clear()
        monkeypatch.setattr(ingest, "HUNG_S", 0.1)
        assert eventually(lambda: ask(port, "/healthz")[0] == 503)
        assert ask(port, "/healthz")[1].startswith("hung: the loop has not turned for ")
        assert ask(port, "/readyz") == (200, "ok\n")
        node.stop()
        assert ask(port, "/readyz") == (503, "stopping\n")
        goes_on.set()


def test_a_node_that_waits_for_readers_is_ready_for_them(endpoint):
    node = make_node(rig(endpoint, ["synthetic:32x48@30"], metrics=0, wait_subscribers=1), TINY)
    with RunningNode(node):
        assert eventually(lambda: node.metrics_port and ask(node.metrics_port, "/readyz") == (200, "ok\n"))


def test_a_rig_may_limit_its_recording(endpoint, tmp_path, monkeypatch):
    from streamtok.recording import recorder
    from streamtok.recording.reader import open_recording

    monkeypatch.setattr(recorder, "FLUSH_S", 0.05)
    source = {"a": {"source": "synthetic:32x48@50?frames=60", "realtime": True, "policy": "lossless"}}
    with RunningNode(make_node(rig(endpoint, source, record=str(tmp_path), record_max_size=0.01), TINY)) as running:
        running.result()
    assert len(list(tmp_path.glob("*_001.mcap"))) == 1
    messages = list(open_recording(tmp_path).messages())
    assert [number for message in messages for number in message.header.frame_ids] == list(range(60))
    node = make_node(rig(endpoint, source, record=str(tmp_path / "d.mcap"), record_min_free=1e12), TINY)
    with RunningNode(node) as running:
        running.result()
    assert "recording stops below" in node.failures[0]


def test_metrics_tell_that_a_recording_has_stopped_while_tokens_go_on(endpoint, tmp_path, monkeypatch):
    from streamtok.recording.writer import RecordingWriter

    def refuse(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(RecordingWriter, "write_tokens", refuse)
    settings = rig(endpoint, ["synthetic:32x48@30?seed=3&frames=13"], record=str(tmp_path / "d.mcap"))
    node = make_node(settings, TINY)
    with RunningNode(node) as running:
        assert running.result()["streams"]["a"]["published"] == 4
    assert node.metrics.gauge_value("recording", "a", 1) == 0
    assert node.metrics.counter("unrecorded", "a") >= 3  # all groups but the one at which it failed
    assert "No space left" in node.failures[0]
    [prepared] = [
        sample
        for family in node.metrics.collect()
        for sample in family.samples
        if sample.name.endswith("_count") and sample.labels["stage"] == "prepare"
    ]
    assert prepared.value == 13


def test_a_file_beside_a_camera_does_not_make_the_camera_wait_for_a_reader_that_hangs(endpoint):
    streams = {"camera": {}, "file": {"source": "synthetic:128x192@30?frames=200"}}
    node = make_node(rig(endpoint, streams, publish_frames=True, wait_subscribers=1), TINY)
    node.sources["camera"] = ScriptedCamera("camera", 200, 200, lambda number: image(number, (128, 192)))
    with zmq.Context() as context, context.socket(zmq.SUB) as hanging, RunningNode(node) as running:
        hanging.set(zmq.RCVHWM, 1)
        hanging.set(zmq.RCVBUF, 4096)
        hanging.subscribe(b"")  # 400 images of 74 kB are more than all buffers take
        hanging.connect(endpoint)
        summary = running.result()
    assert {name: stream["frames"] for name, stream in summary["streams"].items()} == {"camera": 200, "file": 200}


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [8])
def test_a_reader_that_stops_reading_costs_nobody_else_anything(seconds, endpoint):
    source = f"synthetic:128x192@100?seed=3&frames={100 * seconds}"
    settings = rig(endpoint, {"a": {"source": source, "realtime": True, "policy": "latest"}}, wait_subscribers=2)
    tok = MODELS["tiny-image"]
    with (
        zmq.Context() as context,
        context.socket(zmq.SUB) as stalled,
        RunningNode(make_node(settings, tok)) as running,
    ):
        stalled.set(zmq.RCVHWM, 4)
        stalled.set(zmq.RCVBUF, 4096)
        stalled.subscribe(b"tokens/")
        stalled.connect(endpoint)
        messages = read_all(endpoint)
        summary = running.result()
        numbers = []
        while stalled.poll(500):
            numbers.append(unpack(stalled.recv_multipart()).header.seq)
    assert sum(message.lost for message in messages) == 0
    assert len(messages) == summary["streams"]["a"]["published"]
    assert len(numbers) < len(messages)


def test_threads_and_sockets_are_gone_after_the_end(endpoint):
    before = {thread.name for thread in threading.enumerate()}
    with RunningNode(make_node(rig(endpoint, ["synthetic:32x48@30?frames=5"] * 2, metrics=0), TINY)) as running:
        running.result()
    assert eventually(lambda: {thread.name for thread in threading.enumerate()} <= before)


def test_what_a_rig_says_of_the_engine_reaches_the_tokenizer(model):
    """`engine`, `deterministic` and `threads` of the settings decide how the loaded model computes."""
    chosen = {"model": model, "device": "cpu", "threads": 2}
    streams = {"streams": [{"name": "front", "source": "synthetic:48x64@30?seed=1&frames=5"}]}
    found = {}
    for name, values in {"eager": {"engine": "eager"}, "steps": {"deterministic": True}}.items():
        settings = load_rig(None, chosen | values | streams)
        with ExitStack() as stack:
            sources = make_sources(settings)
            for source in sources.values():
                stack.enter_context(source)
            found[name] = describe_engine(make_core(settings, None, sources).tokenizer)
    assert (found["eager"].kernels, found["eager"].deterministic) == ("plain", False)
    assert found["steps"].deterministic
    assert {engine.threads for engine in found.values()} == {2}
