"""Imports point one way: packages have an order, and no two of them import each other.

The order is that of docs/architecture.md. A module at the top level counts as a package of its own.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import streamtok

ROOT = Path(streamtok.__file__).parent
ORDER = (
    *("types", "names", "redaction", "measures", "times", "event_log", "extras", "cores", "config"),
    *("preprocessing", "settings"),
    *("coding", "wire", "io"),
    *("model", "weights", "checkpoint", "engine", "compat", "ingest", "exporting"),
    *("recording", "drives", "tokens", "data"),
    *("node", "fleet", "evaluation", "training", "bench", "view"),
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


def homes() -> dict[str, str]:
    """Names that a package hands on, such as `streamtok.model.Stream`, and the modules they lie in."""
    found = {f"streamtok.{name}": f"streamtok.{home}" for name, home in streamtok._HOMES.items()}
    for package_name in (name for name, path in MODULES.items() if path.name == "__init__.py"):
        for statement in statements(ast.parse(MODULES[package_name].read_text()), for_types=True):
            if isinstance(statement, ast.ImportFrom):
                found |= {f"{package_name}.{alias.name}": str(statement.module) for alias in statement.names}
    return found


HOMES = homes()


def imports(path: Path, for_types: bool = True) -> set[str]:
    """The modules of streamtok that a file imports; names that a package hands on stand for the modules they lie in."""
    found = set()
    for statement in statements(ast.parse(path.read_text()), for_types):
        for alias in statement.names:
            name = alias.name if isinstance(statement, ast.Import) else f"{statement.module}.{alias.name}"
            name = HOMES.get(name, name)
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found & MODULES.keys()


GRAPH = {name: imports(path) for name, path in MODULES.items() if name != "streamtok"}


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_package_has_its_place():
    unknown = {package(name) for name in GRAPH} - PLACE.keys()
    assert not unknown, f"put {sorted(unknown)} into the order here and in docs/architecture.md"


def test_a_wheel_holds_every_package():
    listed = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(listed) - {"streamtok.configs"} == there


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


def test_no_packages_inside_a_package_import_each_other():
    """A module that lies beside packages counts as a package of its own."""
    deepest = max(name.count(".") for name in GRAPH) + 1
    for depth in range(3, deepest):
        parts = {name: ".".join(name.split(".")[:depth]) for name in GRAPH}
        below: dict[str, set[str]] = {part: set() for part in parts.values()}
        for name, others in GRAPH.items():
            below[parts[name]] |= {parts[other] for other in others - {"streamtok"}} - {parts[name]}
        try:
            TopologicalSorter(below).prepare()
        except CycleError as error:
            raise AssertionError(f"{' <- '.join(error.args[1])}: packages inside a package have an order too") from None


def test_tests_share_helpers_through_the_kit_alone():
    for path in (ROOT.parent / "tests").rglob("*.py"):
        shared = re.findall(r"^ *(?:from|import) (tests\.\S*test_\w+)", path.read_text(), re.MULTILINE)
        assert not shared, f"{path} imports {shared}: move what it needs to tests/kit"


LONGEST_FILE, LONGEST_FUNCTION = 300, 40


def test_files_and_functions_are_short():
    """Lines of a file, and of a function without its docstring and its arguments."""
    long = {}
    for name, path in MODULES.items():
        text = path.read_text()
        if text.count("\n") > LONGEST_FILE:
            long[name] = text.count("\n")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[ast.get_docstring(node) is not None :] or node.body
                lines = body[-1].end_lineno - body[0].lineno + 1
                if lines > LONGEST_FUNCTION:
                    long[f"{name}.{node.name}"] = lines
    assert not long, f"split these, by what they are about: {long}"


def walk(title: str) -> list[str]:
    """The modules that a walk of docs/architecture.md names, in order."""
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return [
        f"streamtok.{path[:-3].replace('/', '.')}" for path in re.findall(r"^\| `([a-z0-9_/]+\.py)` \|", section, re.M)
    ]


@pytest.mark.parametrize("title", ["One frame's way from camera to socket", "One grid's way from socket to picture"])
def test_the_walks_of_the_page_follow_the_imports(title):
    """Each file meets one named before it: one imports the other, or the file just before it by a third of the walk."""
    names = walk(title)
    assert len(names) >= 10
    assert set(names) <= MODULES.keys(), f"no such files: {sorted(set(names) - MODULES.keys())}"
    for place, name in enumerate(names[1:], 1):
        met = any(name in GRAPH[before] or before in GRAPH[name] for before in names[:place])
        assert met or any({names[place - 1], name} <= GRAPH[third] for third in names), f"{name} meets none before it"


def test_the_engine_and_its_tests_need_only_what_a_machine_with_a_gpu_has():
    """`tools/gpu_check.py` runs there from a plain copy, beside torch, numpy, cv2, msgpack and pytest."""
    absent = ["zmq", "msgspec", "av", "pydantic", "yaml", "rich", "hypothesis", "mcap", "prometheus_client"]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import pytest; import tools.gpu_check; "
        "from benchmarks.gpu.check import TESTED; "
        "sys.exit(pytest.main(['-q', '--collect-only', 'tests/engine', *('tests/' + name for name in TESTED)]))"
    )
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
