"""Finds the token streams of files and folders, and opens each as a track, for token files and recordings alike."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from streamtok.names import natural_key
from streamtok.recording.parts import leave_out_copies
from streamtok.tokens.grids import Grids, Identity, Track, find_lost_frames
from streamtok.tokens.recordings import open_recorded_tracks
from streamtok.tokens.tokenfile import TOKEN_SUFFIX, TokenFile, is_token_file

RECORDING_SUFFIX = ".mcap"
TokenSource = str | Path | Sequence[str | Path]
"""Where tokens are read from: a file, a folder (searched recursively), or several of these."""


class Facts(Identity):
    """What a reader of exported tokens must know: adds the tokenizer's name and its FSQ levels."""

    model: str | None
    levels: list[int] | None


class FileTrack(Track):
    """The track of a token file. It is open only while it is read, as a dataset may exceed the limit on open files."""

    def __init__(self, path: Path) -> None:
        file = TokenFile(path)
        file.check(tokens=False)
        self.path, self.meta = path, file.meta
        self.stream = str(self.meta.get("stream", path.stem))
        starts = np.asarray(file.frame_start)
        last = starts[1:] - 1
        # Cameras of one drive may be on machines whose monotonic clocks have different origins.
        self.times_ns = file.capture_ns[last] + int(self.meta.get("clock_offset_ns", 0))
        first_id, last_id = file.frame_ids[starts[:-1]], file.frame_ids[last]
        self.breaks = find_lost_frames(first_id, last_id)
        tokenizer, dtype = self.meta.get("tokenizer"), str(file.tokens.dtype)
        self.identity = {"tokenizer": tokenizer, "grid": file.tokens.shape[1:], "dtype": dtype}

    def find_gaps(self) -> np.ndarray:
        return self.breaks  # the file's columns show every gap

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
    """Open the token streams of one file, or only those of `streams`."""
    if path.suffix == RECORDING_SUFFIX:
        return open_recorded_tracks(path, streams)
    track = FileTrack(path)
    return [track] if streams is None or track.stream in streams else []


def open_drives(source: TokenSource, streams: Sequence[str] | None = None, together: bool = False) -> list[list[Track]]:
    """Open the tracks of each drive, or only those of `streams`.

    A recording is a drive. The token files of a folder are one drive with a stream each, or a drive each if all are of
    the same stream. Drives that have none of `streams` are left out; if drives are read `together`, they are an error.
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
    """The tracks of `streams` in one drive, in that order; ValueError if one is missing or occurs twice."""
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
    """Group the files that may form a drive: each recording by itself, and the token files of each folder.

    Hidden files and folders are left out, for they hold drives that are still being tokenized. So are damaged
    recordings whose repaired copies are there too. Other damaged files are in: opening them says what is wrong.
    Raises FileNotFoundError if there are no tokens.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    drives: dict[Path, list[Path]] = {}
    for root in map(Path, sources):
        if not root.exists():
            raise FileNotFoundError(f"{root}: no such file or folder")
        files = [path for path in root.rglob("*") if path.suffix in (TOKEN_SUFFIX, RECORDING_SUFFIX)]
        files.sort(key=lambda path: [natural_key(Path(part)) for part in path.parts])
        for path in files if root.is_dir() else [root]:
            if any(part.startswith(".") for part in path.relative_to(root).parts):
                continue
            is_named = path == root and path.suffix == TOKEN_SUFFIX  # opening it says why if it is no token file
            if path.suffix == RECORDING_SUFFIX:
                drives.setdefault(path, []).append(path)
            elif is_named or is_token_file(path):
                drives.setdefault(path.parent, []).append(path)
    given = [path for path in drives if path.suffix == RECORDING_SUFFIX]
    for path in set(given) - set(leave_out_copies(given).paths):
        del drives[path]
    if not drives:
        raise FileNotFoundError(f"no token files ({TOKEN_SUFFIX}) or recordings ({RECORDING_SUFFIX}) in {sources}")
    return list(drives.values())


def read_facts(track: Track) -> Facts:
    """The facts of a track's file about the tokenizer and the grid."""
    return Facts(model=track.meta.get("model"), levels=track.meta.get("levels"), **track.identity)


def check_identity(tracks: list[Track], source: TokenSource, streams: Sequence[str] | None) -> None:
    """Raise ValueError if there is no track, or if two tracks differ in tokenizer, grid or dtype; it names them."""
    if not tracks:
        lacking = "holds no tokens" if streams is None else f"has none of the streams {list(streams)}"
        raise ValueError(f"{source} {lacking}: `streamtok info FILE` says what a file holds")
    first = tracks[0]
    for track in tracks[1:]:
        if track.identity != first.identity:
            both = zip(track.identity.items(), first.identity.values(), strict=True)
            pairs = ", ".join(f"{key} {found} against {wanted}" for (key, found), wanted in both if found != wanted)
            sizes = track.identity["grid"] != first.identity["grid"]
            hint = ": tokenize all with one --size, or open each size by itself" if sizes else ""
            raise ValueError(f"{track.path} ({track.stream}) does not fit {first.path} ({first.stream}): {pairs}{hint}")
