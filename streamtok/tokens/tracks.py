"""The token streams of files and folders, each as a track with random access, whatever kind of file it lies in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from streamtok.names import natural_key
from streamtok.recording.parts import leave_out_copies
from streamtok.tokens.grids import Grids, Identity, Track, find_lost_frames
from streamtok.tokens.recordings import open_recorded_tracks
from streamtok.tokens.tokenfile import TokenFile, is_token_file

RECORDING_SUFFIX = ".mcap"
TOKEN_SUFFIX = ".safetensors"
TokenSource = str | Path | Sequence[str | Path]
"""Where tokens are read from: a file, a folder (searched with what is below it), or several of these."""


class Facts(Identity):
    """What a reader of exported tokens must know: also the tokenizer's name and its FSQ levels."""

    model: str | None
    levels: list[int] | None


class FileTrack(Track):
    """A token file, which is open only while it is read: a dataset has more of them than a process may hold open."""

    def __init__(self, path: Path) -> None:
        file = TokenFile(path)
        file.check_frames()
        self.path, self.meta = path, file.meta
        self.stream = str(self.meta.get("stream", path.stem))
        starts = np.asarray(file.frame_start)
        last = starts[1:] - 1
        # Cameras of one drive may come from machines whose clocks started at other times.
        self.times_ns = file.capture_ns[last] + int(self.meta.get("clock_offset_ns", 0))
        first_id, last_id = file.frame_ids[starts[:-1]], file.frame_ids[last]
        self.breaks = find_lost_frames(first_id, last_id)
        tokenizer, dtype = self.meta.get("tokenizer"), str(file.tokens.dtype)
        self.identity = {"tokenizer": tokenizer, "grid": file.tokens.shape[1:], "dtype": dtype}

    def find_gaps(self) -> np.ndarray:
        return self.breaks  # all are known without reading

    def read(self, indices: np.ndarray) -> Grids:
        file = TokenFile(self.path)
        if len(file) != len(self) or file.meta.get("tokenizer") != self.identity["tokenizer"]:
            raise ValueError(f"{self.path} was written anew since it was opened: open the dataset again")
        starts, ends = file.frame_start[indices], file.frame_start[indices + 1] - 1
        columns = {name: np.array(getattr(file, name)[indices]) for name in ("tokens", "keyframe", "epoch", "dropped")}
        return Grids(
            **columns,
            first_id=np.array(file.frame_ids[starts]),
            last_id=np.array(file.frame_ids[ends]),
            frames=ends - starts + 1,
            capture_ns=np.array(file.capture_ns[ends]),
            time_ns=self.times_ns[indices],
            session=np.zeros(len(indices), np.int64),
        )


def open_tracks(path: Path, streams: Sequence[str] | None = None) -> list[Track]:
    """The token streams of one file; of `streams` only, if they are named."""
    if path.suffix == RECORDING_SUFFIX:
        return open_recorded_tracks(path, streams)
    track = FileTrack(path)
    return [track] if streams is None or track.stream in streams else []


def open_drives(source: TokenSource, streams: Sequence[str] | None = None, together: bool = False) -> list[list[Track]]:
    """The tracks of each drive, of `streams` only if they are named.

    A recording is a drive, and all token files of one folder are one, a stream each. But files of one and the same
    stream are a drive each. Drives that have none of the streams are left out, or refused if all are read `together`.
    """
    drives: list[list[Track]] = []
    for paths in find_drives(source):
        tracks = [track for path in paths for track in open_tracks(path, streams)]
        if together and streams and not tracks:
            raise ValueError(f"{paths[0]} lacks the streams {list(streams)}: every drive needs all")
        alone = len({track.stream for track in tracks}) == 1
        drives += [[track] for track in tracks] if alone else [tracks] if tracks else []
    check_identity([track for tracks in drives for track in tracks], source, streams)
    return drives


def order_by_stream(tracks: list[Track], streams: Sequence[str]) -> list[Track]:
    """The tracks of `streams` in one drive, in their order; ValueError if one is missing or there twice."""
    found: dict[str, Track] = {}
    for track in tracks:
        other = found.setdefault(track.stream, track)
        if other is not track:
            raise ValueError(
                f"{other.path} and {track.path} both hold {track.stream!r}, beside other streams: which of them "
                "belong together is not known; give each drive a folder of its own"
            )
    missing = [name for name in streams if name not in found]
    if missing:
        raise ValueError(f"{tracks[0].path} lacks the streams {missing}; it has {sorted(found)}: every drive needs all")
    return [found[name] for name in streams]


def find_drives(source: TokenSource) -> list[list[Path]]:
    """The files that may belong together: each recording by itself, and the token files of each folder.

    Hidden files and folders are left out: drives that are being tokenized lie there. So are recordings that were
    repaired, where the repaired ones are there too. FileNotFoundError if there are no tokens.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    drives: dict[Path, list[Path]] = {}
    for each in map(Path, sources):
        if not each.exists():
            raise FileNotFoundError(f"{each}: no such file or folder")
        below = sorted(each.rglob("*"), key=lambda path: [natural_key(Path(part)) for part in path.parts])
        for path in below if each.is_dir() else [each]:
            if any(part.startswith(".") for part in path.relative_to(each).parts):
                continue
            if path.suffix == RECORDING_SUFFIX:
                drives.setdefault(path, []).append(path)
                continue
            fits = [path == each, path.suffix == TOKEN_SUFFIX]  # a file that is given so says itself why it is none
            if all(fits) or (any(fits) and is_token_file(path)):
                drives.setdefault(path.parent, []).append(path)
    given = [path for path in drives if path.suffix == RECORDING_SUFFIX]
    for path in set(given) - set(leave_out_copies(given).paths):
        del drives[path]
    if not drives:
        raise FileNotFoundError(f"no token files ({TOKEN_SUFFIX}) or recordings ({RECORDING_SUFFIX}) in {sources}")
    return list(drives.values())


def read_facts(track: Track) -> Facts:
    """What its file says of the tokenizer and the grid."""
    return Facts(model=track.meta.get("model"), levels=track.meta.get("levels"), **track.identity)


def check_identity(tracks: list[Track], source: TokenSource, streams: Sequence[str] | None) -> None:
    """ValueError that names two tracks of different tokenizers, grids or dtypes, or says that there is no track."""
    if not tracks:
        lacking = "holds no tokens" if streams is None else f"has none of the streams {list(streams)}"
        raise ValueError(f"{source} {lacking}: `streamtok info FILE` says what a file holds")
    first = tracks[0]
    for track in tracks[1:]:
        if track.identity != first.identity:
            both = zip(track.identity.items(), first.identity.values(), strict=True)
            pairs = ", ".join(f"{key} {found} against {wanted}" for (key, found), wanted in both if found != wanted)
            raise ValueError(f"{track.path} ({track.stream}) does not fit {first.path} ({first.stream}): {pairs}")
