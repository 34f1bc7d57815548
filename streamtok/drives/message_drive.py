"""The base of drives made of recorded messages, in any kind of file.

It chooses the topics that are cameras and their clocks, and turns their messages into items.
"""

import contextlib
import itertools
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from streamtok.drives.clocks import (
    ARRIVAL_SAMPLE,
    SAMPLE,
    AskedClock,
    RecentImages,
    Span,
    Stamps,
    Timed,
    TimeFiller,
    choose_clocks,
)
from streamtok.drives.drive import GUESSED, Drive
from streamtok.drives.image_items import ItemMaker, split_pictures, take_header
from streamtok.drives.item import Item
from streamtok.drives.topics import Topics, choose_topics
from streamtok.io.codecs.access_units import AccessUnits
from streamtok.io.images.stills import DamagedFrame
from streamtok.io.messages.depth import DepthRange, is_depth
from streamtok.io.messages.image_messages import ImageMessage, find_parser, image_kind
from streamtok.recording.packing import unpack_message
from streamtok.times import FAR_NS

SEQ_SAMPLE = 8  # header.seq is taken as the frame's id if it rises by one over this many first messages
DEFAULT_DEPTH: DepthRange = (0.0, 10.0)
OTHER_PICTURES = re.compile(r"(image|picture|video|rgbd)s?(array|stamped)?_?$|theora", re.IGNORECASE)
FORM = re.compile(r"/(compressed|ffmpeg|h264|Image|CompressedImage)$")  # of image_transport, and two types on one topic
Other = TypeVar("Other")
Parse = Callable[[memoryview], ImageMessage]


class Topic(NamedTuple):
    """A topic with messages of one type, `kind`; a topic with two types is two of these."""

    name: str
    kind: str


class Recorded(NamedTuple):
    """The facts that streamtok records with an image: its time and number, the node's session, and the codec."""

    capture_ns: int
    frame_id: int
    session: str
    codec: str


class TopicMessage(NamedTuple):
    """One message as stored, with its times in ns (0: unknown)."""

    topic: Topic
    log_ns: int
    data: bytes | memoryview
    publish_ns: int = 0
    recorded: Recorded | None = None
    unreadable: bool = False  # listed in an index, without data


@dataclass(frozen=True)
class ReadOptions:
    """How to read a drive: its `topics` (see `choose_topics`), and the `clock`.

    `depth_range` are the distances, in metres, between which depth images become pictures. With None depth images are
    left out, unless asked for by name.
    """

    topics: Topics = None
    clock: AskedClock = "auto"
    depth_range: DepthRange | None = None


@dataclass
class Sample:
    """The first messages of a topic: their times, ROS 1's counters, and the first one's encoding."""

    stamps: list[Stamps] = field(default_factory=list)
    counters: list[int | None] = field(default_factory=list)
    encoding: str = ""
    recent: RecentImages = field(default_factory=RecentImages)

    def add(self, message: TopicMessage, image: ImageMessage) -> None:
        """Take one message, unless it is a copy."""
        if image.stamp_ns and self.recent.have(image.stamp_ns, message.log_ns, image):
            return
        self.encoding = self.encoding or image.encoding
        self.counters.append(image.seq)
        self.stamps.append(Stamps(image.stamp_ns, message.publish_ns, message.log_ns))

    @property
    def is_numbered(self) -> bool:
        """Whether header.seq counts images; in throttled or rewritten topics it does not."""
        first = [-1 if number is None else number for number in self.counters[:SEQ_SAMPLE]]
        return len(first) > 1 and min(first) >= 0 and all(b == a + 1 for a, b in itertools.pairwise(first))


class MessageDrive(Drive):
    """The cameras of files with messages. Subclasses call `choose_cameras` once they know the topics."""

    def __init__(self, path: Path, notes: Iterable[str]) -> None:
        super().__init__(path, [])
        self.topics: dict[Topic, str] = {}
        self._parsers: dict[Topic, Parse] = {}
        self._numbered: set[Topic] = set()
        self._depth: DepthRange | None = None
        self.twice: list[Span] = []
        for text in notes:
            self.note("", text)

    @abstractmethod
    def messages(self, topics: Collection[Topic]) -> Iterator[TopicMessage]:
        """Messages of the topics in order of time; unreadable ones are left out and noted."""

    def choose_cameras(
        self, encodings: Mapping[Topic, str], options: ReadOptions, recorded: Collection[Topic] = ()
    ) -> None:
        """Choose the cameras among topics, given {topic: message encoding}, and their clocks by their first messages.

        Topics that streamtok `recorded` have times of their own. ValueError says what there is instead of cameras.
        """
        labels, others = self._sort_topics(encodings, recorded)
        reason = "; ".join(problem.text for problem in self.problems[:3])
        streams = choose_topics(self.path, list(labels), others, options.topics, reason)
        samples = self._sample_cameras([labels[label] for label in streams if labels[label] not in recorded], options)
        for label in self._settle_depth({label: samples.get(labels[label]) for label in streams}, options):
            del streams[label]
        for _, forms in itertools.groupby(sorted(streams, key=_bare_topic), _bare_topic):
            if len(same := list(forms)) > 1:
                self.note("", f"{' and '.join(same)} are likely one camera, which is read {len(same)} times (--stream)")
        chosen = {labels[label]: stream for label, stream in streams.items()}
        names = {topic.name: stream for topic, stream in chosen.items()}
        mixed = {topic: names[topic.name] for topic in recorded if topic in self._parsers and topic.name in names}
        self.topics = mixed | chosen
        self.streams = list(dict.fromkeys(self.topics.values()))
        self.counts = {name: Counter() for name in self.streams}
        self._numbered = {topic for topic, sample in samples.items() if sample.is_numbered}
        clocks = choose_clocks({t: samples[t].stamps for t in samples if t in self.topics}, options.clock)
        self.clocks = {self.topics[topic]: choice for topic, choice in clocks.items()}
        for name, choice in self.clocks.items():
            if choice.reason:
                self.note(name, f"timed by {choice.clock} time: {choice.reason}")

    def _sample_cameras(self, topics: list[Topic], options: ReadOptions) -> dict[Topic, Sample]:
        """The first messages of each topic; more of them if a clock is not the header's."""
        samples = self._sample(topics, SAMPLE)
        clocks = choose_clocks({topic: sample.stamps for topic, sample in samples.items()}, options.clock)
        is_plain = all(choice.clock == "header" for choice in clocks.values())
        return samples if is_plain else self._sample(topics, ARRIVAL_SAMPLE)

    def _settle_depth(self, samples: Mapping[str, Sample | None], options: ReadOptions) -> list[str]:
        """Settle the range of depth images; returns the topics with such images that are left out, which is noted."""
        depth = [label for label, sample in samples.items() if sample is not None and is_depth(sample.encoding)]
        self._depth = options.depth_range
        if not depth or self._depth is not None:
            return []
        if options.topics is None and len(depth) < len(samples):
            self.note("", f"{', '.join(depth)}: depth images, left out; --depth-range 0:10 (m) makes pictures of them")
            return depth
        self._depth = near, far = DEFAULT_DEPTH
        self.note("", f"{', '.join(depth)}: depth images, shown from {near:g} to {far:g} m (--depth-range)")
        return []

    def _sort_topics(
        self, encodings: Mapping[Topic, str], recorded: Collection[Topic]
    ) -> tuple[dict[str, Topic], dict[str, str]]:
        """Readable cameras as {label: topic}, and all other topics as {label: what it is}.

        The topics that streamtok recorded of one camera, in messages of several types, share one label.
        """
        labels: dict[str, Topic] = {}
        others: dict[str, str] = {}
        for topic, encoding in encodings.items():
            if not image_kind(topic.kind):
                others.setdefault(topic.name, topic.kind or encoding or "of no type")
                if OTHER_PICTURES.search(topic.kind):
                    self.note("", f"{topic.name} is left out: {topic.kind} is not read")
                continue
            label = topic.name if topic.name not in labels else f"{topic.name}/{topic.kind.rpartition('/')[2]}"
            try:
                self._parsers[topic] = find_parser(topic.kind, encoding)
            except ValueError as error:
                others[label] = str(error)
                self.note("", f"{label} is left out: {error}")
                continue
            if topic not in recorded or topic.name not in labels:
                labels[label] = topic
        return labels, others

    def _sample(self, topics: list[Topic], count: int) -> dict[Topic, Sample]:
        """The first `count` messages of each topic, or fewer if a topic begins late: reading is bounded."""
        samples = {topic: Sample() for topic in topics}
        for message in itertools.islice(self.messages(topics), 4 * count * len(topics)) if topics else ():
            sample = samples[message.topic]
            if len(sample.stamps) < count:
                with contextlib.suppress(DamagedFrame, ValueError):
                    sample.add(message, self.parse(message))
            if all(len(each.stamps) >= count for each in samples.values()):
                break
        return samples

    def find_twice(self, parts: Iterable[tuple[Collection[Topic], Span | None, bool]]) -> None:
        """Find the spans where parts overlap, so that messages may be there twice.

        `parts` are (topics, span, whether the clock was set back). There are none unless each part begins after the one
        before: after a clock was set back, the same pictures may belong to another run, whose decoder needs them.
        """
        latest: dict[Topic, Span] = {}
        for there, span, was_set_back in parts:
            topics = [topic for topic in there if topic in self.topics]
            if span is None or not topics:
                continue
            begin, end = max(latest.get(topic, (-1, -1)) for topic in topics)
            if was_set_back or span[0] <= begin:
                self.twice = []
                return
            self.twice += [(span[0] - FAR_NS, end + FAR_NS)] if span[0] <= end else []  # a copy is logged when it comes
            latest |= dict.fromkeys(topics, (span[0], max(end, span[1])))

    def parse(self, message: TopicMessage) -> ImageMessage:
        """Parse an image message; DamagedFrame if it cannot be read."""
        if message.unreadable:
            raise DamagedFrame("lies in a damaged part of the file")
        try:
            return self._parsers[message.topic](memoryview(unpack_message(message.data)))
        except ValueError as error:
            raise DamagedFrame(str(error)) from error

    def time_message(self, message: TopicMessage) -> Timed:
        """Parse a message and time it by its camera's clock; `Timed.error` says why it cannot be read."""
        stream, known = self.topics[message.topic], message.recorded
        image, error = None, ""
        try:
            image = self.parse(message)
        except DamagedFrame as damage:
            error = str(damage)
        if known is not None:
            if image is not None and known.codec == "mjpeg":  # FFmpeg decoded it live, and differs in the last bit
                image = image._replace(kind="video", encoding="mjpeg")
            return Timed(stream, known.capture_ns, message.log_ns, image, error, known.frame_id, session=known.session)
        times = Stamps(image.stamp_ns if image is not None else 0, message.publish_ns, message.log_ns)
        time_ns = self.find_clock(stream).read(times)
        number = image.seq if image is not None and message.topic in self._numbered else None
        return Timed(stream, time_ns, message.log_ns, image, error, number)

    def _items(self, streams: list[str]) -> Iterator[Item]:
        topics = [topic for topic, name in self.topics.items() if name in streams]
        return self.assemble(self.messages(topics))

    def assemble(self, messages: Iterable[TopicMessage | Other]) -> Iterator[Item | Other]:
        """Turn messages into items: drop copies, fill in times, decode video. Other objects pass through in order."""
        maker = ItemMaker(self._depth, self.find_clock)
        split = {name: partial(split_pictures, AccessUnits(self.find_clock(name).shuffled)) for name in self.streams}
        fillers = {name: TimeFiller(self.twice, split[name]) for name in self.streams}
        headers = dict.fromkeys(self.streams, b"")
        for message in messages:
            if not isinstance(message, TopicMessage):
                yield message
            elif message.recorded is not None:
                yield from maker.make(self.time_message(message))
            else:
                timed = take_header(self.time_message(message), headers)
                for each in fillers[timed.stream].push(timed) if timed else ():
                    yield from self._make(maker, each)
        for name, filler in fillers.items():
            for each in filler.flush():
                yield from self._make(maker, each)
            if filler.copies:
                self.counts[name]["duplicates"] += filler.copies
                self.note(name, f"copies of images are left out: {filler.copies}")
        yield from maker.flush()

    def _make(self, maker: ItemMaker, timed: Timed) -> Iterable[Item]:
        counts = self.counts[timed.stream]
        if not timed.time_ns and not timed.error:
            counts["untimed"] += 1
            self.note(timed.stream, "images without a time, before the first that has one, are left out")
            return ()
        if timed.guessed and timed.image is not None:
            counts["guessed"] += 1
            self.note(timed.stream, GUESSED)
        return maker.make(timed)


def _bare_topic(label: str) -> str:
    """A topic without the form that its pictures are sent in."""
    return FORM.sub("", label)
