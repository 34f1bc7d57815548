"""A token file, or a live token stream, back to pictures.

streamtok decode tokens.safetensors -o back.mp4
streamtok decode tcp://127.0.0.1:5555                                    (a window; q closes it)
streamtok decode tcp://127.0.0.1:5555 --stream front -o front.mp4 --max-frames 300
streamtok decode tcp://127.0.0.1:5555 -o zmq:tcp://127.0.0.1:5556        (JPEG on frames/<stream>)
"""

import json

from streamtok.commands.command import make_main, until_stopped
from streamtok.settings.decode import DecodeSettings


def run(settings: DecodeSettings) -> int:
    """Decode; 0 at the end of the file or stream, or when told to stop."""
    summary = decode_stream(settings) if settings.live else decode_tokens(settings)
    words = ", ".join(f"{name} {value}" for name, value in summary.items())
    print(json.dumps(summary) if settings.as_json else words)
    return 0


def decode_tokens(settings: DecodeSettings) -> dict[str, str | int]:
    """A token file to pictures; returns where they are and what was left out."""
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


def decode_stream(settings: DecodeSettings) -> dict[str, str | int]:
    """A live stream to pictures, until it is stopped; returns where they are and how many."""
    from streamtok.node.live_view import view_stream

    with until_stopped(settings) as stop:
        return view_stream(settings, stop)


main = make_main("decode", DecodeSettings, run, __doc__)
