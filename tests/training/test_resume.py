"""A run that was stopped or killed goes on bit for bit, whatever it was doing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from streamtok.commands.train import main
from streamtok.training.build import build_model
from streamtok.training.journal import read_journal
from streamtok.training.loop import train
from tests.kit.training import assert_same, config, table


def final(out: Path) -> dict:
    return torch.load(out / "last.pt", weights_only=True)


def without_clock(content: dict) -> dict:
    return content | {"position": {k: v for k, v in content["position"].items() if k != "seconds"}}


@pytest.mark.parametrize("model", ["nano", "nano-p"])
def test_stopping_anywhere_and_resuming_gives_the_same_run(tmp_path, model):
    whole = config(tmp_path / "whole", model=model, reference_noise=0.05)
    train(whole, build_model(whole))
    parts = config(tmp_path / "parts", model=model, reference_noise=0.05)
    train(parts, build_model(parts), stop_after=0)
    for _ in range(6):
        summary = train(parts, build_model(parts), resume=True, stop_after=0)  # one step each
    assert (summary.steps, summary.complete) == (7, False)
    assert train(parts, build_model(parts), resume=True).complete
    assert_same(without_clock(final(tmp_path / "whole")), without_clock(final(tmp_path / "parts")))


def test_a_run_of_a_version_that_did_not_store_its_precision_goes_on(tmp_path):
    run = config(tmp_path, dtype="auto", steps=2)
    train(run, build_model(run), stop_after=0)
    stored = final(tmp_path)
    del stored["dtype"]
    torch.save(stored, tmp_path / "last.pt")
    assert train(run, build_model(run), resume=True).complete


@pytest.mark.slow
def test_kill_nine_and_resume_gives_the_same_run(tmp_path):
    whole = config(tmp_path / "whole", steps=40)
    train(whole, build_model(whole))
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(table(tmp_path / "killed", steps=40)))
    command = [sys.executable, "-m", "streamtok.cli", "train", "--config", str(file)]
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}, stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "killed" / "log.jsonl"
    while process.poll() is None and len(read_journal(journal)) < 8:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert final(tmp_path / "killed")["position"]["step"] < 40
    resumed = config(tmp_path / "killed", steps=40)
    train(resumed, build_model(resumed), resume=True)
    assert_same(without_clock(final(tmp_path / "whole")), without_clock(final(tmp_path / "killed")))
    steps = [line["step"] for line in read_journal(journal) if line["kind"] == "train"]
    assert steps == list(range(40))


def test_resuming_another_models_run_is_refused(tmp_path):
    first = config(tmp_path)
    train(first, build_model(first), stop_after=0)
    other = config(tmp_path, seed=1)
    with pytest.raises(ValueError, match="belongs to"):
        train(other, build_model(other), resume=True)


def test_a_run_is_lost_only_if_told_so(tmp_path, capsys):
    file, out = tmp_path / "run.yaml", tmp_path / "tr"
    file.write_text(yaml.safe_dump(table(out, steps=4)))
    command = ["--config", str(file)]
    assert main([*command, "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--stop-after", "0"]) == 0
    stopped, journal = (out / "last.pt").read_bytes(), (out / "log.jsonl").read_bytes()
    assert main(command) == 2
    assert "--resume, throw that run away with --overwrite" in capsys.readouterr().err
    assert ((out / "last.pt").read_bytes(), (out / "log.jsonl").read_bytes()) == (stopped, journal)
    assert main([*command, "--resume"]) == 0
    assert [line["step"] for line in read_journal(out / "log.jsonl")] == [0, 1, 2, 3]
    assert main([*command, "--overwrite", "--stop-after", "0"]) == 0
    assert [line["step"] for line in read_journal(out / "log.jsonl")] == [0]
    assert final(out)["position"]["step"] == 1
