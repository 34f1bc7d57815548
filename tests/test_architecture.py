"""Imports point one way: packages have an order, and no two of them import each other.

The order is that of docs/architecture.md. A module at the top level counts as a package of its own.
"""

import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import streamtok

ROOT = Path(streamtok.__file__).parent
ORDER = (
    *("types", "names", "measures", "event_log", "config", "preprocessing", "settings"),
    *("wire", "io"),
    *("model", "weights", "checkpoint", "engine", "ingest"),
    *("recording", "drives", "tokens", "data"),
    *("node", "fleet", "evaluation", "training", "bench"),
    *("commands", "cli"),
)
PLACE = {name: place for place, name in enumerate(ORDER)}
MODULES = {
    ".".join(("streamtok", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def statements(node: ast.AST, for_types: bool):
    """The imports below a node, inside functions too; `for_types`: also those of type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        if for_types or not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from statements(child, for_types)


def imports(path: Path, for_types: bool = True) -> set[str]:
    """The modules of streamtok that a file imports; names of `streamtok` itself stand for the modules they lie in."""
    found = set()
    for statement in statements(ast.parse(path.read_text()), for_types):
        for alias in statement.names:
            name = alias.name if isinstance(statement, ast.Import) else f"{statement.module}.{alias.name}"
            home = streamtok._HOMES.get(name.removeprefix("streamtok."), "")
            name = f"streamtok.{home}" if home else name
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found & MODULES.keys()


GRAPH = {name: imports(path) for name, path in MODULES.items() if name != "streamtok"}


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_package_has_its_place():
    unknown = {package(name) for name in GRAPH} - PLACE.keys()
    assert not unknown, f"put {sorted(unknown)} into the order here and in docs/architecture.md"


def test_imports_point_to_packages_below():
    wrong = [
        f"{name} imports {other}"
        for name in sorted(GRAPH)
        for other in sorted(GRAPH[name] - {"streamtok"})
        if PLACE[package(other)] > PLACE[package(name)]
    ]
    assert not wrong, "imports that point up:\n" + "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    at_run_time = {name: imports(MODULES[name], for_types=False) for name in GRAPH}
    try:
        TopologicalSorter(at_run_time).prepare()
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        raise AssertionError(f"{circle}: move what they share into a module below both") from None


def test_the_engine_and_its_tests_need_only_what_a_machine_with_a_gpu_has():
    """`tools/gpu_check.py` runs there from a plain copy, beside torch, numpy, cv2, msgpack and pytest."""
    absent = ["zmq", "msgspec", "av", "pydantic", "yaml", "rich", "hypothesis", "mcap", "prometheus_client"]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import pytest; import tools.gpu_check; "
        "from streamtok.bench.gpu_check import TESTED; "
        "sys.exit(pytest.main(['-q', '--collect-only', 'tests/engine', *('tests/' + name for name in TESTED)]))"
    )
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
