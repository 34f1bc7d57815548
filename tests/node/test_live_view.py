"""What a sender says of its stream must neither choose what is loaded here nor end the view."""

import threading
from dataclasses import replace

import av
import msgspec
import numpy as np
import pytest

from streamtok.io.images.stills import read_image
from streamtok.node.live_decoder import LiveDecoder
from streamtok.node.live_view import (
    FAR_NS,
    FileSink,
    PictureTimes,
    crop_within,
    load_for_stream,
    show_pictures,
    shown_pictures,
)
from streamtok.tokens.files import load_matching
from streamtok.types import Frame
from streamtok.wire.message import TokenMessage
from streamtok.wire.subscriber import subscribe
from tests.kit.models import VIDEO, build
from tests.kit.threads import beside
from tests.kit.wire import Served, eventually, make_group, make_header, make_info


@pytest.mark.parametrize("name", ["/tmp/Cosmos-0.1-Tokenizer-DV4x8x8", "../nano", "", "nano/", "."])
def test_a_name_from_the_network_is_never_a_path(name, monkeypatch):
    monkeypatch.setattr("streamtok.engine.loading.load_checkpoint", lambda *args: pytest.fail(f"loaded {args}"))
    with pytest.raises(ValueError, match="--model"):
        load_for_stream(make_info(model=name), None, "auto")


@pytest.mark.parametrize("name", ["/tmp/Cosmos-0.1-Tokenizer-DV4x8x8", None, 5, ["nano"]])
def test_a_name_from_a_token_file_is_never_a_path(name, tmp_path, monkeypatch):
    monkeypatch.setattr("streamtok.engine.loading.load_checkpoint", lambda *args: pytest.fail(f"loaded {args}"))
    with pytest.raises(ValueError, match="--model"):
        load_matching(tmp_path / "t.safetensors", {"model": name, "tokenizer": "ab"}, None)


def test_a_far_time_is_left_out_and_a_clock_that_was_set_is_followed():
    times = PictureTimes()
    hour = FAR_NS
    assert [times.place(10 * hour + n) for n in range(3)] == [0, 1, 2]
    assert times.place(2**63 - 1) is None
    assert times.place(10 * hour + 3) == 3
    assert times.place(-(2**63)) is None
    assert times.place(10 * hour + 4) == 4
    assert [times.place(n) for n in (5, 6, 7)] == [None, 4, 5]


@pytest.mark.parametrize("rect", [[0, 0, 0, 0], [0, 0, 2**31, 5], [2**62, 0, 1, 1], [0, 90, 8, 8]])
def test_a_rectangle_beyond_the_picture_is_refused(rect):
    with pytest.raises(ValueError, match="source_rect"):
        crop_within(np.zeros((32, 48, 3), np.uint8), rect)


def test_messages_that_make_no_picture_are_counted_and_the_others_shown(caplog):
    """Another tokenizer, an absurd grid, a rectangle that is none: each costs itself."""
    tokenizer = build(VIDEO)
    decoder = LiveDecoder(tokenizer)
    fields = {"tokenizer": tokenizer.fingerprint, "levels": list(tokenizer.config.levels)}
    made = msgspec.structs.replace(make_header(0), **fields)
    message = TokenMessage(made, np.zeros([4, 6], np.uint16))
    info = make_info(**fields)
    bad = [
        replace(message, header=msgspec.structs.replace(made, tokenizer="other")),
        replace(message, header=msgspec.structs.replace(made, grid=[2**20, 2**20])),
    ]
    assert [shown_pictures(each, decoder, info) for each in bad] == [[], []]
    assert shown_pictures(message, decoder, msgspec.structs.replace(info, source_rect=[0, 0, 99, 99])) == []
    assert len(shown_pictures(message, decoder, info)) == 1
    assert decoder.counts["unshown"] == 3
    decoder.close()
    assert [record.getMessage().split(" seq=")[0] for record in caplog.records] == [
        "stream=front event=unshown groups=1",
        "stream=front event=unshown groups=2",
    ]


@pytest.mark.parametrize("rate", [1e308, 1e-300, float("inf"), None])
def test_an_absurd_rate_or_time_does_not_lose_the_video(tmp_path, rate):
    sink = FileSink(tmp_path / "a.mp4", make_info(frame_rate=rate))
    image = np.zeros((32, 48, 3), np.uint8)
    times = [0, 33, 2**63 - 1, 66, -(2**63), 99]
    shown = [sink.show(Frame("front", n, at, image), image) for n, at in enumerate(times)]
    sink.close()
    assert [not refusal for refusal in shown] == [True, True, False, True, False, True]
    with av.open(str(tmp_path / "a.mp4")) as video:
        assert len(list(video.decode(video=0))) == 4


@pytest.mark.parametrize(("name", "written"), [("a.mkv", 2), ("folder", 3)])
def test_a_picture_of_another_size_costs_only_itself(tmp_path, name, written):
    """As one info with another `source_rect` makes them: a video leaves it out, a folder takes it."""
    sink = FileSink(tmp_path / name, make_info())
    images = [np.zeros(size, np.uint8) for size in ((32, 48, 3), (8, 8, 3), (32, 48, 3))]
    shown = [sink.show(Frame("front", n, 33_000_000 * n, image), image) for n, image in enumerate(images)]
    sink.close()
    assert [not refusal for refusal in shown].count(True) == written
    assert bool(shown[1]) == (written == 2)


def test_pictures_are_cut_as_the_info_of_their_own_message_says(tmp_path):
    tokenizer = build(VIDEO)
    fields = {"tokenizer": tokenizer.fingerprint, "levels": list(tokenizer.config.levels), "session": "0" * 32}
    rects = [[0, 0, 30, 40], [4, 4, 20, 44], [0, 0, 30, 40]]
    with Served("front") as node, subscribe(node.endpoint, lossless=True, until_end=True) as reader:
        node.wait_subscribers(1)
        for number, rect in enumerate(rects):
            info = make_info(**fields, source_rect=rect)
            node.do(lambda publisher, info=info: publisher.add_stream(info))
            node.publish(make_group(8 * number, tokens=np.zeros([4, 6], np.uint16)))
        assert eventually(lambda: reader.counts().get("front", {}).get("messages") == 3)
        sink = FileSink(tmp_path / "pictures", info)
        show_pictures(reader, LiveDecoder(tokenizer), sink, reader.info("front"), threading.Event(), max_frames=3)
        sink.close()
    sizes = [read_image(path).shape[:2] for path in sorted((tmp_path / "pictures").glob("*.png"))]
    assert sizes == [(30, 40), (20, 44), (30, 40)]


def test_a_node_that_comes_back_with_another_tokenizer_is_shown_by_that(ipc_path, tmp_path):
    """One that cannot be loaded costs its own pictures."""
    models = {model.fingerprint: model for model in (build(VIDEO, seed) for seed in (0, 1))}
    names = [*models, "unknown", next(iter(models))]
    decoder, sink = LiveDecoder(models[names[0]]), FileSink(tmp_path / "pictures", make_info())

    def restart_the_node() -> None:
        for name in names:
            with Served("other", bind=f"ipc://{ipc_path}", lossless=True) as node:
                node.wait_subscribers(1)
                info = make_info(tokenizer=name, levels=list(VIDEO.levels))
                node.do(lambda publisher, info=info: publisher.add_stream(info))
                node.publish(make_group(0, tokens=np.zeros([4, 6], np.uint16)))

    def model_of(info):
        if info.tokenizer not in models:
            raise ValueError("unknown")
        return models[info.tokenizer]

    with subscribe(f"ipc://{ipc_path}", lossless=True) as reader, beside(restart_the_node):
        info, stop = reader.info("front", 30), threading.Event()
        show_pictures(reader, decoder, sink, info, stop, max_frames=3, model_of=model_of)
    sink.close()
    assert decoder.counts == {"pictures": 3, "shown": 3, "unshown": 1}


def test_a_refused_message_counts_as_the_pictures_that_it_holds():
    tokenizer = build(VIDEO)
    header = msgspec.structs.replace(make_header(1), tokenizer="other", frame_ids=[1, 2, 3, 4], capture_ns=[1, 2, 3, 4])
    decoder = LiveDecoder(tokenizer)
    assert shown_pictures(TokenMessage(header, np.zeros([4, 6], np.uint16)), decoder, make_info()) == []
    assert decoder.counts["unshown"] == 4
