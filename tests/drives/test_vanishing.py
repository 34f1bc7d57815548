"""Files that vanish or become shorter while a drive is read: what was good is kept, and the file is named."""

import os
from pathlib import Path

import numpy as np
import pytest

from streamtok.drives.open_drive import open_drive
from streamtok.fleet.job import FleetOptions, make_job, run_job
from streamtok.node.replay_node import ReplayNode
from streamtok.settings.reading import read_settings
from streamtok.settings.replay import ReplaySettings
from streamtok.tokens.tokenfile import TokenFile
from tests.kit.drives import frames_of
from tests.kit.models import VIDEO, build
from tests.kit.shots import regular, write, write_rosbag
from tests.kit.videos import write_video

COUNT, PART = 60, 20


def lose_sight_of(path):
    """Let not even the size of a file be read any more, as on a disk that fails."""
    path.unlink()
    path.symlink_to("x" * 300)


HARMS = {
    "cannot be seen": lose_sight_of,
    "vanishes": Path.unlink,
    "is cut": lambda path: os.truncate(path, 150),
    "is emptied": lambda path: os.truncate(path, 0),
}


def write_parts(folder, suffix):
    """A drive in three files of 20 images each."""
    writer = write if suffix == ".mcap" else write_rosbag
    shots = regular(COUNT)
    return [writer(folder / f"run_{n}{suffix}", shots[n * PART : (n + 1) * PART]) for n in range(COUNT // PART)]


@pytest.mark.parametrize("suffix", [".mcap", ".bag", ".db3"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("harm", HARMS)
def test_a_part_that_fails_while_the_drive_is_read_costs_itself(tmp_path, suffix, number, harm):
    path, numbers = write_parts(tmp_path, suffix)[number], []
    with open_drive(tmp_path) as drive:
        for frame in drive:
            numbers.append(int(frame.image[0, 0, 0]))
            if len(numbers) == 1:
                HARMS[harm](path)
    assert numbers == [each for each in range(COUNT) if each // PART != number]
    assert path.name in drive.failure
    assert drive.failure in " ".join(drive.notes)
    assert drive.account()["cam"]["lost"] == (PART if number == 1 else 0)


def test_a_video_that_is_cut_while_it_is_read_is_named(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (40, 240, 320, 3)).astype(np.uint8)
    path, count = write_video(tmp_path / "d.mkv", pictures, bf="0", g="10", preset="ultrafast"), 0
    with open_drive(path) as drive:
        for _ in drive:
            count += 1
            if count == 1:
                os.truncate(path, path.stat().st_size // 2)
    assert 0 < count < len(pictures)
    assert drive.failure == "d.mkv became shorter while it was read"


def test_a_file_that_vanishes_after_it_was_opened_is_read_to_its_end(tmp_path):
    pictures = [frame.image for frame in frames_of("front", 20)]
    paths = [write(tmp_path / "d.mcap", regular(COUNT)), write_rosbag(tmp_path / "d.bag", regular(COUNT))]
    for path in (*paths, write_video(tmp_path / "d.mp4", pictures)):
        with open_drive(path) as drive:
            frames = iter(drive)
            next(frames)
            path.unlink()
            assert 1 + sum(1 for _ in frames) == (20 if path.suffix == ".mp4" else COUNT)
        assert (drive.failure, drive.problems) == ("", [])


@pytest.mark.parametrize("suffix", [".mcap", ".bag", ".db3"])
def test_replay_keeps_what_it_read_and_a_fleet_tries_the_drive_again(tmp_path, suffix):
    (tmp_path / "in").mkdir()
    tokenizer, paths = build(VIDEO), write_parts(tmp_path / "in", suffix)
    given = {"path": str(tmp_path / "in"), "out": str(tmp_path / "tokens"), "size": "32x32"}
    settings = read_settings(ReplaySettings, None, given)
    node = ReplayNode(settings, tokenizer, lambda node: paths[1].unlink(missing_ok=True))
    summary = node.run()
    assert summary["failure"] == "run_1" + suffix + " can no longer be read: No such file or directory"
    assert sum(counts["frames"] for counts in summary["streams"].values()) == COUNT - PART
    assert TokenFile(tmp_path / "tokens" / "cam.safetensors").meta["frames"] == COUNT - PART

    def report(frames, share):
        paths[2].unlink(missing_ok=True)
        return True

    job, options = make_job(str(tmp_path / "in")), FleetOptions(model=tokenizer.fingerprint, size=(32, 32))
    with pytest.raises(OSError, match=f"run_2{suffix} can no longer be read"):
        run_job(job, str(tmp_path / "out"), options, tokenizer, report)
    assert not (tmp_path / "out" / job.name).exists()
