"""The page of `streamtok view` in a real browser: live streams, a lost camera, a recording; and who is let in."""

import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("websockets", reason="the page needs: pip install 'websockets>=14'")
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from streamtok.commands.ingest import make_node
from streamtok.commands.view import ViewSettings
from streamtok.exporting.formats import export_step
from streamtok.exporting.step import ExportedStep
from streamtok.io.images.stills import decode_still, encode_jpeg
from streamtok.model.decoding import GridDecoder
from streamtok.recording.reader import open_recording
from streamtok.types import Frame
from streamtok.view import live
from streamtok.view.live import LiveShow
from streamtok.view.open_page import WAITING_BYTES, OpenPage
from streamtok.view.other_viewers import FoxgloveViewer, RerunViewer
from streamtok.view.pictures import Models, paint_latent
from streamtok.view.recorded import RecordedShow
from streamtok.view.recorded_images import RecordedImages
from streamtok.view.server import MOST_PAGES, RUNTIME, BrowserFiles, PageServer, Show
from tests.kit.browser import open_browser
from tests.kit.models import VIDEO, build
from tests.kit.nodes import RunningNode, ScriptedCamera, ingest, rig
from tests.kit.pictures import image
from tests.kit.threads import beside
from tests.kit.videos import ORDERED, PLAIN, number_of, numbered, write_video
from tests.kit.wire import Served, eventually, make_group, make_info

CARD = '[data-stream="{}"]'


@pytest.fixture(scope="module")
def model():
    return build(VIDEO)


@pytest.fixture
def models(model, monkeypatch):
    """Every stream's model is the tiny one."""
    monkeypatch.setattr("streamtok.view.pictures.load_for_stream", lambda info, name, device: model)
    return Models(None, "cpu")


@contextmanager
def served(show: Show, **options) -> Iterator[PageServer]:
    """A page server on a thread of its own, once it listens."""
    server, stop, ready = PageServer(show, 0, **options), threading.Event(), threading.Event()
    with beside(server.run, stop, lambda url: ready.set()):
        try:
            assert ready.wait(60)
            yield server
        finally:
            stop.set()


def test_a_browser_shows_streams_and_which_camera_is_lost(model, models, endpoint, monkeypatch):
    """Pictures, tokens and numbers move; a camera that falls silent is named while the other goes on."""
    lost = threading.Event()
    script = {"a": lambda n: image(n, stream="a"), "b": lambda n: None if lost.is_set() else image(n, stream="b")}
    cameras = {name: ScriptedCamera(name, 20, 1 << 20, script[name]) for name in "ab"}
    monkeypatch.setattr("streamtok.node.ingest.make_sources", lambda settings: cameras)
    node = make_node(rig(endpoint, ["x", "y"], publish_frames=True), model)
    with open_browser() as browser, RunningNode(node), served(LiveShow([endpoint], models)) as server:
        browser.open(server.url)
        groups = f"{CARD.format('0/a')} [data-number='groups']"
        first = int(browser.wait_for(groups, lambda text: text.isdigit() and int(text) > 3))
        browser.wait_for(groups, lambda text: int(text) > first + 3)
        for figure in ("source", "picture", "tokens"):
            shown = browser.shown(f"{CARD.format('0/b')} [data-figure='{figure}'] canvas")
            assert shown.std() > 10, f"{figure} of b is empty"
        assert browser.run("return document.querySelector('.plot canvas') !== null")
        status = f"{CARD.format('0/b')} [data-text='status']"
        assert browser.text(status) == "live"
        lost.set()
        browser.wait_for(status, lambda text: text.startswith("no groups for"))
        assert browser.text(f"{CARD.format('0/a')} [data-text='status']") == "live"
        assert not browser.errors()


def test_a_recording_plays_and_is_sought(model, models, tmp_path):
    """After a jump into the middle the picture is the one that decoding from the start gives."""
    path = tmp_path / "drive.mcap"
    ingest(path, model, [{"name": "a", "source": "synthetic:48x64@30?seed=1&frames=150", "keyframe_interval": 1.0}])
    messages = list(open_recording(path).messages())
    show = RecordedShow(path, models)
    number = len(messages) - 3
    with served(show) as server, connect(server.url.replace("http", "ws") + "socket") as page:
        page.send(json.dumps({"op": "pause"}))
        page.send(json.dumps({"op": "nonsense"}))
        page.send(json.dumps({"op": "seek", "at": show.line.seconds[number] + 1e-6}))
        received = [page.recv(30)]
        while isinstance(received[-1], str) or head_of(received[-1])["seq"] != messages[number].header.seq:
            received.append(page.recv(30))
        assert any(isinstance(each, str) and "nonsense" in each for each in received)
    decoder = GridDecoder(model)
    expected = [decoder.step(each.tokens, each.header.keyframe)[-1] for each in messages[: number + 1]][-1]
    head = head_of(received[-1])
    assert head["at"] == show.line.seconds[number]
    assert part_of(received[-1], "tokens") == messages[number].tokens.tobytes()
    assert part_of(received[-1], "picture") == encode_jpeg(expected)


def test_a_browser_shows_a_recording_with_a_time_line(model, models, tmp_path):
    path = tmp_path / "drive.mcap"
    ingest(path, model, [{"name": "a", "source": "synthetic:48x64@30?seed=1&frames=61"}])
    with open_browser() as browser, served(RecordedShow(path, models)) as server:
        browser.open(server.url)
        browser.wait_for("#clock", lambda text: text.endswith("/ 2.0 s") and not text.startswith("0.0"))
        browser.wait_for(f"{CARD.format('a')} [data-text='status']", lambda text: text == "paused")
        for figure in ("source", "picture"):
            assert browser.shown(f"{CARD.format('a')} [data-figure='{figure}'] canvas").std() > 10
        assert browser.shown(".strip canvas").std() > 10
        assert not browser.errors()


def test_a_page_that_decodes_by_itself_gets_what_it_needs(model, models, tmp_path):
    """What is known of the streams comes first, and a jump brings every group since the keyframe."""
    path = tmp_path / "drive.mcap"
    ingest(path, model, [{"name": "a", "source": "synthetic:48x64@30?seed=1&frames=150", "keyframe_interval": 2.0}])
    headers = [message.header for message in open_recording(path).messages()]
    show = RecordedShow(path, models)
    last = next(header.seq for header in headers[1:] if header.keyframe) - 2
    with served(show) as server, connect(server.url.replace("http", "ws") + "socket") as page:
        first = page.recv(30)
        assert isinstance(first, str)
        assert [stream["stream"] for stream in json.loads(first)["streams"]] == ["a"]
        page.send(json.dumps({"op": "pause"}))
        page.send(json.dumps({"op": "pictures", "on": False}))
        page.send(json.dumps({"op": "seek", "at": show.line.seconds[last] + 1e-6}))
        heads = []
        while not heads or heads[-1]["seq"] != headers[last].seq or "picture" in heads[-1]["parts"]:
            received = page.recv(30)
            heads += [head_of(received)] if isinstance(received, bytes) else []
    assert [head["seq"] for head in heads[-last - 1 :]] == list(range(last + 1))
    assert heads[-last - 1]["keyframe"]
    assert all(list(head["parts"]) == ["tokens"] for head in heads[-last - 1 :])


@pytest.mark.parametrize(
    ("codec", "options", "schema"),
    [("libx264", PLAIN, "CompressedVideo"), ("libx264", ORDERED, "RawImage"), ("mjpeg", {}, "CompressedImage")],
)
def test_a_recording_shows_the_camera_s_own_images(model, tmp_path, codec, options, schema):
    """However they are stored, at every place and in any order of looking."""
    path, video = tmp_path / "drive.mcap", tmp_path / "a.mkv"
    write_video(video, numbered(60), range(0, 60 * 512, 512), codec, **options)
    ingest(path, model, [{"name": "a", "source": str(video)}])
    recording = open_recording(path)
    assert f"foxglove.{schema}" in {schema.name for schema in recording.files[0].schemas.values()}
    offset = int(next(iter(recording.files[0].channels.values())).metadata["clock_offset_ns"])
    wanted = [(each.capture_ns + offset, each.header.frame_ids[-1]) for each in recording.messages()]
    images = RecordedImages(recording)
    for time_ns, number in [*wanted, *reversed(wanted), *wanted[::3]]:
        found = images.image_at("a", time_ns)
        assert found is not None
        assert number_of(decode_still(found)) == number
    assert images.image_at("a", wanted[0][0] + 1) is None
    assert images.image_at("b", wanted[0][0]) is None


@pytest.mark.slow
def test_a_browser_decodes_what_python_decodes(model, models, tmp_path):
    """In WebAssembly, within 1 of 255, without a picture from the viewer. ORT_WEB is a folder of onnxruntime-web."""
    pytest.importorskip("onnxscript", reason="exporting needs: pip install onnx onnxscript")
    folder = browser_folder(tmp_path)
    export_step(ExportedStep(model, "decode", (48, 64)), folder / "tiny.onnx", "onnx")
    path = tmp_path / "drive.mcap"
    ingest(path, model, [{"name": "a", "source": "synthetic:48x64@30?seed=1&frames=61"}])
    messages, decoder = list(open_recording(path).messages()), GridDecoder(model)
    expected = [decoder.step(each.tokens, each.header.keyframe)[-1] for each in messages][-1]
    show = RecordedShow(path, models)
    with open_browser() as browser, served(show, browser=BrowserFiles.read(folder)) as server:
        browser.open(f"{server.url}?decode=here")
        last = str(messages[-1].header.seq)
        card = f"document.querySelector('{CARD.format('a')}')"
        assert eventually(lambda: browser.run(f"return {card}?.dataset.decodedHere") == last), browser.text("#note")
        canvas = f"{card}.querySelector('[data-figure=picture] canvas')"
        pixels = browser.run(f"return [...{canvas}.getContext('2d').getImageData(0, 0, 64, 48).data]")
        assert not browser.errors()
    found = np.array(pixels).reshape(48, 64, 4)[..., :3]
    assert np.abs(found - expected).max() <= 1


@pytest.mark.slow
def test_rerun_gets_pictures_tokens_and_numbers(model, models, endpoint, tmp_path):
    pytest.importorskip("rerun", reason="needs: pip install rerun-sdk")
    viewer = RerunViewer(str(tmp_path / "a.rrd"))
    show_groups(model, models, endpoint, viewer, lambda groups: groups >= 5)
    viewer.close()
    command = [sys.executable, "-m", "rerun", "rrd", "print", str(tmp_path / "a.rrd")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for entity in ("picture", "tokens", "ms/encode", "lost"):
        assert f"/0/a/{entity}" in told


@pytest.mark.slow
def test_foxglove_gets_pictures_and_numbers(model, models, endpoint):
    """As a client of Foxglove's WebSocket protocol sees it."""
    pytest.importorskip("foxglove", reason="needs: pip install foxglove-sdk")
    viewer, got = FoxgloveViewer(0), {}
    enough, topics = threading.Event(), {}
    wanted = (model, models, endpoint, viewer, lambda groups: enough.is_set())
    with (
        connect(f"ws://127.0.0.1:{viewer.port}", subprotocols=["foxglove.sdk.v1"], max_size=None) as client,
        beside(show_groups, *wanted),
    ):
        while set(got) < {"/0/a/picture", "/0/a/stages"}:
            message = client.recv(60)
            if isinstance(message, bytes):
                if message[0] == 1:
                    got[topics[int.from_bytes(message[1:5], "little")]] = message[13:]
                continue
            for channel in json.loads(message).get("channels", []):
                topics[channel["id"]] = channel["topic"]
                order = {"op": "subscribe", "subscriptions": [{"id": channel["id"], "channelId": channel["id"]}]}
                client.send(json.dumps(order))
        enough.set()
    viewer.close()
    assert b"\xff\xd8\xff" in got["/0/a/picture"]
    assert json.loads(got["/0/a/stages"])["lost"] == 0


def show_groups(model, models, endpoint, viewer, enough: Callable[[int], bool]) -> None:
    """Groups of a camera that goes on until a viewer had `enough` of them."""
    show = LiveShow([endpoint], models)
    settings = rig(endpoint, {"a": {"source": "synthetic:48x64@20?seed=1", "realtime": True}}, wait_subscribers=1)
    with RunningNode(make_node(settings, model)):
        show.join(viewer)
        assert eventually(lambda: enough(show.groups))
        show.leave(viewer)


def browser_folder(tmp_path: Path) -> Path:
    """A folder with ONNX Runtime's files for browsers; skips the test where they cannot be had."""
    folder = tmp_path / "web"
    folder.mkdir()
    given = os.environ.get("ORT_WEB")
    if given is None:
        npm = shutil.which("npm")
        packed = npm and subprocess.run([npm, "pack", "onnxruntime-web"], cwd=tmp_path, capture_output=True)
        archive = next(tmp_path.glob("onnxruntime-web-*.tgz"), None)
        if not packed or packed.returncode or archive is None:
            pytest.skip("needs ORT_WEB, or npm and a registry")
        subprocess.run(["tar", "xzf", archive], cwd=tmp_path, check=True)
        given = str(tmp_path / "package" / "dist")
    for name in RUNTIME:
        shutil.copy(Path(given) / name, folder / name)
    return folder


def test_nodes_are_read_only_while_a_page_is_open(models):
    with Served("front") as node, served(LiveShow([node.endpoint], models)) as server:
        assert node.do(lambda publisher: publisher.subscribers()) == 0
        with connect(server.url.replace("http", "ws") + "socket"):
            node.wait_subscribers(1)
        assert eventually(lambda: node.do(lambda publisher: publisher.subscribers()) == 0)


def test_camera_images_that_wait_for_their_group_take_bounded_memory(models, monkeypatch):
    monkeypatch.setattr(live, "QUEUE_BYTES", 32 * 48 * 3)  # one of them
    image, sources = np.zeros((32, 48, 3), np.uint8), {}

    class Page:
        wants_pictures = False

        def take(self, group):
            sources[group.message.stream] = group.source

    page = Page()
    with Served("front", "rear") as node:
        show = LiveShow([node.endpoint], models)
        show.join(page)
        node.wait_subscribers(1)
        for stream in ("front", "rear"):
            assert eventually(lambda name=stream: node.do(lambda end: end.publish_frame(Frame(name, 0, 1, image))))
        node.publish(make_group(0, "front"), make_group(0, "rear"))
        assert eventually(lambda: len(sources) == 2)
        show.leave(page)
    assert (sources["front"] is None, sources["rear"] is None) == (True, False)


def test_strangers_are_kept_out(models):
    """By Host and Origin on loopback, by the token on any other address; files are a flat list of names."""
    show = LiveShow(["ipc:///tmp/nobody"], models)
    with served(show) as server:
        assert fetch(server.url)[0] == 200
        assert fetch(server.url, Host="evil.example")[0] == 403
        assert fetch(f"{server.url}../server.py")[0] == 404
        with pytest.raises(InvalidStatus, match="403"):
            connect(server.url.replace("http", "ws") + "socket", origin="http://evil.example")
    with pytest.raises(ValueError, match="token"):
        PageServer(show, 0, "0.0.0.0")
    with served(show, address="0.0.0.0", token="correct-horse") as server:
        base = f"http://127.0.0.1:{server.port}/"
        assert fetch(base)[0] == fetch(f"{base}?token=correct-hors")[0] == 403
        assert fetch(server.url) == fetch(f"{base}?token=correct-horse")
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"ws://127.0.0.1:{server.port}/socket")


@pytest.mark.parametrize("order", ["[" * 4000, '{"op": "seek", "at": NaN}', '{"op": "seek"}', "[1]", b"\xff"])
def test_an_order_that_makes_no_sense_is_told_to_its_page(models, order):
    show = LiveShow(["ipc:///tmp/nobody"], models)
    with served(show) as server, connect(server.url.replace("http", "ws") + "socket") as page:
        page.send(order)
        assert eventually(lambda: json.loads(page.recv(timeout=60))["kind"] == "error")


def test_idle_connections_keep_no_page_out(models, caplog):
    """A new one ends the oldest; a page that is open stays."""
    show = LiveShow(["ipc:///tmp/nobody"], models)
    with served(show) as server, ExitStack() as idle, connect(server.url.replace("http", "ws") + "socket") as page:
        opened = [idle.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(100)]
        assert fetch(server.url)[0] == 200
        opened[0].settimeout(60)
        with suppress(ConnectionResetError):
            assert opened[0].recv(1) == b""
        with pytest.raises(BlockingIOError):
            opened[-1].recv(1, socket.MSG_DONTWAIT)
        assert json.loads(page.recv(timeout=60))["kind"] == "state"
    assert {record.name for record in caplog.records} <= {"streamtok.wire"}  # which may tell that nobody answers


def test_pages_left_open_keep_nobody_out(models):
    """One more than there may be ends the oldest, and says so."""
    show = LiveShow(["ipc:///tmp/nobody"], models)
    with served(show) as server, ExitStack() as opened:
        address = server.url.replace("http", "ws") + "socket"
        pages = [opened.enter_context(connect(address)) for _ in range(MOST_PAGES)]
        assert json.loads(pages[-1].recv(timeout=60))["kind"] == "state"
        with connect(address) as newest:
            assert json.loads(newest.recv(timeout=60))["kind"] == "state"
            with pytest.raises(ConnectionClosed, match="newer pages"):
                eventually(lambda: pages[0].recv(timeout=60) is None)
            assert json.loads(pages[1].recv(timeout=60))["kind"] == "state"


def test_a_page_that_reads_nothing_holds_up_nobody():
    """The newest page is served though the way to the oldest is full, which is cut off."""

    class Full:
        joined, left = [], []

        def join(self, page):
            self.joined.append(page)
            for _ in range(64 if len(self.joined) == 1 else 0):
                page.send(bytes(1 << 20))

        def leave(self, page):
            self.left.append(page)

        def state(self, page):
            return {"kind": "state"}

    show = Full()
    with served(show) as server, ExitStack() as opened:
        address = server.url.replace("http", "ws") + "socket"
        opened.enter_context(connect(address, max_queue=1, close_timeout=0.1))
        assert eventually(lambda: show.joined)
        pages = [opened.enter_context(connect(address)) for _ in range(MOST_PAGES)]
        assert json.loads(pages[-1].recv(timeout=60))["kind"] == "state"
        assert eventually(lambda: show.left) == show.joined[:1]


def test_a_model_is_loaded_and_hashed_once_whatever_fingerprints_are_claimed(monkeypatch):
    """That of its encoder alone is one of its own: a node may have no more."""
    model, half = build(VIDEO), build(VIDEO)
    half.drop("decoder")
    loaded, hashed = [], []
    monkeypatch.setattr("streamtok.view.pictures.load_for_stream", lambda *given: loaded.append(given) or model)
    names = half.fingerprint, model.fingerprint
    sha256 = hashlib.sha256
    monkeypatch.setattr("hashlib.sha256", lambda *given: hashed.append(1) or sha256(*given))
    models = Models(None, "cpu")
    for number in range(5):
        assert "ab12" in str(models.find(make_info(model="nano", tokenizer=f"ab12{number}")))
        assert [models.find(make_info(model="nano", tokenizer=name)) for name in names] == [model, model]
    assert (len(loaded), len(hashed)) == (1, 1)
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1)
    assert all("other weights" in models.find(make_info(model="nano", tokenizer=name)) for name in names)


def test_a_message_that_cannot_be_shown_does_not_end_the_others(model, models, tmp_path, caplog):
    """As one whose time no viewer can write. Each is in the log when the viewer has gone."""

    class Picky:
        wants_pictures, seen = False, []

        def take(self, group):
            self.seen.append(group.message.header.seq)
            if len(self.seen) in (2, 4):
                raise OverflowError("too far")

    viewer = Picky()
    with Served("front") as node:
        show = LiveShow([node.endpoint], models)
        show.join(viewer)
        node.wait_subscribers(1)
        node.publish(*(make_group(number) for number in range(5)))
        assert eventually(lambda: viewer.seen == [0, 1, 2, 3, 4])
        show.leave(viewer)
    ingest(tmp_path / "a.mcap", model, [{"name": "a", "source": "synthetic:48x64@30?seed=1&frames=17"}])
    viewer.seen.clear()
    recorded = RecordedShow(tmp_path / "a.mcap", models)
    recorded.join(viewer)
    assert eventually(lambda: viewer.seen == [0, 1, 2, 3, 4])
    recorded.leave(viewer)
    told = [record.getMessage() for record in caplog.records if "event=unshown messages=1" in record.getMessage()]
    assert [line.split("=")[0] for line in told] == ["endpoint", "endpoint", "file", "file"]


def test_settings_that_make_no_sense_are_refused():
    for inputs in (["a.mcap", "b.mcap"], ["tcp://127.0.0.1:5555", "b.mcap"], []):
        with pytest.raises(ValueError):
            ViewSettings(inputs=inputs)


def test_a_continuous_grid_has_colours():
    latent = np.stack([np.full((2, 3), value, np.float16) for value in (-1, 1, np.nan, 5)])
    assert paint_latent(latent)[0, 0].tolist() == [0, 255, 127]


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def head_of(message: bytes) -> dict:
    return json.loads(message[4 : 4 + int.from_bytes(message[:4], "little")])


def part_of(message: bytes, wanted: str) -> bytes:
    at = 4 + int.from_bytes(message[:4], "little")
    for name, size in head_of(message)["parts"].items():
        if name == wanted:
            return message[at : at + size]
        at += size
    raise AssertionError(f"no part {wanted}")


def test_a_slow_page_holds_few_large_pictures():
    async def fill() -> list[int]:
        page = OpenPage(asyncio.get_running_loop())
        for _ in range(8):
            page.send(bytes(WAITING_BYTES // 4))
        page.send(bytes(2 * WAITING_BYTES))
        await asyncio.sleep(0)
        return [page.skipped, len(await page.next_message())]

    assert asyncio.run(fill()) == [8, 2 * WAITING_BYTES]
