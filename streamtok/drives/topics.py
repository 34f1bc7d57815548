"""Choose the topics of a drive that are read as cameras, and name their streams."""

import difflib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from streamtok.recording.format import FRAMES

Topics = Sequence[str] | dict[str, str] | None  # to read; {topic: stream name} names them, None is every camera
TAIL_WORDS = re.compile(r"(/(image_raw|image_rect|image_rect_color|image_color|image|compressed|video|raw))+$")


def stream_names(topics: Sequence[str]) -> dict[str, str]:
    """A stream name for each topic: "/cam/front/image_raw/compressed" is "cam_front" unless another camera has it."""
    names: dict[str, str] = {}
    for topic in topics:
        texts = TAIL_WORDS.sub("", topic.removeprefix(FRAMES)), topic
        short, long = (re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "cam" for text in texts)
        tries = itertools.chain([short[:64], long[:64]], (f"{long[:60]}_{number}" for number in itertools.count(2)))
        names[topic] = next(name for name in tries if name not in names.values())
    return names


def choose_topics(
    path: Path, cameras: Sequence[str], others: dict[str, str], topics: Topics, reason: str = ""
) -> dict[str, str]:
    """{topic: stream name} of the cameras to read; `others` are {topic: type} of the rest. ValueError lists them, with
    the `reason` why cameras may be missing."""
    names = stream_names(cameras)
    if topics is None:
        if not names:
            found = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(others.items())) or "no topics at all"
            raise ValueError(f"{path} has no camera images; it has {found}{reason and f' ({reason})'}")
        return names
    chosen = {}
    by_name = {name: topic for topic, name in names.items()}
    for asked in topics:
        topic = asked if asked in names else by_name.get(asked)
        if topic is None:
            raise ValueError(_no_topic(path, asked, names, others))
        chosen[topic] = topics[asked] if isinstance(topics, dict) else names[topic]
    return chosen


def _no_topic(path: Path, asked: str, names: dict[str, str], others: dict[str, str]) -> str:
    if asked in others:
        return f"{path}: topic {asked!r} is {others[asked]}, not camera images; cameras: {', '.join(names) or 'none'}"
    near = difflib.get_close_matches(asked, [*names, *names.values()], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{path} has no topic {asked!r}; cameras: {', '.join(names) or 'none'}{hint}"
