"""The token files of one stream: one for each size of its pictures, as a token file holds grids of one shape."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from streamtok.ingest.core import IngestCore
from streamtok.ingest.token_grid import list_levels
from streamtok.tokens.tokenfile import TokenFileWriter
from streamtok.types import StreamInfo, TokenGroup


def number_path(path: Path, number: int) -> Path:
    """Where the groups of the size `number` go: PATH.safetensors, then PATH.001.safetensors and so on."""
    return path.with_name(f"{path.stem}.{number:03d}{path.suffix}") if number else path


def find_stream_name(path: Path) -> str:
    """The stream whose tokens a file holds, by its name in its folder; names of streams have no dot."""
    return path.name.partition(".")[0]


class StreamFiles:
    """Writes the groups of one stream: `close` (or leaving the `with`) makes the files appear, an error leaves none.

    Pictures of another size begin an epoch, and go to another file; those of a size that was there before to its file.
    `facts` are added to what each file says of tokenizer and pictures.
    """

    def __init__(self, path: Path, core: IngestCore, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, facts
        self._core = core
        self._writers: dict[tuple[object, ...], TokenFileWriter] = {}
        self._stack = ExitStack()

    @property
    def files(self) -> list[TokenFileWriter]:
        """What was written, in the order in which the sizes came."""
        return list(self._writers.values())

    def write(self, group: TokenGroup) -> None:
        """Append one group, which must have its `info`."""
        info = group.info
        if info is None:
            raise ValueError(
                f"a group of {group.stream!r} without the info of its epoch: expected one of an IngestCore"
            )
        size = info.image_size, info.source_rect
        if size not in self._writers:
            path = number_path(self.path, len(self._writers))
            writer = TokenFileWriter(path, {**token_meta(self._core, info), **self.facts})
            self._writers[size] = self._stack.enter_context(writer)
        self._writers[size].write(group)

    def close(self) -> None:
        """Put the files in place; ValueError if no group was written."""
        if not self._writers:
            lacking = "there was no frame, or none that could be encoded"
            raise ValueError(f"{self.path}: no token group was written: {lacking}")
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *rest: Any) -> None:
        self._stack.__exit__(error_type, *rest) if error_type else self.close()


def token_meta(core: IngestCore, info: StreamInfo) -> dict[str, Any]:
    """What a token file says about the tokenizer and the pictures of one stream."""
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
