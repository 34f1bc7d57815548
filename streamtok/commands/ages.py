"""How old messages were when they came, for the summary of `streamtok subscribe`."""

from typing import Any

from streamtok.measures import LatestSamples


class Ages:
    """How old live messages were when they came. Between two machines that is as exact as their clocks agree.

    `before_capture` counts those that came before their capture time, as from a file that is read faster than it was
    taken; `before_publish` those that came before they were sent: the clocks disagree, by `disagree_s` at least.
    """

    def __init__(self) -> None:
        self.before_capture = self.before_publish = 0
        self.disagree_s = 0.0
        self._samples = {"publish_to_reader": LatestSamples(), "capture_to_reader": LatestSamples()}

    def add(self, since_publish: float, since_capture: float) -> None:
        """Note one message: seconds since it was sent, and since its newest frame was taken."""
        if since_publish < 0:
            self.before_publish += 1
            self.disagree_s = max(self.disagree_s, -since_publish)
            return
        self._samples["publish_to_reader"].add(since_publish)
        if since_capture < 0:
            self.before_capture += 1
        else:
            self._samples["capture_to_reader"].add(since_capture)

    def summary(self) -> dict[str, Any]:
        """`latency_ms` of those that have an age, and `without_age`, how many have none; if most came before their
        capture time, the age of the others since then means nothing, and is left out."""
        parts = {part: kept for part, kept in self._samples.items() if kept.count}
        if self.before_capture > self._samples["capture_to_reader"].count:
            parts.pop("capture_to_reader", None)
        return {
            "latency_ms": {
                part: {name: round(1e3 * value, 3) for name, value in kept.quantiles().items()}
                for part, kept in parts.items()
            },
            "without_age": {
                "before_capture": self.before_capture,
                "before_publish": self.before_publish,
                "clocks_disagree_ms": round(1e3 * self.disagree_s, 3),
            },
        }
