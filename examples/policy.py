"""A policy that reads the tokens of several cameras and acts at a fixed rate.

    streamtok ingest --source 'synthetic:256x448@30?seed=1' --stream front \\
                     --source 'synthetic:256x448@30?seed=2' --stream left --realtime --bind tcp://127.0.0.1:5555
    python examples/policy.py tcp://127.0.0.1:5555 --stream front --stream left --rate 10 --steps 8

The network here is small and untrained; yours takes its place. What matters is around it: cameras aligned in time, a
mask for missing grids, no actions from old pictures, and a clock that does not drift.
"""

import argparse
import itertools
import math
import sys
import time
from collections import deque

import torch
from torch import Tensor, nn

import streamtok
from streamtok.wire.header import Info
from streamtok.wire.security import CurveClient, load_keys
from streamtok.wire.subscriber import Subscription

AHEAD_NS = 500_000_000  # how far a step may seem to lie in the future, since infos are delayed too
OFFSETS = 10  # latest infos, one a second, that decide a clock's offset, so a wrong one is soon forgotten


class Policy(nn.Module):
    """The last N token grids of every camera -> (steering, acceleration), each in -1..1.

    `levels` are the tokenizer's, from `info`. A token is split into its FSQ digits, which are ordered numbers, so that
    similar cells have similar inputs; an embedding of 64,000 codes would have to learn that.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: list[int], cameras: int, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels))
        self.register_buffer("basis", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]))
        self.look = nn.Sequential(nn.Conv2d(len(levels), width, 3, 2, 1), nn.SiLU(), nn.Conv2d(width, width, 3, 2, 1))
        self.remember = nn.GRU(cameras * width, width, batch_first=True)
        self.act = nn.Linear(width, 2)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """tokens (cameras, N, h, w) int32, valid (cameras, N) bool -> float (2,): steering and acceleration."""
        digits = tokens[:, :, None] // self.basis[:, None, None] % self.levels[:, None, None]
        numbers = digits / (self.levels[:, None, None] // 2) - 1
        seen = self.look(numbers.flatten(0, 1)).mean((-2, -1)).unflatten(0, valid.shape)
        seen = seen * valid[..., None]
        steps, _ = self.remember(seen.transpose(0, 1).flatten(1)[None])
        return torch.tanh(self.act(steps[0, -1]))


def describe(reader: Subscription, cameras: list[str]) -> Info:
    """Wait for the info of all cameras, and return one; ValueError unless they share one discrete tokenizer."""
    infos = [reader.info(camera, timeout=30) for camera in cameras]
    if len({info.tokenizer for info in infos}) > 1:
        raise ValueError(f"cameras {cameras} come from different tokenizers; a policy knows one")
    if not infos[0].levels:
        raise ValueError(f"{infos[0].model} is continuous; this policy reads tokens")
    return infos[0]


class Freshness:
    """Estimates the age of a window's newest step, also if it was captured on another machine.

    `info.clock` is the capture clock when an info is sent. The smallest recent difference to the clock here is the
    offset between the two. A step is also at least as old as the time since the window last advanced here.
    """

    def __init__(self) -> None:
        self._offsets: dict[str, deque[int]] = {}
        self._seen: dict[str, Info] = {}
        self._newest_ns, self._moved_ns = 0, time.monotonic_ns()

    def note(self, info: Info) -> None:
        """Take the newest info of a camera."""
        if self._seen.get(info.stream) is not info:
            self._seen[info.stream] = info
            current = {seen.session for seen in self._seen.values()}
            self._offsets = {session: self._offsets.get(session, deque(maxlen=OFFSETS)) for session in current}
            self._offsets[info.session].append(time.monotonic_ns() - info.clock[0])

    def age(self, newest_ns: int, session: str) -> float:
        """Seconds since the newest step was captured; negative if it claims to be from the future."""
        now = time.monotonic_ns()
        if newest_ns != self._newest_ns:
            self._newest_ns, self._moved_ns = newest_ns, now
        captured = now - min(self._offsets[session]) - newest_ns if session in self._offsets else 0
        return captured / 1e9 if captured < -AHEAD_NS else max(captured, now - self._moved_ns) / 1e9


def run(arguments: argparse.Namespace, reader: Subscription) -> None:
    """Act every 1 / rate seconds on what has arrived by then."""
    described = describe(reader, arguments.cameras)
    policy = Policy(described.levels, len(arguments.cameras)).eval()
    skew_ns = None if arguments.max_skew is None else int(arguments.max_skew * 1e9)
    window = streamtok.TokenWindow(arguments.cameras, arguments.steps, max_skew_ns=skew_ns)
    period, late, freshness = 1 / arguments.rate, 0, Freshness()
    deadline = time.monotonic() + period
    for tick in range(arguments.ticks) if arguments.ticks else itertools.count():
        # Drain all waiting messages, even if late: a policy slower than its period still acts on the newest step.
        while (message := reader.get(max(0, deadline - time.monotonic()))) is not None:
            if message.header.tokenizer == described.tokenizer:  # others are skipped, and the policy then holds
                window.push(message)
        late += time.monotonic() - deadline > period
        deadline = max(deadline + period, time.monotonic())  # no drift; after a stall, deadlines restart from now
        for camera in arguments.cameras:
            freshness.note(reader.infos[camera])
        session = reader.infos[arguments.cameras[0]].session
        print(f"tick {tick} {decide(policy, window, arguments.max_age, freshness, session)} late {late}", flush=True)


def decide(policy: Policy, window: streamtok.TokenWindow, max_age: float, freshness: Freshness, session: str) -> str:
    """Describe one action, or why there is none."""
    if len(window) == 0:
        return "hold: no tokens yet"
    view = window.read()
    age = freshness.age(int(view.capture_ns[:, -1].max()), session)
    if age < 0:
        return f"hold: newest step is {-age:.2f} s ahead of its clock"
    if age >= max_age:
        return f"hold: newest step is {age:.2f} s old"
    with torch.inference_mode():
        steering, acceleration = policy(view.tokens, view.valid).tolist()
    cameras = int(view.valid[:, -1].sum())
    return f"steering {steering:+.3f} acceleration {acceleration:+.3f} cameras {cameras} age {age * 1e3:.0f} ms"


def main(argv: list[str] | None = None) -> int:
    """Read, act, print; returns 1 if the cameras cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint")
    parser.add_argument("--stream", action="append", dest="cameras", help="in the policy's order (default cam0)")
    parser.add_argument("--rate", type=float, default=10, help="actions per second")
    parser.add_argument("--steps", type=int, default=8, help="token grids per camera that the policy sees")
    parser.add_argument("--max-skew", type=float, help="seconds between cameras of one step (default: by their rates)")
    parser.add_argument("--max-age", type=float, default=1.0, help="hold when the newest step is older, in seconds")
    parser.add_argument("--ticks", type=int, default=0, help="end after this many actions (default: Ctrl-C)")
    parser.add_argument("--curve", metavar="DIR", help="keys, where the node demands them")
    arguments = parser.parse_args(argv)
    arguments.cameras = arguments.cameras or ["cam0"]
    torch.manual_seed(0)
    try:
        # Joining by epoch fetches the current epoch first, so the window is full before the next keyframe.
        curve = load_keys(CurveClient, arguments.curve)
        with streamtok.subscribe(arguments.endpoint, arguments.cameras, join="epoch", curve=curve) as reader:
            run(arguments, reader)
    except (TimeoutError, ValueError) as error:
        print(f"policy: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
