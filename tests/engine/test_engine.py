"""The engine configuration, the choice of precision, and optimized tokenizers, on any machine."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from streamtok.config import PRESETS
from streamtok.engine import EngineConfiguration, EngineError, optimize, precision
from streamtok.engine.compile_cache import use_folder
from streamtok.engine.configuration import cache_folder, inspect_machine, load_stored, store
from streamtok.engine.optimized import apply_configuration, describe_engine
from streamtok.engine.planning import list_candidates
from streamtok.engine.precision import Trial, choose, compare_tokens
from streamtok.model import build
from streamtok.weights.golden import reference_clip

SIZE = (32, 48)


@pytest.fixture(scope="module")
def tok():
    torch.manual_seed(0)
    return build(PRESETS["nano"])


def test_configuration_round_trips_through_json():
    made = EngineConfiguration(
        device="cuda", precision="bfloat16", graph=True, size=(720, 1280), agreement={"bfloat16": 0.97}
    )
    assert EngineConfiguration.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"precision": "float8"}, "float8.*expected one of"),
        ({"precision": "float16"}, "float16 on the CPU"),
        ({"graph": True}, "graphs need a GPU"),
        ({"over_space": "squares"}, "expected one of flash, strips"),
        ({"kernels": "magic"}, "expected one of plain, fused, interleaved"),
        ({"kernels": "interleaved", "deterministic": True}, "deterministic steps"),
        ({"convolutions": "nnpack", "deterministic": True}, "deterministic steps"),
        ({"convolutions": "fast"}, "expected one of direct, nnpack"),
        ({"convolutions": "nnpack", "precision": "bfloat16"}, "for float32 on a CPU"),
    ],
)
def test_configuration_refuses_what_cannot_run(values, says):
    with pytest.raises(ValueError, match=says):
        EngineConfiguration(**values)


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match="presicion"):
        EngineConfiguration.from_dict({"presicion": "float32"})


def test_what_older_versions_recorded_means_the_convolutions_that_there_were(tok):
    recorded = EngineConfiguration(kernels="interleaved", format=1).to_dict()
    del recorded["convolutions"]
    assert EngineConfiguration.from_dict(recorded).convolutions == "direct"
    assert EngineConfiguration.from_dict(recorded | {"convolutions": "winograd", "format": 2}).convolutions == "nnpack"
    store(replace(inspect_machine(tok.fingerprint, SIZE), format=1))
    assert load_stored(inspect_machine(tok.fingerprint, SIZE))[1] == ["format: 1 stored, 3 here"]


def test_stored_configuration_holds_only_where_it_was_made(tok):
    machine = inspect_machine(tok.fingerprint, SIZE)
    assert load_stored(machine) == (None, ["none is stored"])
    path = store(machine)
    assert path.is_relative_to(cache_folder())
    assert load_stored(machine) == (machine, [])
    path.write_text(path.read_text().replace(torch.__version__, "1.0"))
    stored, reasons = load_stored(machine)
    assert stored is None
    assert "torch_version: '1.0' stored" in reasons[0]
    path.write_text("{")
    assert "cannot be read" in load_stored(machine)[1][0]


def test_optimize_measures_once_and_reuses(tok, caplog):
    caplog.set_level("INFO", "streamtok.engine")
    first = optimize(tok, size=SIZE)
    assert "tokens_equal_to_float32" in caplog.text
    engine = describe_engine(first)
    assert set(engine.agreement) - {"float32 nnpack"} == set(list_candidates(engine.device))
    caplog.clear()
    second = optimize(tok, size=SIZE)
    assert describe_engine(second) == describe_engine(first)
    assert "engine=stored" in caplog.text
    assert second.fingerprint == tok.fingerprint


def test_a_cache_that_cannot_be_written_costs_a_warning(tok, caplog, tmp_path, monkeypatch):
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("STREAMTOK_CACHE", str(tmp_path / "a_file"))
    fast = optimize(tok, size=SIZE)
    assert describe_engine(fast).measured_ms
    assert "engine=unstored because=" in caplog.text
    assert "set STREAMTOK_CACHE" in caplog.text


def test_eager_engine_gives_the_plain_tokens(tok):
    fast = optimize(tok, "eager", size=SIZE, device="cpu")
    clip = reference_clip(5, *SIZE)
    assert torch.equal(fast.encode(clip).indices, tok.encode(clip).indices)
    plain, optimized = tok.stream(1, *SIZE), fast.stream(1, *SIZE)
    for group in (clip[:, :, :1], clip[:, :, 1:]):
        assert torch.equal(optimized.step(group).indices, plain.step(group).indices)


def test_a_gpu_without_its_number_is_the_one_that_the_tokenizer_is_on(tok, monkeypatch):
    fast = optimize(tok, "eager", size=SIZE, device="cpu")
    monkeypatch.setattr(type(fast), "device", torch.device("cuda", 0))
    assert fast.cast(device="cuda") is fast.cast(torch.float32, "cuda:0") is fast
    assert not fast.holds(None, "cuda:1")
    assert not fast.holds(torch.bfloat16, "cuda")


def test_recorded_configuration_is_refused_for_other_weights(tok):
    other = EngineConfiguration(fingerprint="0" * 32)
    with pytest.raises(ValueError, match="is for weights 000"):
        optimize(tok, other.to_dict())
    with pytest.raises(ValueError, match="expected one of auto, eager"):
        optimize(tok, "fastest")


def test_a_configuration_for_deterministic_steps_makes_them_so(tok):
    fast = apply_configuration(tok, EngineConfiguration(deterministic=True))
    assert (tok.deterministic, fast.deterministic, fast.stream(2, *SIZE).slot_by_slot) == (False, True, True)
    assert describe_engine(apply_configuration(fast, EngineConfiguration(threads=1))).deterministic
    with pytest.raises(ValueError, match="deterministic steps"):
        apply_configuration(fast, EngineConfiguration(kernels="interleaved"))


def test_what_was_stored_for_another_mode_is_not_taken(tok):
    exact = build(PRESETS["nano"], deterministic=True)
    exact.load_state_dict(tok.state_dict())
    assert describe_engine(optimize(tok, size=SIZE, device="cpu")).kernels == "interleaved"
    first = optimize(exact, size=SIZE, device="cpu")
    assert (describe_engine(first).kernels, first.deterministic) == ("plain", True)
    assert describe_engine(optimize(exact, size=SIZE, device="cpu")) == describe_engine(first)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
def test_configuration_for_a_gpu_says_that_none_is_here(tok):
    with pytest.raises(EngineError, match="none is here"):
        apply_configuration(tok, EngineConfiguration(device="cuda", graph=True))


def test_choice_logs_agreement_and_speed_of_all(tok, caplog):
    with caplog.at_level("INFO", "streamtok.engine"):
        chosen = choose(tok, inspect_machine(tok.fingerprint, SIZE), clip=reference_clip(9, *SIZE))
    assert len(caplog.messages) == len(chosen.agreement) == len(chosen.measured_ms)
    assert sum("chosen" in line for line in caplog.messages) == 1
    assert chosen.agreement["float32"] == 1.0


def test_nnpack_is_chosen_where_it_is_faster_and_its_agreement_is_said(tok, monkeypatch, caplog):
    def measure(tok, configuration, clip):
        slow = configuration.convolutions == "direct"
        return Trial(configuration, torch.tensor([1, 2, 3, 4 if slow else 5]), 9.0 if slow else 7.0)

    monkeypatch.setattr(precision, "_measure", measure)
    monkeypatch.setattr(precision, "_choose_threads", lambda *args: 1)
    monkeypatch.setattr(precision, "FLOOR", 0.7)
    with caplog.at_level("INFO", "streamtok.engine"):
        chosen = choose(tok, inspect_machine(tok.fingerprint, SIZE), "float32")
    assert (chosen.kernels, chosen.convolutions, chosen.agreement["float32 nnpack"]) == (
        "interleaved",
        "nnpack",
        0.75,
    )
    assert "convolutions=nnpack ms_per_group=7.00 tokens_equal_to_float32=0.7500 chosen" in caplog.messages[1]


@pytest.mark.parametrize(("capability", "expected"), [("avx2", ["nnpack"] * 2), ("avx512", ["nnpack", "direct"])])
def test_the_default_takes_nnpack_on_x86_with_one_thread_or_without_avx512(capability, expected):
    if capability.upper() not in (here := torch.backends.cpu.get_cpu_capability(), here.replace("512", "2")):
        pytest.skip(f"this processor has {here}")
    code = """
import streamtok
from streamtok.engine.optimized import describe_engine

for threads in 1, 2:
    print(describe_engine(streamtok.load("nano", engine="default", threads=threads)).convolutions)
"""
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_the_faster_kind_of_attention_is_taken(monkeypatch):
    measured = {"flash": 3.0, "strips": 2.0, "plain": 1.0}

    def measure(tok, configuration, clip):
        return Trial(
            configuration, clip, measured[configuration.over_space if configuration.kernels == "fused" else "plain"]
        )

    monkeypatch.setattr(precision, "_measure", measure)
    tok, clip = build(replace(PRESETS["nano"], mid_attention=True)), reference_clip(1, *SIZE)
    fused = EngineConfiguration(device="cuda", precision="bfloat16", graph=True, kernels="fused")
    trial = precision.try_kinds(tok, fused, clip)
    assert (trial.configuration.over_space, trial.ms) == ("strips", 2.0)
    assert precision.try_kinds(tok, replace(fused, kernels="plain"), clip).ms == 1.0


def test_threads_are_chosen_among_those_allowed_and_put_back(tok):
    torch.set_num_threads(2)
    chosen = choose(tok, inspect_machine(tok.fingerprint, SIZE), "float32", reference_clip(9, *SIZE))
    assert chosen.threads in (1, 2)
    assert torch.get_num_threads() == 2
    assert describe_engine(optimize(optimize(tok, chosen), chosen)) == chosen


def test_precision_agreement_is_above_its_floor(tok):
    if "bfloat16" not in list_candidates("cpu"):
        pytest.skip("this processor has no bfloat16")
    chosen = choose(tok, inspect_machine(tok.fingerprint, SIZE), "bfloat16", reference_clip(13, *SIZE))
    assert chosen.agreement["bfloat16"] > 0.85


def test_agreement_of_tokens_and_latents():
    assert compare_tokens(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == 0.75
    assert compare_tokens(torch.ones(3), torch.ones(3)) == 1.0


def test_a_user_without_a_home_has_a_cache_that_cannot_be_written(tok, caplog, monkeypatch):
    for name in ("STREAMTOK_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert load_stored(inspect_machine(tok.fingerprint, (32, 32), "cpu"))[0] is None
    with pytest.raises(OSError, match="Not a directory"):
        store(inspect_machine(tok.fingerprint, (32, 32), "cpu"))
    assert use_folder().is_dir()
