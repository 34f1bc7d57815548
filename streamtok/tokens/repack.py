"""Rewrites token files and recordings with their tokens coded, or plain again; the tokens stay bit-identical."""

import os
import shutil
from pathlib import Path

from streamtok.coding.coder import FILE, TokenCoder, load_coder
from streamtok.coding.library import SHIPPED, coder_for
from streamtok.names import name_errors
from streamtok.recording.recode import recode_recording
from streamtok.tokens.tokenfile import TokenFile, is_token_file
from streamtok.tokens.tokenfile_writer import TokenFileWriter

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
        recode = _repack_token_file if is_token_file(path) else recode_recording
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
