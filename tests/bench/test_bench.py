"""The benchmark's report has its sections, its numbers fit together, and the command writes what it says."""

import json
import re
from dataclasses import replace
from typing import get_args

import pytest
import torch

from streamtok.bench import nodes, stateless
from streamtok.bench.clips import read_clip
from streamtok.bench.measure import measure_model
from streamtok.bench.options import BenchOptions
from streamtok.bench.roofline import count_work
from streamtok.bench.tables import format_benchmark, plot_ratios
from streamtok.bench.timing import percentiles
from streamtok.config import PRESETS
from streamtok.engine.configuration import CHOICES, EngineConfiguration
from streamtok.model import build
from streamtok.weights.golden import reference_clip

SIZE = (32, 48)


@pytest.fixture(scope="module")
def report():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    options = BenchOptions(SIZE, precision="float32", groups=5, windows=(9, 17), steady=20)
    return measure_model(build(PRESETS["nano"]), options)


def test_report_has_its_sections_and_survives_json(report):
    sections = ["machine", "engine", "precisions", "latency", "decode", "stateless", "roofline", "stages", "steady"]
    assert {"schema", "model", "options", *sections} == set(report)
    assert json.loads(json.dumps(report))["schema"] == report["schema"]


def test_cameras_are_measured_one_by_one_and_in_one_step():
    torch.manual_seed(0)
    options = BenchOptions(SIZE, cameras=3, precision="float32", groups=3, windows=(), compare=False)
    report = measure_model(build(PRESETS["nano"]), options)
    assert (report["engine"]["slots_per_step"], report["engine"]["kernels"]) == (1, "interleaved")
    assert (report["shared_step"]["cameras"], report["shared_step"]["kernels"]) == (3, "plain")
    assert "all cameras in one step" in format_benchmark(report)
    assert "no room for 3" in format_benchmark(report | {"shared_step": {"kernels": "plain", "error": "no room for 3"}})


def test_ratios_are_those_of_the_milliseconds_beside_them(report):
    part = report["stateless"]
    assert set(part["windows"]) == {"9", "17"}
    for found in part["windows"].values():
        assert found["ratio"] == pytest.approx(found["ms"] / part["step_ms"])
    roofline = report["roofline"]
    assert roofline["share_of_peak"] == pytest.approx(roofline["compute_ms"] / report["latency"]["p50_ms"])
    assert report["latency"]["p50_ms"] <= report["latency"]["p99_ms"]


@pytest.mark.parametrize("gpu", [True, False])
def test_on_a_gpu_the_stateless_network_attends_in_its_own_precision(gpu, monkeypatch):
    seen, allowed = [], torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: gpu)
    monkeypatch.setattr(stateless, "reference_clip", lambda *args: seen.append(allowed()) or reference_clip(*args))
    tok = build(PRESETS["nano"])
    step = {"ms_per_camera": 1.0, "cpu_ms": 1.0}
    stateless.measure_stateless(tok, tok.dtype, BenchOptions(SIZE, groups=1, windows=(5,)), step, print)
    assert set(seen) == {gpu}
    assert not allowed()


def test_precisions_are_compared_on_a_clip(report):
    tried = {"float32", "float32 nnpack"} if torch.backends.nnpack.is_available() else {"float32"}
    assert set(report["precisions"]) == tried
    found = report["precisions"]["float32"]
    assert found["agreement"] == report["engine"]["agreement"]["float32"] == 1.0
    assert 0 < found["psnr"] < 50
    assert found["ms"] > 0
    assert read_clip("synthetic:48x64@30?frames=9", SIZE, 9).shape == (1, 3, 9, *SIZE)
    with pytest.raises(ValueError, match="has 5 frames, 9 are needed"):
        read_clip("synthetic:48x64@30?frames=5", SIZE, 9)


def test_report_for_people_names_every_window(report):
    text = format_benchmark(report)
    for words in ("group, p50 / p99", "stateless, 17 frames", "share of the roofline", "20 groups"):
        assert words in text


def test_plot_is_written(report, tmp_path):
    pytest.importorskip("matplotlib")
    assert plot_ratios(report, tmp_path / "deep" / "bench.png").stat().st_size > 1000


def test_work_of_the_full_size_encoder_is_the_published_count():
    work = count_work(build_on_meta("cosmos-dv4x8x8"), (720, 1280))
    assert work["flops"] == pytest.approx(1.927e12, rel=0.01)


def test_work_of_a_predictive_encoder_has_its_decoder_in_it():
    plain, predictive = (count_work(build_on_meta(name), (64, 96))["flops"] for name in ("nano", "nano-p"))
    assert predictive > 1.5 * plain


def build_on_meta(name):
    with torch.device("meta"):
        return build(PRESETS[name])


@pytest.fixture
def bench():
    """The command, where there is pydantic: not on every machine with a GPU."""
    pytest.importorskip("pydantic")
    from streamtok.commands import bench

    return bench


def test_command_prints_json_and_writes_a_file(bench, tmp_path, capsys):
    arguments = ["--size", "32x48", "--precision", "float32", "--device", "cpu", "--groups", "3", "--windows", "9"]
    assert bench.main([*arguments, "--no-start", "--json", "--out", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    (written,) = tmp_path.glob("*-32x48-float32.json")
    assert json.loads(written.read_text()) == printed


def test_command_refuses_wrong_use(bench, capsys):
    assert bench.main(["--size", "720p"]) == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err
    assert bench.main(["--model", "nanoo"]) == 1
    assert "did you mean nano" in capsys.readouterr().err


def test_a_command_has_the_precisions_that_there_are(bench):
    assert get_args(bench.BenchSettings.model_fields["precision"].annotation) == ("auto", *CHOICES["precision"])


def test_command_measures_the_start_of_a_node_unless_told_not_to(bench, capsys):
    from streamtok.commands.flags import parse_settings

    assert parse_settings(bench.BenchSettings, "bench", None, ["--no-start"]).start is False
    arguments = ["--size", "32x48", "--precision", "float32", "--device", "cpu", "--groups", "3", "--windows", ""]
    assert bench.main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    if nodes.list_missing():  # a machine with a GPU has no pyzmq
        assert "start" not in report
        return
    found = report["start"]
    assert found["weights"] == "nano"
    assert found["engine"]["threads"] >= 1
    assert found["first_ms"] > 0
    assert found["second_ms"] > 0
    text = format_benchmark(report)
    assert f"{found['second_ms']:.0f} ms" in text
    assert "of a node to a reader's first token" in text


def test_without_a_node_the_start_is_not_measured_and_this_is_said(monkeypatch):
    monkeypatch.setattr(nodes, "NEEDS", ("no_such_package", "torch"))
    said, options = [], BenchOptions(SIZE, precision="float32", groups=1, windows=(), compare=False, start=True)
    assert "start" not in measure_model(build(PRESETS["nano"]), options, said.append)
    assert said[0] == "start not measured: no node can run here, for it lacks no_such_package"
    with pytest.raises(RuntimeError, match="lacks no_such_package"):
        nodes.measure_start(build(PRESETS["nano"]), BenchOptions(SIZE))


def test_start_of_a_random_model_takes_a_copy_and_one_that_fails_says_why(tmp_path, monkeypatch):
    """The second start takes the engine that the first has measured and stored."""
    if nodes.list_missing():
        pytest.skip("a node cannot run here")
    logs, start_node = [""], nodes._start_node

    def start_and_read_log(model, options, folder):
        started = start_node(model, options, folder)
        logs.append((folder / "node.log").read_text().removeprefix(logs[-1]))
        return started

    monkeypatch.setattr(nodes, "_start_node", start_and_read_log)
    found = nodes.measure_start(build(PRESETS["nano"]), BenchOptions(SIZE, model="small"))  # a name without weights
    assert found["weights"] == "copy"
    assert ["engine=chosen" in log for log in logs[1:]] == [True, False]
    assert ["engine=stored" in log for log in logs[1:]] == [False, True]
    with pytest.raises(RuntimeError, match=r"ended with status [^0].*holds no checkpoint"):
        nodes.measure_start(build(PRESETS["nano"]), BenchOptions(SIZE, model=str(tmp_path)))


def test_end_to_end_has_a_node_and_a_reader_in_processes_of_their_own(report):
    if nodes.list_missing():
        pytest.skip("a node cannot run here")
    tok = build(PRESETS["nano"])
    engine = EngineConfiguration.from_dict({k: v for k, v in report["engine"].items() if k != "memory"})
    engine = replace(engine, fingerprint=tok.fingerprint)
    found = nodes.measure_end_to_end(tok, engine, BenchOptions(SIZE, cameras=2), seconds=1.2)
    assert found["messages"] == found["capture_to_reader"]["count"] + 4 == found["publish_to_reader"]["count"] + 4
    assert 0 < found["publish_to_reader"]["p50_ms"] < found["capture_to_reader"]["p50_ms"]
    assert found["node_latency_ms"]["encode"]["p50"] > 0
    text = format_benchmark(report | {"end_to_end": found | {"dropped_frames": 17}})
    assert "publish to reader" in text
    assert re.search(r"frames lost +17 +of all cameras", text)
    with pytest.raises(RuntimeError, match=r"ended with status [^0].*for weights"):
        nodes.measure_end_to_end(tok, replace(engine, fingerprint="another"), BenchOptions(SIZE), seconds=0.2)


def test_percentiles_of_a_list():
    found = percentiles([float(i) for i in range(1, 101)])
    assert (found["p50_ms"], found["count"]) == (50.5, 100)
    assert found["p99_ms"] == 99.0
