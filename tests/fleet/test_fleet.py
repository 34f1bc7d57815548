"""Many drives: resumable, byte-identical after SIGKILL, broken drives listed, on this machine and behind URLs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtok
from streamtok.commands import info, replay
from streamtok.commands import tokenize as tokenize_drives
from streamtok.config import TokenizerConfig
from streamtok.engine.loading import load
from streamtok.engine.optimized import describe_engine
from streamtok.fleet import fleet as fleet_module
from streamtok.fleet.fleet import Fleet, RunOptions
from streamtok.fleet.job import Job, Outcome, find_record, hash_path, make_job, run_job
from streamtok.fleet.local_runner import LocalRunner
from streamtok.fleet.model import FleetOptions, load_for_fleet, settle_engine
from streamtok.fleet.plan import plan
from streamtok.fleet.store import open_store
from streamtok.io.picture_writer import open_pictures
from streamtok.model import build
from streamtok.tokens.tokenfile import TokenFile
from tests.kit.disk import full_disk
from tests.kit.drives import frames_of, write_mcap
from tests.kit.nodes import ingest

SMALL = {"stem_channels": 8, "encoder_channels": (8, 16), "decoder_channels": (8, 16)}
BLOCKS = {"encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "m"
    torch.manual_seed(0)
    streamtok.save(build(TokenizerConfig("fleet-test", **SMALL, **BLOCKS)), folder)
    return str(folder)


def make_drives(folder: Path, lengths: list[int]) -> list[str]:
    folder.mkdir(exist_ok=True)
    for seed, length in enumerate(lengths):
        pictures = open_pictures(folder / f"drive{seed}.mp4", (32, 48), 30.0)
        picture = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        for index in range(length):
            pictures.write(np.roll(picture, index, 1), round(index / 30 * 1e9))
        pictures.close()
    return sorted(map(str, folder.glob("*.mp4")))


class Here:
    """An engine that runs jobs in this process, so that tests need not start others."""

    def __init__(self, out: str, options: FleetOptions, workers: int):
        self.out, self.options, self.tok = out, options, load_for_fleet(options)
        self.jobs, self.ran = [], []

    def submit(self, job):
        self.jobs.append(job)

    def collect(self, timeout):
        jobs, self.jobs = self.jobs, []
        return [self.outcome(job) for job in jobs]

    def outcome(self, job):
        self.ran.append(job.drive)
        try:
            return Outcome(job, run_job(job, self.out, self.options, self.tok))
        except (ValueError, OSError) as error:
            return Outcome(job, None, str(error))

    def running(self):
        return {}

    def close(self):
        pass


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_drive_is_a_folder_with_tokens_and_a_record(tmp_path, model):
    drives = make_drives(tmp_path / "in", [9, 5])
    result = Fleet(drives, str(tmp_path / "out"), FleetOptions(model=model), make_runner=Here).run()
    assert (result["done"], result["skipped"], result["broken"], result["frames"]) == (2, 0, {}, 14)
    job = make_job(drives[0])
    record = json.loads((tmp_path / "out" / job.name / "drive.json").read_text())
    file = TokenFile(tmp_path / "out" / job.name / record["files"][0]["path"])
    assert (len(file), file.meta["frames"], record["files"][0]["frames"]) == (3, 9, 9)
    assert file.meta["tokenizer"] == record["tokenizer"] == streamtok.load(model).fingerprint
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["drive"] for line in lines] == drives


def test_tokens_are_those_of_encoding_the_file(tmp_path, model):
    from streamtok.tokens.files import EncodeOptions, encode_file

    (drive,) = make_drives(tmp_path / "in", [14])
    Fleet([drive], str(tmp_path / "out"), FleetOptions(model=model), make_runner=Here).run()
    encode_file(drive, tmp_path / "t.safetensors", model, EncodeOptions(device="cpu"))
    (path,) = (tmp_path / "out").glob("*/cam0.safetensors")
    assert (TokenFile(path).tokens == TokenFile(tmp_path / "t.safetensors").tokens).all()


def test_a_run_counts_what_it_did_itself(tmp_path, model):
    (drive,) = make_drives(tmp_path / "in", [5])
    fleet = Fleet([drive], str(tmp_path / "out"), FleetOptions(model=model), make_runner=Here)
    results = [fleet.run() for _ in range(3)]
    counts = [(one["done"], one["skipped"], one["frames"]) for one in results]
    assert counts == [(1, 0, 5), (0, 1, 0), (0, 1, 0)]


def test_what_is_done_is_skipped_and_what_changed_is_done_again(tmp_path, model):
    drives = make_drives(tmp_path / "in", [5, 6, 7])
    out = tmp_path / "out"
    options = FleetOptions(model=model)

    def run(**changes):
        return Fleet(drives, str(out), options, RunOptions(**changes), Here).run()

    run()
    before = tree(out)
    assert run()["skipped"] == 3
    (out / make_job(drives[1]).name / "cam0.safetensors").unlink()
    result = run()
    assert (result["done"], result["skipped"]) == (1, 2)
    damaged = out / make_job(drives[2]).name / "cam0.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    assert run()["skipped"] == 3  # sizes are the same
    assert run(check=True)["done"] == 1
    assert tree(out) == before
    options = FleetOptions(model=model, keyframe_interval=0)
    assert run()["done"] == 3


def test_broken_drives_are_listed_and_tried_again(tmp_path, model, capsys):
    drives = make_drives(tmp_path / "in", [5])
    broken = tmp_path / "in" / "broken.mp4"
    broken.write_bytes(b"no video at all" * 50)
    out = tmp_path / "out"
    engines = []

    def make_runner(*args):
        engines.append(Here(*args))
        return engines[-1]

    def run():
        given = [*drives, str(broken), str(tmp_path / "absent.mp4")]
        return Fleet(given, str(out), FleetOptions(model=model), RunOptions(retries=2), make_runner).run()

    result = run()
    assert result["done"] == 1
    assert set(result["broken"]) == {str(broken), str(tmp_path / "absent.mp4")}
    assert engines[0].ran.count(str(broken)) == 3
    entries = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {entry["drive"]: entry["status"] for entry in entries}[str(broken)] == "broken"
    make_drives(tmp_path / "other", [6])
    broken.write_bytes((tmp_path / "other" / "drive0.mp4").read_bytes())
    again = run()
    assert (again["done"], again["skipped"], len(again["broken"])) == (1, 1, 1)


def test_shards_share_the_list(tmp_path, model):
    drives = make_drives(tmp_path / "in", [2] * 9)
    out = tmp_path / "out"
    counts = []
    for index in range(3):
        fleet = Fleet(drives, str(out), FleetOptions(model=model), RunOptions(shard=(index, 3)), Here)
        counts.append(fleet.run()["done"])
    assert sum(counts) == 9
    assert counts == [sum(hash_path(drive) % 3 == index for drive in drives) for index in range(3)]
    assert Fleet(drives, str(out), FleetOptions(model=model), make_runner=Here).run()["skipped"] == 9


def test_a_worker_that_dies_costs_only_its_own_drive(tmp_path, model):
    drives = make_drives(tmp_path / "in", [4, 5, 6, 7])

    class Dying(Here):
        """Drive 2 kills the pool, and with it whatever runs beside it."""

        def collect(self, timeout):
            jobs, self.jobs = self.jobs, []
            if any("drive2" in job.drive for job in jobs):
                self.ran += [job.drive for job in jobs]
                return [Outcome(job, None, "died", died=True, sure=len(jobs) == 1) for job in jobs]
            return [self.outcome(job) for job in jobs]

    result = Fleet(drives, str(tmp_path / "out"), FleetOptions(model=model), RunOptions(workers=3), Dying).run()
    assert result["broken"] == {drives[2]: "died"}
    assert result["done"] == 3


def test_shared_memory_without_room_is_named(tmp_path):
    with full_disk(0), pytest.raises(OSError, match=r"share locks there.*'/dev/shm'"):
        LocalRunner(str(tmp_path), FleetOptions(), 1)


def test_a_drive_that_ends_while_a_worker_dies_is_not_lost(tmp_path):
    done, lost = Job("done", "done", 1), Job("lost", "lost", 1)
    with closing(LocalRunner(str(tmp_path), FleetOptions(), 2)) as runner:
        for _ in range(8):  # whichever of the two is looked at first
            good, bad = Future(), Future()
            good.set_result(Outcome(done, {}))
            bad.set_exception(BrokenProcessPool())
            runner._running = {good: done, bad: lost}
            assert {(outcome.job, outcome.died) for outcome in runner.collect(1)} == {(done, False), (lost, True)}


def test_urls_through_fsspec(tmp_path, model):
    pytest.importorskip("fsspec")
    drives = [f"file://{drive}" for drive in make_drives(tmp_path / "in", [5, 6])]
    out = f"file://{tmp_path}/out"
    result = Fleet(drives, out, FleetOptions(model=model), make_runner=Here).run()
    assert result["done"] == 2
    assert Fleet(drives, out, FleetOptions(model=model), make_runner=Here).run()["skipped"] == 2
    tok = load_for_fleet(FleetOptions(model=model))
    job = make_job(drives[0])
    assert find_record(open_store(out), job, FleetOptions(model=model), tok.fingerprint, check=True)
    (tmp_path / "out" / job.name / "cam0.safetensors").write_bytes(b"other")
    assert find_record(open_store(out), job, FleetOptions(model=model), tok.fingerprint, check=True) is None


def test_ray_missing_is_said_clearly(tmp_path, model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    drives = make_drives(tmp_path / "in", [2])
    status = tokenize_drives.main([*drives, "--out", str(tmp_path / "out"), "--model", model, "--runner", "ray"])
    assert status == 1
    assert "pip install 'ray[data]" in capsys.readouterr().err


def test_wrong_use(tmp_path, model, capsys):
    assert tokenize_drives.main(["--out", str(tmp_path)]) == 2
    assert (
        "streamtok tokenize: command line: give drives (or --list FILE) and --out, or --plan HOURS"
        in capsys.readouterr().err
    )
    assert tokenize_drives.main(["x.mp4", "--out", str(tmp_path / "o"), "--shard", "a/b", "--model", model]) == 2
    assert tokenize_drives.main(["x.mp4", "--out", str(tmp_path / "o"), "--shard", "4/4", "--model", model]) == 2
    assert "0/n to n-1/n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [{"hours": 0.0}, {"hours": float("nan")}, {"fps": 0.0}, {"rate": 0.0}, {"rate": -1.0}, {"price": -0.1}]
)
def test_a_plan_of_nothing_is_refused_before_anything_is_measured(wrong):
    given = {"hours": 10.0, "fps": 30.0, "rate": None, "price": 0.05} | wrong
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}.*: expected"):
        plan(options=FleetOptions(model="absent"), **given)


@pytest.mark.parametrize("engine", [[], ["--engine", "eager"], ["--engine", "auto"], ["--plan", "10"]])
def test_a_size_off_the_grid_is_told_before_any_drive_is_opened(tmp_path, model, capsys, engine):
    given = [str(tmp_path / "absent.mp4"), "--out", str(tmp_path / "o"), "--model", model, "--size", "36x48"]
    assert tokenize_drives.main([*given, *engine]) == 2
    assert "size 36x48: this model needs multiples of 8; nearest are 32x48, 40x48" in capsys.readouterr().err
    assert not (tmp_path / "o" / "manifest.jsonl").exists()


def command(drives: list[str], out: Path, model: str) -> list[str]:
    module = [sys.executable, "-m", "streamtok.cli", "tokenize"]
    return [*module, *drives, "--out", str(out), "--model", model, "--workers", "2", "--quiet", "--json"]


def records(out: Path) -> list[Path]:
    """Records of drives that are done, without those in folders that are being written."""
    return [path for path in out.glob("*/drive.json") if not path.parent.name.startswith(".")]


def kill_when_something_is_done(arguments: list[str], out: Path) -> int:
    """Start a run, end it with SIGKILL and wait until its workers are gone too; returns how many drives are done."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while not records(out) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    done = len(records(out))
    process.communicate()  # the workers have the pipe as well, so it ends when the last of them does
    assert process.returncode == -signal.SIGKILL
    return done


def test_killed_and_run_again_gives_the_bytes_of_an_undisturbed_run(tmp_path, model):
    """SIGKILL as soon as something is done: the workers go too, and the next run completes what is missing."""
    drives = make_drives(tmp_path / "in", [300, 40, 200])
    options, out = settle_engine(FleetOptions(model=model), None), tmp_path / "killed"
    Fleet(drives, str(tmp_path / "undisturbed"), options, make_runner=Here).run()
    # A worker waits for a pipe that nobody writes into: the run cannot be over before it is killed.
    os.mkfifo(tmp_path / "gate.mp4")
    done = kill_when_something_is_done(command([*drives, str(tmp_path / "gate.mp4")], out, model), out)
    assert done >= 1
    result = Fleet(drives, str(out), options, make_runner=Here).run()
    assert result["done"] + result["skipped"] == 3
    assert result["skipped"] >= done
    assert tree(out) == tree(tmp_path / "undisturbed")


@pytest.mark.slow
def test_killed_twice_with_other_numbers_of_workers(tmp_path, model):
    drives = make_drives(tmp_path / "in", [400, 40, 300, 200, 500, 60])
    subprocess.run(command(drives, tmp_path / "undisturbed", model), check=True, capture_output=True)
    out = tmp_path / "killed"
    kill_when_something_is_done(command(drives, out, model), out)
    kill_when_something_is_done([*command(drives, out, model), "--workers", "1"], out)
    subprocess.run([*command(drives, out, model), "--workers", "3"], check=True, capture_output=True)
    assert tree(out) == tree(tmp_path / "undisturbed")


def workers_of(pid: int) -> list[int]:
    """Processes of a run's pool."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may have ended
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in stat.with_name("cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stuck", [False, True])
def test_sigterm_ends_the_run_cleanly(tmp_path, model, stuck):
    """Also when no worker listens: those are killed."""
    drives, out = make_drives(tmp_path / "in", [40, 1500]), tmp_path / "out"
    os.mkfifo(tmp_path / "gate.mp4")  # nobody writes into it, so the run isn't over before it is stopped
    arguments = command([*drives, str(tmp_path / "gate.mp4")], out, model)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    while not records(out) and process.poll() is None:
        time.sleep(0.005)
    if stuck:
        workers = workers_of(process.pid)
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
    process.terminate()
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert json.loads(text)["left"] >= 1
    assert not [name for name in tree(out) if ".partial" in name]


def test_a_cpu_computes_as_live_unless_told_otherwise(model):
    options = settle_engine(FleetOptions(model=model, device="cpu"), None)
    assert (
        describe_engine(load_for_fleet(options)).kernels
        == describe_engine(load(model, engine="default", device="cpu")).kernels
    )
    assert options.engine.device_name == ""
    assert settle_engine(FleetOptions(model=model, device="cpu", deterministic=True), None).engine is None


def test_a_machine_with_more_cores_or_another_processor_does_not_do_drives_again():
    if (here := torch.backends.cpu.get_cpu_capability()) not in ("AVX2", "AVX512"):
        pytest.skip(f"this processor has {here}")
    code = """
import torch
from streamtok.fleet.model import FleetOptions, settle_engine

for threads in 1, 2:
    torch.set_num_threads(threads)
    print(settle_engine(FleetOptions(), None).engine)
"""
    lines: set[str] = set()
    for capability in {"avx2", here.lower()}:
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        lines.update(done.stdout.splitlines())
    assert len(lines) == 1, lines


def test_an_engine_configuration_is_kept_without_its_timings(tmp_path, model):
    """Two machines of one kind measure different times; what decides the tokens must be all that is recorded."""
    from streamtok.engine.configuration import EngineConfiguration

    made = []
    for number, measured in enumerate([1.5, 9.9]):
        path = tmp_path / f"engine{number}.json"
        path.write_text(json.dumps(EngineConfiguration(threads=8, measured_ms={"float32": measured}).to_dict()))
        made.append(settle_engine(FleetOptions(model=model), str(path)))
    assert made[0] == made[1]
    assert made[0].engine.threads == 1
    assert settle_engine(FleetOptions(model=model), "eager").engine is None
    (drive,) = make_drives(tmp_path / "in", [6])
    assert Fleet([drive], str(tmp_path / "out"), made[0], make_runner=Here).run()["done"] == 1


def test_a_recording_of_this_machine_s_engine_loses_nothing(model, tmp_path):
    path = tmp_path / "d.mcap"
    ingest(path, load(model, engine="default", device="cpu"), model=model)
    options = settle_engine(FleetOptions(model=model, device="cpu"), None)
    result = Fleet([str(path)], str(tmp_path / "out"), options, make_runner=Here).run()
    assert (result["done"], result["losses"]) == (1, {})


def test_a_drive_whose_record_leaves_defaults_out_is_done(tmp_path, model):
    """As an earlier version wrote it: what is new has a default that means the same."""
    options = settle_engine(FleetOptions(model=model, device="cpu"), None)
    drives, out = make_drives(tmp_path / "in", [6]), tmp_path / "out"
    assert Fleet(drives, str(out), options, make_runner=Here).run()["done"] == 1
    (path,) = out.glob("*/drive.json")
    record = json.loads(path.read_text())
    names = ("device", "precision", "kernels", "threads", "agreement", "measured_ms")
    record["options"]["engine"] = {name: record["options"]["engine"][name] for name in names}
    del record["options"]["context"]
    path.write_text(json.dumps(record))
    assert Fleet(drives, str(out), options, make_runner=Here).run()["skipped"] == 1
    record["options"]["engine"]["precision"] = "bfloat16"
    path.write_text(json.dumps(record))
    assert Fleet(drives, str(out), options, make_runner=Here).run()["done"] == 1


def test_a_folder_of_recordings_is_a_drive_each_and_what_was_lost_is_told_in_the_words_of_info(model, tmp_path, capsys):
    folder = tmp_path / "day"
    folder.mkdir()
    frames = frames_of("front", 20)
    twice = [copy for frame in frames for copy in (frame, frame)]
    write_mcap(folder / "a_evening.mcap", [replace(frame, capture_ns=frame.capture_ns + 10**13) for frame in frames])
    write_mcap(folder / "b_morning.mcap", twice[:20] + twice[28:])
    fleet = Fleet([str(folder)], str(tmp_path / "out"), FleetOptions(model=model), make_runner=Here)
    result = fleet.run()
    assert (result["done"], result["broken"]) == (2, {})
    told = result["losses"][str(folder / "b_morning.mcap")]
    words = "front: 16 of 32 images are frames; 16 are copies, 4 are missing in the file"
    assert told[0] == words
    assert list(result["losses"]) == [str(folder / "b_morning.mcap")]
    assert fleet.run()["losses"] == {}  # of drives that were done before
    for command in (info, replay):
        assert command.main([str(folder / "b_morning.mcap"), *(["--model", model] if command is replay else [])]) == 0
        assert words in capsys.readouterr().out.splitlines()
    report = info.inspect(folder / "b_morning.mcap").report
    record = json.loads((tmp_path / "out" / make_job(str(folder / "b_morning.mcap")).name / "drive.json").read_text())
    assert record["cameras"]["front"].items() <= report["cameras"]["front"].items()


def test_a_list_of_drives_may_begin_with_a_byte_order_mark(model, tmp_path, monkeypatch):
    (drive,) = make_drives(tmp_path / "drives", [5])
    (tmp_path / "drives.txt").write_text(f"{drive}\r\n", encoding="utf-8-sig")
    given = []
    monkeypatch.setattr(fleet_module.Fleet, "run", lambda self: given.extend(self.drives) or {"broken": {}, "left": 0})
    settings = tokenize_drives.TokenizeSettings(list=tmp_path / "drives.txt", out=str(tmp_path / "out"), model=model)
    tokenize_drives.run_fleet(settings)
    assert given == [drive]


@pytest.mark.slow
def test_ray_s_workers_give_the_bytes_of_local_ones_though_one_is_killed(tmp_path, model):
    """A real Ray on this machine with two actors, one of which is ended with SIGKILL while it works."""
    pytest.importorskip("ray", reason="needs: pip install 'ray[data]>=2.40'")
    drives, killed = make_drives(tmp_path / "in", [300, 40, 200, 250, 120]), []
    subprocess.run(command(drives, tmp_path / "local", model), check=True, capture_output=True)
    ours = [*command(drives, tmp_path / "ray", model), "--runner", "ray", "--workers", "2"]
    before = ray_actors()
    process = subprocess.Popen(ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not killed:
        working = [pid for pid in ray_actors() - before if records(tmp_path / "ray")]
        for pid in working[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        time.sleep(0.01)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert killed, "no actor was seen at work"
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def ray_actors() -> set[int]:
    """The processes of this machine in which an actor of ours lives."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"ray::_Worker" in entry.read_bytes():
                found.add(int(entry.parent.name))
    return found
