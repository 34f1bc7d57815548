"""Decode a token file, or a live token stream, to pictures.

streamtok decode tokens.safetensors -o back.mp4
streamtok decode tcp://127.0.0.1:5555                                    (a window; q closes it)
streamtok decode tcp://127.0.0.1:5555 --stream front -o front.mp4 --max-frames 300
streamtok decode tcp://127.0.0.1:5555 -o zmq:tcp://127.0.0.1:5556        (JPEG on frames/<stream>)
"""

import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from streamtok.commands.command import make_main, until_stopped
from streamtok.settings.fields import Count, Device, Flag, Folder, Model, Seconds, Switch, option
from streamtok.settings.shared import MAX_PIXELS, NodeSettings

if TYPE_CHECKING:
    from streamtok.model import Tokenizer
    from streamtok.wire.header import Info

LIVE_ONLY = "stream", "join", "timeout", "across_losses", "curve", "max_pixels"


class DecodeSettings(NodeSettings):
    """What to decode, and where to: `out` is "window", "zmq:ENDPOINT", or a path for `open_pictures`.

    `stream` None is the first stream that the node names; `join` is that of `streamtok.subscribe`.
    """

    input: Annotated[str, Flag("INPUT", positional=True)] = Field(description="a token file, or the endpoint of a node")
    out: Annotated[str, Flag("OUT", short="-o")] = option(
        "window", "FILE.mp4 (.mkv, .mov), FILE.png, a folder for PNGs; live also window or zmq:ENDPOINT"
    )
    model: Model | None = option(None, "preset or checkpoint (default: the one that the file or stream names)")
    device: Device = option("auto", "auto, cpu, cuda or cuda:N")
    stream: Annotated[str, Flag("NAME")] | None = option(None, "live: which stream of the node (default: the first)")
    join: Literal["epoch", "keyframe"] = option("epoch", "live: start at once, or at the next keyframe")
    timeout: Seconds | None = option(None, "live: fail if no stream has come for this long (default: wait)")
    across_losses: Switch = option(False, "live: go on after a loss, with wrong pictures for a while")
    curve: Folder | None = option(None, "live: keys of this reader (client.key_secret, server.key)")
    max_pixels: Count = option(MAX_PIXELS, "live: leave out larger pictures; each pixel takes some 600 bytes")
    max_frames: Count | None = option(None, "stop after N pictures")
    quiet: Switch = option(False, "no progress bar")

    @property
    def live(self) -> bool:
        """Whether the input is a node, not a token file."""
        return self.input.startswith(("tcp://", "ipc://", "inproc://"))

    @model_validator(mode="after")
    def check_together(self) -> "DecodeSettings":
        """Raise ValueError if the input is a file and flags for live streams are given."""
        if self.live:
            return self
        given = [name for name in LIVE_ONLY if name in self.model_fields_set]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"{flags}: only for a live stream, and {self.input!r} is a token file; leave it out")
        if self.input.endswith(".mcap"):
            raise ValueError(
                f"{self.input} is a recording: `streamtok view` shows it, `replay --out` makes token files"
            )
        if self.out == "window":
            raise ValueError("give out (-o FILE.mp4, FILE.png or a folder): a token file has no window")
        return self


def run(settings: DecodeSettings) -> int:
    """Decode; returns 0 at the end of the file or stream, or when told to stop."""
    if settings.live:
        begun = threading.Event()
        with until_stopped(settings, begun) as stop:
            summary = decode_stream(settings, stop, begun)
    else:
        summary = decode_tokens(settings)
    words = ", ".join(f"{name} {value}" for name, value in summary.items())
    print(settings.format_result(summary, words))
    return 0


def decode_tokens(settings: DecodeSettings) -> dict[str, Any]:
    """Decode a token file; returns where the pictures are, and counts."""
    from streamtok.tokens.files import decode_file

    done = decode_file(
        settings.input,
        settings.out,
        settings.model,
        settings.device,
        progress=not settings.quiet,
        max_frames=settings.max_frames,
    )
    return {"out": str(done.path), "pictures": done.frames, "groups": done.groups, "skipped": done.skipped}


def decode_stream(settings: DecodeSettings, stop: threading.Event, begun: threading.Event) -> dict[str, Any]:
    """Decode a live stream until it ends, its window is closed, or `stop` is set; returns counts. Sets `begun`.

    Raises ValueError if the model is not the stream's tokenizer, TimeoutError if no stream comes in time.
    """
    from streamtok.coding.coder import FILE
    from streamtok.node.live_decoder import LiveDecoder
    from streamtok.node.live_view import first_info, load_for_stream, open_sink, show_pictures
    from streamtok.wire.security import CurveClient, load_keys
    from streamtok.wire.subscriber import subscribe

    names = [settings.stream] if settings.stream else None
    to_file = settings.out != "window" and not settings.out.startswith("zmq:")  # a file has to get every picture
    beside = [settings.model] if settings.model and (Path(settings.model) / FILE).is_file() else []
    with subscribe(
        settings.input,
        names,
        join=settings.join,
        until_end=True,
        curve=load_keys(CurveClient, settings.curve),
        lossless=to_file,
        coders=beside,
    ) as subscription:
        info = first_info(subscription, stop, settings.stream, settings.timeout)
        if info is None:
            return {"shown": 0}

        def model_of(info: "Info") -> "Tokenizer":
            tokenizer = load_for_stream(info, settings.model, settings.device)
            tokenizer.check_fingerprint(info.tokenizer)
            return tokenizer

        decoder = LiveDecoder(model_of(info), info.context, settings.across_losses)
        most, frames = settings.max_pixels, settings.max_frames
        with closing(decoder), closing(open_sink(settings.out, info)) as sink:
            begun.set()
            show_pictures(
                subscription, decoder, sink, info, stop, max_pixels=most, max_frames=frames, model_of=model_of
            )
        lost = subscription.missing
    return {"stream": info.stream, "lost": lost, "out": settings.out, **decoder.counts}


main = make_main("decode", DecodeSettings, run, __doc__)
