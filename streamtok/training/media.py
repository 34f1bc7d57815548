"""Lists the files to train on, and keeps some of them apart."""

from pathlib import Path

from streamtok.io.spec import split_file
from streamtok.io.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_image, is_video
from streamtok.settings.errors import SettingsError

SUFFIXES = {*VIDEO_SUFFIXES, *IMAGE_SUFFIXES}


def list_media(paths: tuple[str, ...]) -> list[str]:
    """Every video and image file in `paths`, searching folders in name order; images:DIR and synthetic: are kept.

    SettingsError for a path that does not exist, or if no such file is found.
    """
    found: list[str] = []
    for path in paths:
        if path.startswith(("synthetic:", "images:")):
            found.append(path)
        elif Path(path).is_dir():
            found += [str(file) for file in sorted(Path(path).rglob("*")) if is_image(file) or is_video(file)]
        elif split_file(path)[0].is_file():
            found.append(path)
        else:
            raise SettingsError(f"data path {path!r} is neither a folder nor a file; give folders of videos or images")
    if not found:
        raise SettingsError(f"no video or image in {list(paths)}; known endings: {', '.join(sorted(SUFFIXES))}")
    return found


def split_holdout(paths: list[str], holdout: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(training paths, held-out paths); SettingsError if a name fits no clip, or if all clips are held out."""
    for name in holdout:
        if not any(Path(path).stem.startswith(name) for path in paths):
            known = ", ".join(sorted(Path(path).stem for path in paths)[:20])
            raise SettingsError(f"data.holdout {name!r} fits no clip; clips: {known}")
    held = [path for path in paths if Path(path).stem.startswith(holdout)] if holdout else []
    if len(held) == len(paths):
        raise SettingsError(f"data.holdout {list(holdout)} keeps every clip from training; leave some out of it")
    return [path for path in paths if path not in held], held
