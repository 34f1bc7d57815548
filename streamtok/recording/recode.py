"""Copy a recording with its tokens entropy-coded, or plain again; everything else in it stays as it is."""

from pathlib import Path

import msgspec
import numpy as np

from streamtok.coding.coder import TokenCoder
from streamtok.coding.library import coder_for, coders_beside
from streamtok.recording.format import INFO, TOKENS, pack_tokens
from streamtok.recording.mcap_file import McapFile
from streamtok.recording.reader import TokenReader
from streamtok.recording.repair import Copying, copy_file
from streamtok.wire.coded import GridCoder
from streamtok.wire.header import Info, TokenHeader
from streamtok.wire.message import compute_checksum, encode


class Recoding(Copying):
    """Recodes the payload of token messages, by `coder` if it is for their tokenizer. ValueError for damage."""

    def __init__(self, path: Path, compression: str, coder: TokenCoder | None):
        super().__init__("streamtok repack")
        self.compression, self._given, self.nbytes = compression, coder, 0
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
        self.nbytes += len(payload)
        return pack_tokens(encode(header), payload)

    def channel(self, topic: str, metadata: dict[str, str]) -> dict[str, str]:
        if not topic.startswith(TOKENS) or "tokenizer" not in metadata:
            return metadata
        facts = self._facts(metadata["tokenizer"])
        kept = {name: text for name, text in metadata.items() if name != "coder"}
        return kept | {name: text for name, text in facts.items() if text is not None}

    def facts(self, file: McapFile, messages: int) -> tuple[str, dict[str, str]]:
        return "", {}

    def _facts(self, tokenizer: str) -> dict[str, str | None]:
        if self.compression == "none":
            return {"compression": "none", "coder": None}
        return {"compression": "coded", "coder": self._coder(tokenizer).fingerprint}

    def _coder(self, tokenizer: str) -> TokenCoder:
        fits = self._given is not None and self._given.tokenizer == tokenizer
        return self._given if self._given and fits else coder_for(tokenizer)

    def _pack(self, header: TokenHeader, tokens: np.ndarray) -> tuple[TokenHeader, bytes]:
        if self.compression == "none":
            payload = tokens.tobytes()
            plain = {"compression": "none", "coding": msgspec.UNSET, "checksum": compute_checksum(payload)}
            return msgspec.structs.replace(header, **plain), payload
        key = header.stream, header.session
        fresh = GridCoder(self._coder(header.tokenizer), self.compression == "independent")
        grids = self._grids.setdefault(key, fresh)
        payload, coding = grids.encode(tokens, header.keyframe)
        grids.note_sent()
        coded = {"compression": "coded", "coding": coding, "checksum": compute_checksum(payload)}
        return msgspec.structs.replace(header, **coded), payload

    def _refuse(self, text: str) -> None:
        raise ValueError(text)


def recode_recording(path: Path, target: Path, compression: str, coder: TokenCoder | None) -> None:
    """Copy one MCAP file with another `compression` of tokens. ValueError for a message that cannot be read."""
    file = McapFile(path)
    copy_file(file, target, Recoding(path, compression, coder))
    if file.damage:
        raise ValueError(f"{path}: {file.damage[0]}; run `streamtok repair {path}` first")
