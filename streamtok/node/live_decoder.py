"""Decodes live token streams to pictures, one message at a time.

decoder = LiveDecoder(streamtok.load("nano"))
for message in streamtok.subscribe("tcp://127.0.0.1:5555"):
    for picture in decoder.feed(message):
        show(picture.image)
"""

import logging
import time
from collections import Counter

import numpy as np

from streamtok.event_log import EventLog
from streamtok.model import NonFiniteError, Tokenizer
from streamtok.model.decoding import GridDecoder
from streamtok.types import Frame
from streamtok.wire.header import TokenHeader
from streamtok.wire.message import TokenMessage

log = logging.getLogger("streamtok.decode")


class LiveDecoder:
    """Decodes any number of streams of one tokenizer; each starts at a keyframe, and restarts at one after a loss.

    With `across_losses` a started stream goes on after a loss with the tokens that are readable. Its pictures are wrong
    where they depend on lost groups: for a few groups, or in a closed loop up to the next keyframe. `counts` has
    `pictures`, `skipped` (messages that cannot be decoded before the next keyframe) and `nonfinite`.
    """

    def __init__(self, tokenizer: Tokenizer, context: int | None = None, across_losses: bool = False) -> None:
        self.tokenizer, self.context, self.across_losses = tokenizer, context, across_losses
        self.counts: Counter[str] = Counter()
        self._decoders: dict[str, GridDecoder] = {}
        self._events: dict[str, EventLog] = {}
        self._broken: set[str] = set()  # streams whose decoder output was not finite, until their next keyframe

    def feed(self, message: TokenMessage) -> list[Frame]:
        """Decode one message of a subscription; returns a picture per frame, oldest first, and none until a keyframe.

        Each has the id and the capture time of its frame. Raises ValueError for a message of another tokenizer.
        """
        header = message.header
        self.tokenizer.check_fingerprint(header.tokenizer, f"stream {header.stream!r} is made by tokenizer")
        if header.keyframe:
            self._broken.discard(header.stream)
        goes_on = self.across_losses and not message.unreadable and header.stream in self._decoders
        if not (message.decodable or goes_on) or header.stream in self._broken:
            self.counts["skipped"] += 1
            return []
        images = self._decode(header, message.tokens)
        if images is None:
            return []
        self.counts["pictures"] += len(header.frame_ids)
        return [
            Frame(header.stream, frame_id, capture_ns, image)
            for frame_id, capture_ns, image in zip(header.frame_ids, header.capture_ns, images, strict=False)
        ]

    def change(self, tokenizer: Tokenizer, context: int | None) -> None:
        """Decode the messages of another tokenizer from now on."""
        self.tokenizer, self.context = tokenizer, context
        self._decoders.clear()
        self._broken.clear()

    def close(self) -> None:
        """Log what was only summed up so far."""
        for events in self._events.values():
            events.finish()

    def _decode(self, header: TokenHeader, tokens: np.ndarray) -> np.ndarray | None:
        """Decode a grid to uint8 (T, H, W, 3); None if the output was not finite."""
        decoder = self._decoders.setdefault(header.stream, GridDecoder(self.tokenizer, self.context or "model"))
        try:
            return decoder.step(tokens, header.keyframe)
        except NonFiniteError:
            self._broken.add(header.stream)
            self.counts["nonfinite"] += 1
            self.note(header, "nonfinite", logging.ERROR, action="wait_for_keyframe")
            return None

    def note(self, header: TokenHeader, event: str, level: int, **facts: str) -> None:
        """Log a fault of a message, at most once in 10 s for each stream and event."""
        events = self._events.setdefault(header.stream, EventLog(header.stream, log))
        events.add(time.monotonic_ns(), event, {"groups": 1}, level, seq=header.seq, **facts)
