"""Sends streams to other viewers: Rerun, by its SDK, and Foxglove, by its WebSocket server."""

from typing import Any

import numpy as np

from streamtok.extras import needs_extra
from streamtok.io.images.stills import encode_jpeg
from streamtok.view.pictures import Group

RERUN = "rerun+http://127.0.0.1:9876/proxy"
FOXGLOVE_PORT = 8765


class RerunViewer:
    """Sends groups to a Rerun viewer on this machine (`rerun --bind 127.0.0.1`), or writes an .rrd file.

    Each stream has `picture`, `source`, `tokens` and, as scalars, `ms/STAGE`, `dropped` and `lost`, by capture time.
    """

    wants_pictures = True

    def __init__(self, file: str | None = None) -> None:
        with needs_extra("showing streams in Rerun", "rerun"):
            import rerun
        self._rerun, self._recording = rerun, rerun.RecordingStream("streamtok")
        if file is None:
            self._recording.connect_grpc(RERUN)
        else:
            self._recording.save(file)

    def take(self, group: Group) -> None:
        rerun, log, name = self._rerun, self._recording.log, group.head["id"]
        self._recording.set_time("capture", timestamp=group.utc_ns / 1e9)
        if group.picture is not None:
            data = encode_jpeg(group.picture)
            log(f"{name}/picture", rerun.EncodedImage(contents=data, media_type="image/jpeg"))
        if group.source is not None:
            log(f"{name}/source", rerun.EncodedImage(contents=group.source))
        if group.message.header.levels and group.message.tokens.ndim == 2:
            log(f"{name}/tokens", rerun.DepthImage(group.message.tokens.astype(np.uint32)))
        for stage, ms in group.head["stages_ms"].items():
            log(f"{name}/ms/{stage}", rerun.Scalars(ms))
        log(f"{name}/dropped", rerun.Scalars(group.message.header.dropped))
        log(f"{name}/lost", rerun.Scalars(group.message.lost))

    def close(self) -> None:
        """Flush, and disconnect."""
        self._recording.disconnect()


class FoxgloveViewer:
    """A WebSocket server on loopback for Foxglove (ws://127.0.0.1:8765).

    Each stream has /ID/picture and /ID/source (foxglove.CompressedImage), and /ID/stages (JSON: milliseconds, dropped,
    lost).
    """

    wants_pictures = True

    def __init__(self, port: int = FOXGLOVE_PORT) -> None:
        with needs_extra("showing streams in Foxglove", "foxglove"):
            import foxglove
            from foxglove import channels, messages
        self._foxglove, self._channels, self._messages = foxglove, channels, messages
        self._open: dict[str, Any] = {}  # by topic
        self._server = foxglove.start_server(name="streamtok", host="127.0.0.1", port=port)
        self.port = self._server.port

    def take(self, group: Group) -> None:
        name, log_time = group.head["id"], group.utc_ns
        picture = None if group.picture is None else encode_jpeg(group.picture)
        stamp = self._messages.Timestamp(*divmod(group.utc_ns, 10**9))
        for kind, data in (("picture", picture), ("source", group.source)):
            if data is not None:
                encoding = "png" if data.startswith(b"\x89PNG") else "jpeg"
                image = self._messages.CompressedImage(timestamp=stamp, frame_id=name, data=data, format=encoding)
                self._channel(f"/{name}/{kind}", self._channels.CompressedImageChannel).log(image, log_time=log_time)
        facts = {**group.head["stages_ms"], "dropped": group.message.header.dropped, "lost": group.message.lost}
        self._channel(f"/{name}/stages", self._foxglove.Channel).log(facts, log_time=log_time)

    def close(self) -> None:
        """Stop serving."""
        self._server.stop()

    def _channel(self, topic: str, kind: type) -> Any:
        if topic not in self._open:
            self._open[topic] = kind(topic)
        return self._open[topic]
