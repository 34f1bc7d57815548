"""Read streamtok's recordings: token messages in order, infos, and what is missing.

    from streamtok.recording.reader import open_recording

    recording = open_recording("drive.mcap")
    for message in recording.messages():
        print(message.header.stream, message.header.seq, message.tokens.shape)

Camera images of the same file come from `streamtok.drives.open_drive.open_drive`.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from streamtok.coding.library import Coders, coders_beside
from streamtok.recording import format as form
from streamtok.recording.mcap_file import McapFile
from streamtok.recording.parts import list_files, open_each
from streamtok.wire.coded import GridReader
from streamtok.wire.message import Info, Limits, TokenMessage, WireError, decode_map, unpack
from streamtok.wire.tracking import StreamTracker


class TokenReader:
    """Decodes stored messages to TokenMessages and tracks each stream; `damaged` is called for what is unreadable."""

    def __init__(self, damaged: Callable[[str], None], coders: Iterable[Path] = ()) -> None:
        self._damaged = damaged
        self._grids = GridReader(Coders(coders))
        self._trackers: defaultdict[str, StreamTracker] = defaultdict(StreamTracker)

    def read(self, topic: str, data: memoryview) -> TokenMessage | None:
        """The message, or None if it is not valid or is out of order."""
        try:
            header, payload = form.unpack_tokens(data)
            message = unpack([topic.encode(), header, payload], Limits())
            verdict = self._trackers[message.stream].take_message(message.header)
            if verdict is None:
                self._damaged(f"{topic}: seq {message.header.seq} comes after what followed it, and is left out")
                return None
            message = self._grids.read(message, verdict.decodable)
        except (WireError, msgspec.MsgspecError) as error:
            self._damaged(f"{topic}: a message cannot be read: {error}")
            return None
        if message.unreadable:
            self._damaged(f"{topic}: messages cannot be read: {message.unreadable}")
            return None
        return dataclasses.replace(message, lost=verdict.lost, decodable=verdict.decodable)


class Recording:
    """The token streams of one recording, in one or several files (its parts, in order), read in constant memory.

    `streams` are the names of token streams, `cameras` those with images, `metadata` is that of the first file.
    `damage` lists what could not be read, `notes` what was noticed about its files.
    """

    def __init__(self, paths: Iterable[str | Path], notes: Sequence[str] = ()) -> None:
        self.files, faults = open_each(map(Path, paths), McapFile)
        self.paths = [file.path for file in self.files]
        self.notes = [*notes, *faults]
        self.damage = [f"{file.path.name}: {text}" for file in self.files for text in file.damage]
        topics = {channel.topic for file in self.files for channel in file.channels.values()}
        self.streams = sorted(topic.removeprefix(form.TOKENS) for topic in topics if topic.startswith(form.TOKENS))
        self.cameras = sorted(topic.removeprefix(form.FRAMES) for topic in topics if topic.startswith(form.FRAMES))
        self._facts = [values for file in self.files for name, values in file.metadata if name == form.MAIN_METADATA]
        self.metadata = self._facts[0] if self._facts else {}

    @property
    def frames_mode(self) -> str:
        """How camera images are stored: "none", "lossless" or "lossy"; "lossy" if one part is."""
        modes = {facts.get("frames", "none") for facts in self._facts}
        return "lossy" if "lossy" in modes else "lossless" if "lossless" in modes and self.cameras else "none"

    def messages(self, streams: Iterable[str] | None = None) -> Iterator[TokenMessage]:
        """Token messages of the given streams (None: all) in the order in which they were recorded.

        An invalid message is skipped and listed in `damage`; `lost` of the next one counts it.
        """
        names = self.streams if streams is None else list(streams)
        for name in names:
            if name not in self.streams:
                known = ", ".join(self.streams) or "none"
                raise ValueError(f"{self.paths[0]} has no token stream {name!r}; it has {known}")
        reader = TokenReader(self.damaged, coders_beside(self.paths[0]))
        messages = itertools.starmap(reader.read, self._data(form.TOKENS, names))
        yield from (message for message in messages if message is not None)

    def infos(self) -> dict[str, list[Info]]:
        """Every info of each stream in order: one per session and size, and a last one at the end of a file."""
        found: dict[str, list[Info]] = {name: [] for name in self.streams}
        for info in self._decode(form.INFO, Info):
            found.setdefault(info.stream, []).append(info)
        return found

    def first_infos(self) -> dict[str, Info]:
        """The first info of each stream, from the channels' metadata, without reading messages."""
        found: dict[str, Info] = {}
        for facts in (facts for file in self.files for facts in read_token_facts(file).values()):
            if facts["stream"] not in found:
                known = {key: facts[key] for key in Info.__struct_fields__ if key in facts}
                found[facts["stream"]] = msgspec.convert(known, Info)
        return found

    def missed(self) -> list[form.Missed]:
        """The notes of messages that were lost while recording."""
        return list(self._decode(form.MISSED, form.Missed))

    def _decode(self, prefix: str, kind: type) -> Iterator[Any]:
        """The messages of one kind; those that cannot be read are listed in `damage`."""
        for topic, data in self._data(prefix):
            try:
                yield decode_map(data, kind, Limits())
            except WireError as error:
                self.damaged(f"{topic}: a message cannot be read: {error}")

    def _data(self, prefix: str, names: list[str] | None = None) -> Iterator[tuple[str, memoryview]]:
        """(topic, data) of the messages of one kind, of the streams in `names` (None: all)."""
        for file in self.files:
            topics = {number: file.channels[number].topic for number in file.channel_ids(prefix)}
            ids = {n for n, topic in topics.items() if names is None or topic.removeprefix(prefix) in names}
            for message in file.messages(ids, as_written=True) if ids else ():
                yield topics[message.channel_id], message.data
            for text in file.damage:
                self.damaged(f"{file.path.name}: {text}")

    def damaged(self, text: str) -> None:
        """Add to `damage`, unless the same text is there."""
        if text not in self.damage:
            self.damage.append(text)


def read_token_facts(file: McapFile) -> dict[int, dict[str, Any]]:
    """{channel id: facts about its stream} of a file's channels of tokens, in order of their ids."""
    channels = ((number, file.channels[number]) for number in sorted(file.channel_ids(form.TOKENS)))
    return {n: form.from_text(c.metadata) | {"stream": c.topic.removeprefix(form.TOKENS)} for n, c in channels}


def open_recording(path: str | Path) -> Recording:
    """Open a recording: a file, or a folder with its parts. ValueError if streamtok did not record it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"recording {str(path)!r}: no such file or folder")
    parts = [part for part in list_files(path).paths if ".mcap" in part.suffixes] if path.is_dir() else [path]
    if not parts:
        raise ValueError(f"{path}: no .mcap file in this folder")
    recording = Recording(parts)
    if not recording.streams and not recording.metadata:
        topics = sorted({channel.topic for file in recording.files for channel in file.channels.values()})
        raise ValueError(f"{path} has no token streams: it has {', '.join(topics) or 'no topics'}")
    return recording
