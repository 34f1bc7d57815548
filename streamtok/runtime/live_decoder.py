"""A live token stream back to pictures, one message at a time.

decoder = LiveDecoder(streamtok.load("nano"))
for message in streamtok.subscribe("tcp://127.0.0.1:5555"):
    for picture in decoder.feed(message):
        show(picture.image)
"""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

log = logging.getLogger("streamtok.decode")


@dataclass(frozen=True)
class Picture:
    """A decoded frame: uint8 RGB (H, W, 3), with the number and capture time (ns) of the frame that it shows."""

    stream: str
    frame_id: int
    capture_ns: int
    image: np.ndarray


class LiveDecoder:
    """Decodes any number of streams of one tokenizer; each starts at a keyframe, and again after a loss.

    `counts` holds `pictures`, `skipped` (messages that cannot be decoded before the next keyframe) and `nonfinite`.
    """

    def __init__(self, tokenizer: Any, context: int | None = None) -> None:
        self.tokenizer, self.context = tokenizer, context
        self.counts: Counter[str] = Counter()
        self._streams: dict[str, tuple[tuple[int, ...], Any]] = {}
        self._next: dict[str, tuple[str, int] | None] = {}

    def feed(self, message: Any) -> list[Picture]:
        """The pictures of one `TokenMessage`, oldest first: one per real frame, none until a keyframe has come.

        Raises ValueError for a message of another tokenizer.
        """
        header = message.header
        if header.tokenizer != self.tokenizer.fingerprint:
            raise ValueError(
                f"stream {header.stream!r} is made by tokenizer {header.tokenizer}, this one is "
                f"{self.tokenizer.config.name!r} with {self.tokenizer.fingerprint}; load the model that the node runs"
            )
        follows = self._next.get(header.stream) == (header.session, header.seq)
        if not header.keyframe and not follows:
            self._next[header.stream] = None
            self.counts["skipped"] += 1
            return []
        self._next[header.stream] = header.session, header.seq + 1
        frames = self._decode(header, message.tokens)
        if frames is None:
            self._next[header.stream] = None
            return []
        self.counts["pictures"] += len(header.frame_ids)
        images = frames[-1:] if header.keyframe else frames
        return [
            Picture(header.stream, frame_id, capture_ns, image)
            for frame_id, capture_ns, image in zip(header.frame_ids, header.capture_ns, images, strict=False)
        ]

    def _decode(self, header: Any, tokens: np.ndarray) -> np.ndarray | None:
        """uint8 (G, H, W, 3), or None where the decoder's output was not finite."""
        from streamtok.model import NonFiniteError

        height, width = tokens.shape[-2:]
        known = self._streams.get(header.stream)
        if known is None or known[0] != tokens.shape:
            decoder = self.tokenizer.decode_stream(slots=1, grid_height=height, grid_width=width, context=self.context)
            known = self._streams[header.stream] = tokens.shape, decoder
        values = tokens if tokens.dtype == np.float16 else tokens.astype(np.int32)
        try:
            frames = known[1].step(torch.from_numpy(values.copy())[None].unsqueeze(-3), keyframe=[header.keyframe])
        except NonFiniteError:
            self.counts["nonfinite"] += 1
            log.error("stream=%s event=nonfinite seq=%d action=wait_for_keyframe", header.stream, header.seq)
            return None
        return to_images(frames)


def to_images(frames: torch.Tensor) -> np.ndarray:
    """Decoder output (1, 3, T, H, W) in [-1, 1] scale to uint8 RGB (T, H, W, 3)."""
    pixels = frames[0].clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def cropped(image: np.ndarray, info: Any) -> np.ndarray:
    """The part of an encoded image that shows the source, without padding."""
    if info.source_rect is None:
        return image
    top, left, height, width = info.source_rect
    return image[top : top + height, left : left + width]
