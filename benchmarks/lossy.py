"""A link between readers and a node that loses, delays and reorders messages by a seeded pattern."""

import random
import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

import zmq

Item = TypeVar("Item")
POLL_MS = 10


@dataclass
class LossPattern(Generic[Item]):
    """Decides the fate of each message (Gilbert 1960); the same `seed` gives the same pattern.

    A share of `loss` is lost, in runs of `burst` on average (1: independently). A share of `late` is delayed behind up
    to `behind` later ones.
    """

    loss: float = 0.0
    burst: float = 1.0
    late: float = 0.0
    behind: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        self.lost = self.delayed = 0
        self._chance = random.Random(self.seed)
        self._losing = False
        self._held: list[tuple[int, Item]] = []  # delayed ones, each with the number of messages to come before it

    def pass_on(self, item: Item) -> list[Item]:
        """Take one message; returns those that come out now, in order."""
        out = [] if self._loses() else [item]
        if out and self._chance.random() < self.late:
            self.delayed += 1
            self._held.append((self._chance.randint(1, self.behind) + 1, item))
            out = []
        self._held = [(left - 1, held) for left, held in self._held]
        out += [held for left, held in self._held if left <= 0]
        self._held = [(left, held) for left, held in self._held if left > 0]
        return out

    def _loses(self) -> bool:
        """Whether the next message is lost: a two-state Markov chain with mean loss `loss` and mean run `burst`."""
        if self.burst <= 1:
            self._losing = self._chance.random() < self.loss
        elif self._losing:
            self._losing = self._chance.random() >= 1 / self.burst
        else:
            self._losing = self._chance.random() < self.loss / (self.burst * (1 - self.loss))
        self.lost += self._losing
        return self._losing


class LossyLink:
    """Relays a node's messages to readers at `endpoint`; `pattern` applies to token messages, all others arrive."""

    def __init__(self, endpoint: str, pattern: LossPattern[list[bytes]]) -> None:
        self.pattern = pattern
        self._context = zmq.Context()
        self._node, self._readers = self._context.socket(zmq.XSUB), self._context.socket(zmq.XPUB)
        for end in (self._node, self._readers):
            end.set(zmq.RCVHWM, 0)
            end.set(zmq.SNDHWM, 0)
        self._readers.set(zmq.XPUB_VERBOSER, 1)
        self._node.connect(endpoint)
        self.endpoint = f"tcp://127.0.0.1:{self._readers.bind_to_random_port('tcp://127.0.0.1')}"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def __enter__(self) -> "LossyLink":
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        self._thread.join()
        self._context.destroy(1000)

    def _relay(self) -> None:
        poller = zmq.Poller()
        for end in (self._node, self._readers):
            poller.register(end, zmq.POLLIN)
        while not self._closed.is_set():
            ready = dict(poller.poll(POLL_MS))
            if self._readers in ready:
                self._node.send(self._readers.recv())
            if self._node in ready:
                parts = self._node.recv_multipart()
                for message in self.pattern.pass_on(parts) if parts[0].startswith(b"tokens/") else [parts]:
                    self._readers.send_multipart(message)
