"""When a stream starts an epoch although no frame is missing. No pixels, no clock."""

from dataclasses import dataclass

import numpy as np

from streamtok.ingest.stream_options import StreamOptions

DRIFT_S = 1.0  # the least capture time between keyframes caused by drift


@dataclass(eq=False)
class KeyframeSchedule:
    """Decides from capture times (ns), tokens and requests whether a stream's next group should be a keyframe.

    `began_ns` is the capture time of the epoch's keyframe. `drift` is the share of tokens that differ from it, which a
    late joiner cannot know.
    """

    options: StreamOptions
    began_ns: int = 0
    drift: float = 0.0
    requested: bool = False
    _tokens: np.ndarray | None = None  # the keyframe's

    def begin(self, capture_ns: int) -> None:
        """Note that an epoch begins."""
        self.began_ns, self.requested = capture_ns, False

    def note(self, tokens: np.ndarray, keyframe: bool) -> None:
        """Measure the drift of a group's tokens (any shape), if it is limited."""
        if self.options.keyframe_drift is not None:
            self._tokens = tokens if keyframe else self._tokens
            self.drift = float(np.mean(tokens != self._tokens))

    def is_due(self, capture_ns: int) -> bool:
        """Whether the frame of this time should be a keyframe: on request, after the interval, or by drift."""
        interval_ns, since_ns = round(self.options.keyframe_interval * 1e9), capture_ns - self.began_ns
        limit = self.options.keyframe_drift
        drifted = limit is not None and self.drift >= limit and since_ns >= DRIFT_S * 1e9
        return self.requested or drifted or 0 < interval_ns <= since_ns

    def joins(self, batch_ns: int, capture_ns: int, step_ns: int, longest_steps: int) -> bool:
        """Whether this frame, `step_ns` after the one before, is the stream's nearest to its batch's common epoch.

        False if the stream has begun an epoch since then anyway. False too if that epoch began more than
        `longest_steps` away: then the stream was lost at that time, or it has a clock of its own.
        """
        ahead = batch_ns - capture_ns
        nearer_than_next = 2 * ahead <= step_ns
        begun_since = batch_ns - self.began_ns <= step_ns
        return nearer_than_next and not begun_since and abs(ahead) <= longest_steps * step_ns
