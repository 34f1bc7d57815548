"""Rewrites token files and recordings with their tokens coded, or plain again; the tokens stay bit-identical."""

import os
import shutil
from pathlib import Path

import msgspec
import numpy as np

from streamtok.coding.coder import FILE, TokenCoder, load_coder
from streamtok.coding.library import SHIPPED, coder_for, coders_beside
from streamtok.names import name_errors
from streamtok.recording.format import INFO, TOKENS, pack_tokens
from streamtok.recording.mcap_file import McapFile
from streamtok.recording.reader import TokenReader
from streamtok.recording.repair import Copying, copy_file
from streamtok.tokens.tokenfile import TokenFile, is_token_file
from streamtok.tokens.tokenfile_writer import TokenFileWriter
from streamtok.wire.coded import GridCoder
from streamtok.wire.header import Info, TokenHeader
from streamtok.wire.message import compute_checksum, encode

ABOUT_CODING = ("coder", "independent")
ADDED = ("format", "version", "groups", "frames", "repeated", "dropped", "crc32")  # which the writer adds again


def repack(path: Path, out: Path, compression: str, coder_path: Path | None = None) -> tuple[int, int]:
    """Write `path`, a token file or an MCAP file, to `out` with `compression` none, coded or independent.

    A coder that does not ship is copied beside `out`, where readers find it. Returns the bytes before and after. Raises
    FileExistsError instead of overwriting, ValueError for damage or if there is no coder.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: give another name with -o, or remove it")
    coder = load_coder(coder_path) if coder_path else None
    source = _find_source(coder_path, out.parent, coder) if coder_path and coder and compression != "none" else None
    part = out.with_name(out.name + ".part")
    try:
        recode = _repack_token_file if is_token_file(path) else _repack_recording
        with name_errors(out):
            recode(path, part, compression, coder)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    if source is not None:
        shutil.copyfile(source, out.parent / FILE)
    return path.stat().st_size, out.stat().st_size


def _find_source(path: Path, folder: Path, coder: TokenCoder) -> Path | None:
    """The coder's file if it has to be copied to `folder`; FileExistsError if another coder is there."""
    beside = folder / FILE
    if beside.exists():
        if load_coder(beside).fingerprint != coder.fingerprint:
            raise FileExistsError(f"{beside} is another token coder, and readers look for one there: choose another -o")
        return None
    return None if path.is_relative_to(SHIPPED) else (path / FILE if path.is_dir() else path)


def _repack_token_file(path: Path, target: Path, compression: str, coder: TokenCoder | None) -> None:
    file = TokenFile(path)
    file.check()
    meta = {name: value for name, value in file.meta.items() if name not in (*ABOUT_CODING, *ADDED)}
    chosen = None if compression == "none" else coder or coder_for(meta["tokenizer"])
    with TokenFileWriter(target, meta, chosen, compression == "independent") as writer:
        for group in file:
            writer.write(group)


def _repack_recording(path: Path, target: Path, compression: str, coder: TokenCoder | None) -> None:
    file = McapFile(path)
    copy_file(file, target, Recoding(path, compression, coder))
    if file.damage:
        raise ValueError(f"{path}: {file.damage[0]}; run `streamtok repair {path}` first")


class Recoding(Copying):
    """Recodes the payload of token messages, by `coder` if it is for their tokenizer. ValueError for damage."""

    library = "streamtok repack"

    def __init__(self, path: Path, compression: str, coder: TokenCoder | None):
        self._compression, self._given = compression, coder
        self._reader = TokenReader(self._refuse, coders_beside(path))
        self._grids: dict[tuple[str, str], GridCoder] = {}

    def message(self, topic: str, data: bytes) -> bytes:
        if topic.startswith(INFO):
            info = msgspec.msgpack.decode(data, type=Info)
            return encode(msgspec.structs.replace(info, **self._facts(info.tokenizer)))
        if not topic.startswith(TOKENS):
            return data
        message = self._reader.read(topic, memoryview(data))
        assert message is not None  # `_refuse` raises for what cannot be read
        header, payload = self._pack(message.header, message.tokens)
        return pack_tokens(encode(header), payload)

    def channel(self, topic: str, metadata: dict[str, str]) -> dict[str, str]:
        if not topic.startswith(TOKENS) or "tokenizer" not in metadata:
            return metadata
        facts = self._facts(metadata["tokenizer"])
        kept = {name: text for name, text in metadata.items() if name != "coder"}
        return kept | {name: text for name, text in facts.items() if text is not None}

    def facts(self, file: McapFile, messages: int) -> dict[str, str]:
        return {}

    def _facts(self, tokenizer: str) -> dict[str, str | None]:
        if self._compression == "none":
            return {"compression": "none", "coder": None}
        return {"compression": "coded", "coder": self._coder(tokenizer).fingerprint}

    def _coder(self, tokenizer: str) -> TokenCoder:
        fits = self._given is not None and self._given.tokenizer == tokenizer
        return self._given if self._given and fits else coder_for(tokenizer)

    def _pack(self, header: TokenHeader, tokens: np.ndarray) -> tuple[TokenHeader, bytes]:
        if self._compression == "none":
            payload = tokens.tobytes()
            plain = {"compression": "none", "coding": msgspec.UNSET, "checksum": compute_checksum(payload)}
            return msgspec.structs.replace(header, **plain), payload
        key = header.stream, header.session
        fresh = GridCoder(self._coder(header.tokenizer), self._compression == "independent")
        grids = self._grids.setdefault(key, fresh)
        payload, coding = grids.encode(tokens, header.keyframe)
        grids.note_sent()
        coded = {"compression": "coded", "coding": coding, "checksum": compute_checksum(payload)}
        return msgspec.structs.replace(header, **coded), payload

    def _refuse(self, text: str) -> None:
        raise ValueError(text)
