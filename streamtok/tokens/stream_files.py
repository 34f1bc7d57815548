"""Writes the token files of one stream: one per picture size, since a token file holds grids of one shape."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from streamtok.ingest.core import IngestCore
from streamtok.ingest.token_grid import list_levels
from streamtok.tokens.tokenfile_writer import TokenFileWriter
from streamtok.types import StreamInfo, TokenGroup


def number_path(path: Path, number: int) -> Path:
    """The path of the file for picture size `number`: PATH.safetensors, then PATH.001.safetensors and so on."""
    return path.with_name(f"{path.stem}.{number:03d}{path.suffix}") if number else path


def find_stream_name(path: Path) -> str:
    """The stream of a file, from its file name up to the first dot; names of streams have none."""
    return path.name.partition(".")[0]


class StreamFiles:
    """Writes the groups of one stream; `close` (or leaving the `with`) makes the files appear, an error leaves none.

    Groups go to the file of their picture size. `facts` are added to each file's metadata on tokenizer and pictures.
    """

    def __init__(self, path: Path, core: IngestCore, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, facts
        self._core = core
        self._writers: dict[tuple[object, ...], TokenFileWriter] = {}
        self._stack = ExitStack()

    @property
    def files(self) -> list[TokenFileWriter]:
        """The files that were written, in the order in which their sizes first came."""
        return list(self._writers.values())

    def write(self, group: TokenGroup) -> None:
        """Append one group, which must have its `info`."""
        info = group.info
        if info is None:
            raise ValueError(f"a group of {group.stream!r} has no info of its epoch: expected one of an IngestCore")
        size = info.image_size, info.source_rect
        if size not in self._writers:
            path = number_path(self.path, len(self._writers))
            writer = TokenFileWriter(path, {**token_meta(self._core, info), **self.facts})
            self._writers[size] = self._stack.enter_context(writer)
        self._writers[size].write(group)

    def close(self) -> None:
        """Put the files in place; ValueError if no group was written."""
        if not self._writers:
            raise ValueError(f"{self.path}: no token group was written: there was no frame that could be encoded")
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *rest: Any) -> None:
        self._stack.__exit__(error_type, *rest) if error_type else self.close()


def token_meta(core: IngestCore, info: StreamInfo) -> dict[str, Any]:
    """The metadata of a token file on the tokenizer and the pictures of one stream."""
    config = core.tokenizer.config
    return {
        "tokenizer": info.tokenizer,
        "config": config.to_dict(),
        "context": info.context,
        "engine": core.engine,
        "stream": info.stream,
        "clock": "presentation",
        "source_size": info.source_size,
        "image_size": info.image_size,
        "source_rect": info.source_rect,
        "grid": config.grid(*info.image_size),
        "levels": list_levels(config),
    } | ({"hold": info.hold} if info.hold else {})
