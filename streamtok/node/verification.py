"""Verifies that a replay gives the recorded tokens: it compares every group, and reports differences and doubts."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from streamtok.node.replay import Replayed
from streamtok.recording.reader import Recording
from streamtok.types import TokenGroup
from streamtok.wire.message import TokenMessage


def check_verifiable(recording: Recording) -> None:
    """Raise ValueError if the tokens of a recording cannot be verified; the message says why."""
    path = recording.paths[0]
    if not recording.streams:
        raise ValueError(f"{path} has no recorded tokens to compare with")
    if recording.frames_mode == "lossy":
        raise ValueError(
            f"{path} holds lossy frames (--record-frames lossy): they are not the images that were encoded, so its "
            "tokens cannot be verified; record with --record-frames lossless"
        )


def find_difference(recorded: TokenMessage, group: TokenGroup) -> str:
    """Describe how a group differs from the recorded message; empty if every token is the same."""
    header = recorded.header
    label = f"{header.stream} seq {header.seq} (epoch {header.epoch}, frames {header.frame_ids})"
    if list(group.tokens.shape) != list(header.grid) or group.tokens.dtype != recorded.tokens.dtype:
        return f"{label}: grid {list(group.tokens.shape)} {group.tokens.dtype}, recorded {header.grid} {header.dtype}"
    view = f"u{group.tokens.dtype.itemsize}"
    now, then = np.ascontiguousarray(group.tokens).view(view), np.ascontiguousarray(recorded.tokens).view(view)
    different = np.argwhere(now != then)
    if not len(different):
        return ""
    first = tuple(int(index) for index in different[0])
    return (
        f"{label}: {len(different)} of {now.size} tokens differ, the first at {list(first)}: "
        f"recorded {recorded.tokens[first]}, now {group.tokens[first]}"
    )


@dataclass
class Verification:
    """Compares replayed groups with the recorded ones; `first` describes the first difference, empty if there is none.

    `skipped` counts recorded groups that were not compared, by reason; `doubts` says why there may be more of them.
    """

    compared: int = 0
    different: int = 0
    first: str = ""
    skipped: Counter[str] = field(default_factory=Counter)
    doubts: list[str] = field(default_factory=list)

    def add(self, replayed: Replayed) -> None:
        """Compare one group with its recorded message, unless another tokenizer has made that."""
        recorded, info = replayed.recorded, replayed.group.info
        if recorded is None:
            return
        if info is not None and info.tokenizer != recorded.header.tokenizer:
            self.skipped["another tokenizer made it"] += 1
            return
        self.compared += 1
        found = find_difference(recorded, replayed.group)
        if found:
            self.different += 1
            self.first = self.first or found

    def faults(self) -> list[str]:
        """Why the recording is not verified; empty if every recorded group was compared and is identical."""
        total = self.compared + self.skipped.total()
        faults = [] if self.compared else ["nothing could be compared"]
        faults += [f"{self.different} of {self.compared} groups compared differ"] if self.different else []
        faults += [f"{total - self.compared} of {total} groups were not compared"] if self.compared < total else []
        return faults + self.doubts

    def report(self) -> str:
        """The result as lines of text."""
        lines = [f"{self.compared} groups compared, {self.compared - self.different} identical"]
        lines += [f"{count} not compared: {reason}" for reason, count in self.skipped.items()]
        if self.first:
            lines.append(f"{self.different} differ; the first: {self.first}")
        faults = self.faults()
        lines.append(f"NOT verified: {'; '.join(faults)}" if faults else "verified")
        return "\n".join(lines)
