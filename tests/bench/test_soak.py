"""`streamtok soak`: a short run keeps every promise, and what is broken is told."""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import get_args

import pytest

from streamtok.bench.soak import watching
from streamtok.bench.soak.faults import FAULTS
from streamtok.bench.soak.options import SoakOptions
from streamtok.bench.soak.promises import Promises, Usage, compare_tenths, judge_growth
from streamtok.bench.soak.run import Soak
from streamtok.cli import main
from streamtok.commands.soak import FaultName, format_soak

TINY = ["--size", "32x48", "--json"]


def test_the_same_seed_plans_the_same_faults():
    options = SoakOptions(seed=3, seconds=600)
    plan = options.plan(FAULTS)
    assert plan == SoakOptions(seed=3, seconds=600).plan(FAULTS) != SoakOptions(seed=4, seconds=600).plan(FAULTS)
    assert {name for _, name in plan} == set(FAULTS) == set(get_args(FaultName))
    assert all(at < 200 for at, name in plan if name == "kill_node")
    assert not [name for _, name in SoakOptions(seconds=600, readers=()).plan(FAULTS) if name.endswith("_reader")]


@pytest.mark.parametrize(
    ("sample", "broken"),
    [
        (lambda at: Usage(at, 300 + 100 / (1 + at), 20, 9), set()),
        (lambda at: Usage(at, 300 + at, 20, 9), {"memory stays flat"}),
        (lambda at: Usage(at, 300, 20 + int(at / 2), 9), {"open files stay flat"}),
        (lambda at: Usage(at, 300, 20, 9 + int(at / 4)), {"threads stay flat"}),
        (lambda at: Usage(at, 300, 120 if at % 10 < 2 else 20, 60 if at % 10 < 2 else 9), set()),  # floods come and go
    ],
)
def test_what_grows_is_found(sample, broken):
    promises = Promises()
    assert judge_growth(promises, [sample(at) for at in range(60)])
    assert {name for name, found in promises.summary().items() if found["broken"]} == broken


def test_a_short_life_is_not_judged_and_tenths_are_compared():
    promises = Promises()
    assert judge_growth(promises, [Usage(at, 1e3 * at, 20, 9) for at in range(10)]) == {}
    assert promises.summary() == {}
    found = compare_tenths(range(100), [1.0] * 50 + [2.0] * 50)
    assert found == {"first_tenth_p99": 1.0, "last_tenth_p99": 2.0}


def test_missing_frames_are_told_when_a_second_scrape_misses_them_too(monkeypatch):
    """One scrape may come just after the node stood still, before it has counted what it left out."""
    monkeypatch.setattr(watching, "SCRAPE_S", 0.01)
    pages, done = iter([(501, 500), (1001, 500), (1001, 1000), (1501, 1000), (1502, 1000)]), threading.Event()

    class Node(BaseHTTPRequestHandler):
        def do_GET(self):
            frames, dropped = next(pages, (0, 0)) if self.path == "/metrics" else (1, 0)
            if not frames:
                done.set()
            counters = {"frames": frames, "groups": 1, "keyframes": 1, "published": 1, "dropped": dropped}
            self.send_response(200)
            self.end_headers()
            for name, total in counters.items():
                self.wfile.write(f'streamtok_{name}_total{{stream="a"}} {total}\n'.encode())

    promises = Promises()
    with ThreadingHTTPServer(("127.0.0.1", 0), Node) as server:
        threading.Thread(target=server.serve_forever).start()
        watcher = SimpleNamespace(promises=promises, group=4)
        scraper = watching.Scraper(server.server_port, watcher, lambda: 1, fps=30)
        assert done.wait(60)
        scraper.close()
        server.shutdown()
    assert promises.summary()["frames add up"]["broken"] == 1  # of the last two


def test_a_short_run_keeps_every_promise(tmp_path, capsys, monkeypatch):
    """A node and one reader in processes of their own, and two faults; a busy machine may take longer than granted."""
    for limit in ("run.DECODABLE_S", "watching.WAITING_S", "watching.ANSWER_S"):
        monkeypatch.setattr(f"streamtok.bench.soak.{limit}", 60.0)
    out = tmp_path / "report.json"
    few = ["--reader", "subscribe", "--fault", "stop_reader", "--fault", "flood_requests"]
    status = main(["soak", "--seconds", "8", "--every", "3", "--seed", "1", "--out", str(out), *few, *TINY])
    report = json.loads(out.read_text())
    assert status == 0, format_soak(report)
    assert json.loads(capsys.readouterr().out) == report
    assert report["kept"]
    assert sum(report["faults"].values()) >= 2
    assert report["promises"]["seq rises by one"]["checked"] > 10
    assert report["promises"]["frames add up"]["checked"] > 1


@pytest.mark.slow
def test_a_node_that_ends_by_itself_is_told(tmp_path):
    options = SoakOptions(seconds=12, every=3, size=(32, 48), readers=("subscribe",))
    abort = {"abort": lambda soak, chance: os.kill(soak.node.process.pid, signal.SIGABRT)}
    report = Soak(options, tmp_path).run(abort)
    assert not report["kept"]
    assert "status -6" in report["promises"]["the node goes on"]["examples"][0]
    assert "PROMISES WERE BROKEN" in format_soak(report)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_minutes_under_every_fault_keep_every_promise(capsys):
    """`SOAK_SECONDS=3600` makes it an hour."""
    seconds = os.environ.get("SOAK_SECONDS", "240")
    status = main(["soak", "--seconds", seconds, "--every", "3", "--seed", "7", *TINY])
    report = json.loads(capsys.readouterr().out)
    assert status == 0, format_soak(report)
    assert set(report["faults"]) >= {"kill_reader", "kill_node", "flood_requests", "hostile_publisher"}
