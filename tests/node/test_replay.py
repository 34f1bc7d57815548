"""Live, recorded and replayed: the same tokens to the bit."""

import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest

from streamtok.commands import info as info_command
from streamtok.drives.open_drive import open_drive
from streamtok.drives.survey import DriveTime
from streamtok.engine.loading import load
from streamtok.engine.optimized import describe_engine
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.node.replay import DriveReplay
from streamtok.node.replay_node import ReplayNode
from streamtok.node.verification import find_difference
from streamtok.recording.reader import open_recording
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.recording.repair import repair
from streamtok.settings.reading import read_settings
from streamtok.settings.replay import ReplaySettings
from streamtok.tokens.inspecting import inspect
from streamtok.tokens.tokenfile import TokenFile
from tests.kit.disk import full_disk
from tests.kit.drives import START_NS, frames_of, rig, write_bag1, write_bag2, write_folders, write_mcap
from tests.kit.models import ATTENTION, CONTINUOUS, IMAGE, VIDEO, build
from tests.kit.nodes import TWO_CAMERAS, ingest
from tests.kit.shots import STEP_NS, Shot, regular, write
from tests.kit.threads import beside


@pytest.fixture(scope="module")
def tokenizer():
    return build(VIDEO)


def replay(path, tokenizer, **settings):
    """Run a replay node; returns its summary."""
    return ReplayNode(read_settings(ReplaySettings, None, {"path": str(path), **settings}), tokenizer).run()


def assert_identical(path, tokenizer, at_least=1, **settings):
    result = replay(path, tokenizer, verify=True, **settings)
    assert result["different"] == 0, result["first_difference"]
    assert result["compared"] >= at_least
    return result


@pytest.mark.parametrize("config", [VIDEO, ATTENTION, CONTINUOUS, IMAGE], ids=lambda config: config.name)
def test_a_replayed_recording_has_the_tokens_of_the_live_run(tmp_path, config):
    tokenizer = build(config)
    summary = ingest(tmp_path / "d.mcap", tokenizer)
    groups = sum(stream["groups"] for stream in summary["streams"].values())
    result = assert_identical(tmp_path / "d.mcap", tokenizer)
    assert result["compared"] == groups
    assert not result["skipped"]


def test_the_speed_is_that_of_the_drive_though_its_cameras_take_turns(tmp_path, tokenizer):
    others = [Shot(n, START_NS + (100 + n) * STEP_NS, START_NS + (100 + n) * STEP_NS) for n in range(80)]
    result = replay(write(tmp_path / "d.mcap", regular(80), others=others), tokenizer)
    assert result["times_real_time"] * result["seconds"] == pytest.approx(17.9, rel=0.1)


def live_with_drops(path, tokenizer, drops, on_gap="reset", policy="latest"):
    """Feed a core two cameras of which some frames never arrive, and record as the ingest node does."""
    from streamtok.wire.message import Info
    from streamtok.wire.streams import StreamTable

    options = StreamOptions(policy, on_gap, keyframe_interval=0.5)
    core = IngestCore(tokenizer, {"front": options, "rear": options})
    recorder = Recorder(path, RecorderOptions("lossless", wait=True, min_free_bytes=0))
    table = StreamTable({"node": "test", "session": "ab" * 16, "control": None})
    announced = set()

    def write(groups):
        for group in groups:
            if group.stream not in announced:
                announced.add(group.stream)
                facts = {"tokenizer": tokenizer.fingerprint, "model": "tiny", "dtype": "uint16"}
                facts |= {"levels": list(tokenizer.config.levels), "context": tokenizer.config.context}
                facts |= {"source_size": [32, 48], "source_rect": [0, 0, 32, 48]}
                shape = {"grid": list(group.tokens.shape), "image_size": list(group.image_size)}
                recorder.add_stream(table.add(Info(stream=group.stream, temporal_compression=4, **shape, **facts)))
            state = table.get(group.stream)
            made, parts = state.pack_group(group, group.capture_ns[-1])
            state.note_sent(made, parts)
            recorder.write_group(made, group.tokens)

    for number, frame in enumerate(rig(60)):
        if number in drops:
            continue
        recorder.write_frame(frame)
        if number == 31:
            core.request_keyframe("rear")
        write(core.feed(frame))
    for name in ("front", "rear"):
        write(core.flush(name))
    recorder.close()
    return core


@pytest.mark.parametrize("on_gap", ["reset", "bridge"])
@pytest.mark.parametrize("policy", ["latest", "lossless"])
def test_drops_of_two_cameras_are_replayed_from_the_headers(tmp_path, tokenizer, on_gap, policy):
    core = live_with_drops(tmp_path / "d.mcap", tokenizer, {9, 10, 33, 34, 35, 36, 70, 90}, on_gap, policy)
    result = assert_identical(tmp_path / "d.mcap", tokenizer, at_least=25)
    for name, counts in result["streams"].items():
        assert counts["groups"] == core.lane(name).counts["groups"]
        assert counts["keyframes"] == core.lane(name).counts["keyframes"]
    assert not result["skipped"]


def test_a_recording_that_was_cut_off_verifies_as_far_as_it_goes(tmp_path, tokenizer):
    live_with_drops(tmp_path / "d.mcap", tokenizer, {20})
    whole = (tmp_path / "d.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(whole[: int(len(whole) * 0.7)])
    before = assert_identical(tmp_path / "cut.mcap", tokenizer)
    repaired = repair(tmp_path / "cut.mcap")
    after = assert_identical(repaired.path, tokenizer)
    assert before["compared"] == after["compared"]
    assert before["notes"]
    assert not after["notes"]


def test_the_first_difference_is_named(tmp_path, tokenizer):
    ingest(tmp_path / "d.mcap", tokenizer, TWO_CAMERAS[:1])
    other = tmp_path / "other.mcap"
    with Recorder(other, RecorderOptions("lossless", wait=True, min_free_bytes=0)) as recorder:
        recording = open_recording(tmp_path / "d.mcap")
        with open_drive(tmp_path / "d.mcap") as drive:
            frames = list(drive)
        recorder.add_stream(recording.infos()["front"][0])
        for frame in frames:
            recorder.write_frame(frame)
        for message in recording.messages():
            tokens = message.tokens.copy()
            if message.header.seq == 3:
                tokens[2, 5] = (tokens[2, 5] + 1) % 64000
            recorder.write_group(message.header, tokens)
    result = replay(other, tokenizer, verify=True)
    assert result["different"] == 1
    assert "front seq 3" in result["first_difference"]
    assert "first at [2, 5]: recorded" in result["first_difference"]


def test_groups_without_their_frames_are_left_out_up_to_the_next_keyframe(tmp_path, tokenizer):
    ingest(tmp_path / "d.mcap", tokenizer, TWO_CAMERAS[:1], defaults={"keyframe_interval": 0.4})
    with Recorder(tmp_path / "e.mcap", RecorderOptions("lossless", wait=True, min_free_bytes=0)) as recorder:
        recording = open_recording(tmp_path / "d.mcap")
        recorder.add_stream(recording.infos()["front"][0])
        with open_drive(tmp_path / "d.mcap") as drive:
            for frame in drive:
                if frame.frame_id != 6:
                    recorder.write_frame(frame)
        for message in recording.messages():
            recorder.write_message(message)
    result = assert_identical(tmp_path / "e.mcap", tokenizer, at_least=5)
    assert sum(result["skipped"].values()) == 2  # frames 5 to 8, and 9 to 12 that follow from them


def test_lossy_frames_another_tokenizer_and_no_tokens_are_refused(tmp_path, tokenizer):
    ingest(tmp_path / "lossy.mcap", tokenizer, TWO_CAMERAS[:1], record_frames="lossy")
    with pytest.raises(ValueError, match="holds lossy frames"):
        replay(tmp_path / "lossy.mcap", tokenizer, verify=True)
    ingest(tmp_path / "d.mcap", tokenizer, TWO_CAMERAS[:1])
    with pytest.raises(ValueError, match="was recorded with tokenizer"):
        replay(tmp_path / "d.mcap", build(VIDEO, seed=1), verify=True)
    with pytest.raises(ValueError, match="no recorded tokens"):
        replay(write_mcap(tmp_path / "plain.mcap", rig(3)), tokenizer, verify=True)
    ingest(tmp_path / "none.mcap", tokenizer, TWO_CAMERAS[:1], record_frames="none")
    with pytest.raises(ValueError, match="record the frames too"):
        replay(tmp_path / "none.mcap", tokenizer, verify=True)


def tokens_of(path, tokenizer):
    """{stream: [tokens]} of a drive without recorded tokens, cut by the core's rules."""
    with open_drive(path) as drive:
        core = IngestCore(tokenizer, dict.fromkeys(drive.streams, StreamOptions("lossless")))
        found = {name: [] for name in drive.streams}
        for replayed in DriveReplay(drive, core):
            found[replayed.group.stream].append(replayed.group.tokens)
    return found


def test_bag_db3_and_mcap_copies_give_the_tokens_of_the_image_folder(tmp_path, tokenizer):
    frames = rig(14)
    expected = tokens_of(write_folders(tmp_path / "images", frames), tokenizer)
    assert {len(grids) for grids in expected.values()} == {5}
    copies = [
        write_bag1(tmp_path / "d.bag", frames),
        write_bag1(tmp_path / "png.bag", frames, compressed=True),
        write_bag2(tmp_path / "db3", frames),
        write_bag2(tmp_path / "ros2", frames, "MCAP"),
        write_mcap(tmp_path / "raw.mcap", frames),
        write_mcap(tmp_path / "png.mcap", frames, "CompressedImage"),
    ]
    for path in copies:
        found = tokens_of(path, tokenizer)
        for name, grids in expected.items():
            np.testing.assert_array_equal(found[name], grids, err_msg=f"{path} {name}")


def test_a_replay_writes_token_files_and_a_recording_of_its_own(tmp_path, tokenizer):
    path = write_bag1(tmp_path / "d.bag", rig(14))
    result = replay(path, tokenizer, out=str(tmp_path / "tokens"), record=str(tmp_path / "again.mcap"))
    assert result["mode"] == "drive"
    expected = tokens_of(path, tokenizer)
    for name in ("front", "rear"):
        file = TokenFile(tmp_path / "tokens" / f"{name}.safetensors")
        np.testing.assert_array_equal([group.tokens for group in file], expected[name])
    recorded = assert_identical(tmp_path / "again.mcap", tokenizer)
    assert recorded["compared"] == 10


def test_what_its_owner_says_of_a_stream_travels_with_it(tmp_path, tokenizer, capsys):
    facts = {
        "camera_matrix": [[900.5, 0, 320], [0, 900.5, 240], [0, 0, 1]],
        "serial": "0042",
        "rolling": True,
        "mounted": {"at": [1.7, 0.0, 1.5], "by": "Jürgen"},
    }
    front, rear = TWO_CAMERAS
    live, again = tmp_path / "d.mcap", tmp_path / "again.mcap"
    ingest(live, tokenizer, [front | {"metadata": facts}, rear])
    replay(live, tokenizer, out=str(tmp_path / "tokens"), record=str(again))
    for file in (live, again, tmp_path / "tokens" / "front.safetensors"):
        assert info_command.main([str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["streams"]["front"]["metadata"] == facts
        assert info_command.main([str(file)]) == 0
        assert '"camera_matrix": [[900.5' in capsys.readouterr().out
    assert {name: info.metadata for name, info in open_recording(again).first_infos().items()}["rear"] == {}


def test_token_files_of_a_recording_know_its_utc(tmp_path, tokenizer):
    from streamtok.data import TokenDataset

    ingest(tmp_path / "d.mcap", tokenizer)
    replay(tmp_path / "d.mcap", tokenizer, out=str(tmp_path / "tokens"))
    for name in ("front", "rear"):
        recorded, written = (TokenDataset(tmp_path / of, 8, streams=[name])[0] for of in ("d.mcap", "tokens"))
        assert recorded["time_ns"].tolist() == written["time_ns"].tolist()
        assert recorded["capture_ns"].tolist() == written["capture_ns"].tolist()
        assert abs(int(written["time_ns"][0]) - time.time_ns()) < 600e9


@pytest.mark.parametrize("mode", [{"recorded_tokens": True}, {}], ids=["tokens", "encoded again"])
def test_a_replay_publishes_as_a_live_node_does(tmp_path, tokenizer, mode):
    import streamtok

    ingest(tmp_path / "d.mcap", tokenizer)
    endpoint = f"ipc://{tmp_path}/r"
    values = {"path": str(tmp_path / "d.mcap"), "bind": endpoint, "wait_subscribers": 1} | mode
    node = ReplayNode(read_settings(ReplaySettings, None, values), tokenizer)
    with beside(node.run), streamtok.subscribe(endpoint, timeout=60, until_end=True) as subscription:
        found = list(subscription)
        infos = dict(subscription.infos)
    recorded = list(open_recording(tmp_path / "d.mcap").messages())
    assert len(found) == len(recorded)
    for name in ("front", "rear"):
        ours = [message for message in found if message.stream == name]
        theirs = [message for message in recorded if message.stream == name]
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)
            assert one.header.capture_ns == other.header.capture_ns
            assert one.header.frame_ids == other.header.frame_ids
            if mode:
                assert one.header == other.header
        assert infos[name].replay
        capture_ns, utc_ns = infos[name].clock
        assert abs(ours[-1].capture_ns - capture_ns + utc_ns - time.time_ns()) < 600e9  # it was made just now


@pytest.mark.parametrize(("clock", "hours"), [("auto", -2), ("header", -2), ("header", 2)])
def test_the_speed_and_the_pace_are_those_of_a_drive_whose_cameras_have_clocks_hours_apart(
    tmp_path, tokenizer, clock, hours
):
    apart = regular(12, START_NS + hours * 3600 * 10**9)
    path = write(tmp_path / "d.mcap", regular(12), others=apart)
    result = replay(path, tokenizer, size="32x32", speed="2000", clock=clock, out=str(tmp_path / "out"))
    assert {name: counts["frames"] for name, counts in result["streams"].items()} == {"cam": 12, "other": 12}
    assert 0 < result["times_real_time"] * result["seconds"] < 2


def test_a_camera_that_begins_after_a_pause_of_the_others_is_waited_for(tmp_path, tokenizer):
    later = [
        replace(shot, stamp_ns=shot.stamp_ns + 100 * 10**9, log_ns=shot.log_ns + 100 * 10**9) for shot in regular(12)
    ]
    result = replay(
        write(tmp_path / "d.mcap", regular(12), others=later),
        tokenizer,
        size="32x32",
        speed="1000",
        out=str(tmp_path / "out"),
    )
    assert 90 < result["times_real_time"] * result["seconds"] < 110  # of 101 s, both rounded


def test_pace_follows_capture_time_and_starts_anew_when_it_goes_back(monkeypatch):
    from streamtok.node import replay_outputs

    now, slept = [0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += round(seconds * 1e9)

    monkeypatch.setattr(replay_outputs.time, "monotonic_ns", lambda: now[0])
    monkeypatch.setattr(replay_outputs.time, "sleep", sleep)
    pace, drive_time = replay_outputs.Pace(2.0), DriveTime()
    for capture_ns in (5_000_000_000, 6_000_000_000, 1_000_000_000, 1_500_000_000):
        pace.wait(drive_time.see("a", [capture_ns]), lambda: None, lambda: False)
    assert sum(slept) == pytest.approx(0.5 + 0.25, abs=1e-6)


def test_differences_in_shape_and_kind_are_told(tokenizer, tmp_path):
    ingest(tmp_path / "d.mcap", tokenizer, TWO_CAMERAS[:1])
    node = ReplayNode(
        read_settings(ReplaySettings, None, {"path": str(tmp_path / "d.mcap"), "max_groups": 1}), tokenizer
    )
    (message,) = list(open_recording(tmp_path / "d.mcap").messages())[:1]
    assert node.run()["streams"]["front"]["groups"] == 1
    group = next(iter(node._open())).group
    assert find_difference(message, group) == ""
    smaller = replace(group, tokens=group.tokens[:2])
    assert "recorded [6, 8] uint16" in find_difference(message, smaller)


def test_the_recorded_engine_is_used_again(tmp_path):
    """A recording made on an optimized engine replays on that engine, found in the file and nowhere else."""
    from streamtok.engine.tuning import optimize

    plain = build(VIDEO)
    plain.deterministic = False
    fast = optimize(plain, "eager", size=(48, 64), precision="bfloat16", device="cpu")
    ingest(tmp_path / "d.mcap", fast, TWO_CAMERAS[:1])
    import streamtok

    streamtok.save(plain, tmp_path / "model")
    node = ReplayNode(
        read_settings(
            ReplaySettings, None, {"path": str(tmp_path / "d.mcap"), "verify": True, "model": str(tmp_path / "model")}
        )
    )
    result = node.run()
    assert describe_engine(node.tokenizer) == describe_engine(fast)
    assert (result["compared"], result["different"], result["notes"]) == (12, 0, [])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"verify": True, "recorded_tokens": True, "bind": "tcp://127.0.0.1:*"}, "choose one"),
        ({"realtime": True, "speed": 2.0}, "give one of them"),
        ({"recorded_tokens": True}, "--bind ENDPOINT"),
        ({"sped": 2}, "did you mean 'speed'"),
        ({"speed": -1}, "speed"),
    ],
)
def test_wrong_settings_say_what_is_allowed(values, text):
    with pytest.raises(ValueError, match=text):
        read_settings(ReplaySettings, None, {"path": "d.mcap", **values})


def test_the_command_verifies_and_its_exit_status_tells(tmp_path, tokenizer, model, capsys):
    from streamtok.commands.replay import main

    ingest(tmp_path / "d.mcap", tokenizer, TWO_CAMERAS[:1])
    arguments = [str(tmp_path / "d.mcap"), "--verify", "--model", model, "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["different"] == 0
    assert printed["compared"] == 12
    assert main([str(tmp_path / "gone.mcap")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main([str(tmp_path / "d.mcap"), "--speed", "0"]) == 2


def test_a_new_recording_that_a_full_disk_ends_is_told_and_the_exit_status_tells(tmp_path, tokenizer, model, capsys):
    from streamtok.commands.replay import main

    ingest(tmp_path / "d.mcap", tokenizer, TWO_CAMERAS[:1])
    with full_disk(2_000):
        status = main([str(tmp_path / "d.mcap"), "--record", str(tmp_path / "again.mcap"), "--model", model])
    assert status == 1
    assert re.search(r"streamtok replay: .*recording stopped: .*again\.mcap.* too large", capsys.readouterr().err)


@pytest.mark.parametrize("output", ["record", "out"])
def test_tokens_without_frames_cannot_be_encoded_into_files_while_they_are_published(output, tmp_path, tokenizer):
    """Nothing would be written there."""
    ingest(tmp_path / "d.mcap", tokenizer, TWO_CAMERAS[:1], record_frames="none")
    with pytest.raises(ValueError, match="none has both"):
        replay(tmp_path / "d.mcap", tokenizer, bind="tcp://127.0.0.1:*", **{output: str(tmp_path / "new")})
    assert not (tmp_path / "new").exists()


def test_a_frame_of_another_size_starts_anew_in_replay_too(tmp_path, tokenizer):
    """A camera that changes its size in the middle: a new epoch, a new grid, and the same tokens again."""
    from tests.kit.drives import picture

    frames = frames_of("front", 12)
    frames = [
        replace(frame, picture=picture(frame.frame_id, size=(48, 48))) if frame.frame_id >= 6 else frame
        for frame in frames
    ]
    path = write_mcap(tmp_path / "d.mcap", frames)
    replay(path, tokenizer, record=str(tmp_path / "r.mcap"), out=str(tmp_path / "drive"))
    result = assert_identical(tmp_path / "r.mcap", tokenizer, out=str(tmp_path / "recorded"))
    assert result["compared"] == 6
    for folder in ("drive", "recorded"):
        files = [TokenFile(tmp_path / folder / name) for name in ("front.safetensors", "front.001.safetensors")]
        assert [file.frame_ids.tolist() for file in files] == [[*range(6)], [*range(6, 12)]]
        assert [file.meta["stream"] for file in files] == ["front", "front"]


def test_deterministic_is_kept_whatever_engine_was_recorded():
    from streamtok.node.replay_node import load_as_recorded

    recorded = describe_engine(load("nano", engine="default", device="cpu")).to_dict()
    assert describe_engine(load_as_recorded("nano", recorded)).kernels == "interleaved"
    assert load_as_recorded("nano", recorded, deterministic=True).deterministic
    exact = describe_engine(load("nano", deterministic=True)).to_dict()
    assert load_as_recorded("nano", exact).deterministic
    assert not load_as_recorded("nano", exact, deterministic=False).deterministic


def test_an_engine_for_other_weights_or_another_device_gives_way_to_the_default():
    from streamtok.node.replay_node import compare_engines, load_as_recorded

    recorded = describe_engine(load("nano")).to_dict()
    assert describe_engine(load_as_recorded("nano", recorded)).kernels == "plain"
    assert describe_engine(load_as_recorded("nano-p", recorded)).kernels == "interleaved"
    elsewhere = load_as_recorded("nano", recorded | {"device": "cuda"}, device="cpu")
    assert describe_engine(elsewhere).kernels == "interleaved"
    different = compare_engines(recorded | {"torch_version": "1.0"}, describe_engine(elsewhere).to_dict())
    names = {text.split(":")[0] for text in different} - {"convolutions"}  # these follow from the processor
    assert names == {"slots_per_step", "kernels", "torch_version"}


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_recording_of_a_plain_tokenizer_under_another_torch(tmp_path, monkeypatch, deterministic):
    import streamtok

    plain = build(VIDEO)
    plain.deterministic = deterministic
    streamtok.save(plain, tmp_path / "model")
    then = replace(describe_engine(plain), torch_version="1.0")
    monkeypatch.setattr("streamtok.ingest.core.describe_engine", lambda tok: then)
    front, rear = TWO_CAMERAS[0], TWO_CAMERAS[0] | {"name": "rear"}
    ingest(tmp_path / "d.mcap", plain, [front, rear], batch_wait_ms=50)
    values = {"path": str(tmp_path / "d.mcap"), "verify": True, "model": str(tmp_path / "model")}
    node = ReplayNode(read_settings(ReplaySettings, None, values))
    result = node.run()
    assert (describe_engine(node.tokenizer).kernels, node.tokenizer.deterministic) == ("plain", deterministic)
    assert (result["compared"], result["different"]) == (24, 0)
    assert {note.split("recorded")[0] for note in result["notes"]} == {
        "front: engine torch_version: ",
        "rear: engine torch_version: ",
    }


def test_held_levels_a_bitrate_and_keyframes_by_drift_are_replayed_from_the_headers(tmp_path, tokenizer):
    streams = [
        {"name": "held", "source": "synthetic:32x48@30?seed=1&frames=40", "hold": 0.25},
        {"name": "cheap", "source": "synthetic:32x48@30?seed=2&frames=90", "bitrate": "8k", "hold": 0.5},
        {"name": "drifts", "source": "synthetic:32x48@30?seed=3&frames=90", "keyframe_drift": 0.01},
    ]
    ingest(tmp_path / "d.mcap", tokenizer, streams, defaults={"keyframe_interval": 0})
    assert_identical(tmp_path / "d.mcap", tokenizer)
    messages = list(open_recording(tmp_path / "d.mcap").messages())
    of = {name: [m.header for m in messages if m.stream == name] for name in ("held", "cheap", "drifts")}
    assert {header.hold for header in of["held"] if not header.keyframe} == {0.25}
    holds = [header.hold for header in of["cheap"][2:]]
    assert max(holds) == 0.5
    assert sum(header.dropped for header in of["cheap"]) > 20
    keyframes_ns = [header.capture_ns[0] for header in of["drifts"] if header.keyframe]
    assert len(keyframes_ns) > 1
    assert min(np.diff(keyframes_ns)) >= 10**9
    assert not any(isinstance(header.hold, float) for header in of["drifts"])
    infos = open_recording(tmp_path / "d.mcap").first_infos()
    assert (infos["held"].hold, infos["held"].bitrate) == (0.25, None)
    assert (infos["cheap"].hold, infos["cheap"].bitrate) == (0.5, 8000)
    shown = inspect(tmp_path / "d.mcap").report["streams"]
    assert (shown["cheap"]["bitrate"], shown["drifts"]["hold_margin"]) == (8000, 0)
    assert shown["held"]["hold_margin"] == pytest.approx(0.25 * 10 / 11, abs=1e-3)  # the keyframe is not held
