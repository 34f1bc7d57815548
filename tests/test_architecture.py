"""Imports point one way: the layers of docs/architecture.md hold, and no modules import each other in a circle."""

import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import streamtok

ROOT = Path(streamtok.__file__).parent
LAYERS = (
    ("config", "signals", "names", "command", "config_parser", "yaml_file", "measures", "preprocessing"),
    ("model",),
    ("checkpoint", "weights"),
    ("engine",),
    ("ingest",),
    ("settings", "loading", "decoding", "cli"),
    ("wire", "io", "recording", "drives", "data", "training", "evaluation"),
    ("runtime", "bench"),
    ("nodes", "tools"),
)
LAYER = {f"streamtok.{part}": number for number, parts in enumerate(LAYERS) for part in parts}
LAYER["streamtok"] = len(LAYERS) - 1  # it gathers names of all layers, so it is for users
MODULES = {
    ".".join(("streamtok", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
    for root, folder in ((ROOT, "."), (ROOT.parent, "nodes"), (ROOT.parent, "tools"))
    for path in (root / folder).rglob("*.py")
}


def statements(node: ast.AST):
    """The imports below a node, inside functions too; not those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from statements(child)


def imports(path: Path) -> set[str]:
    """The modules of streamtok that a file imports; names of `streamtok` itself stand for the modules they lie in."""
    found = set()
    for statement in statements(ast.parse(path.read_text())):
        for alias in statement.names:
            name = alias.name if isinstance(statement, ast.Import) else f"{statement.module}.{alias.name}"
            home = streamtok._HOMES.get(name.removeprefix("streamtok."), "")
            name = f"streamtok.{home}" if home else name
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found & MODULES.keys()


GRAPH = {name: imports(path) for name, path in MODULES.items()}


def layer(name: str) -> int:
    return LAYER[".".join(name.split(".")[:2])]


def test_every_import_points_to_the_same_layer_or_a_lower_one():
    unknown = {".".join(name.split(".")[:2]) for name in GRAPH} - LAYER.keys()
    assert not unknown, f"put {sorted(unknown)} into a layer here and in docs/architecture.md"
    wrong = [
        f"{name} imports {other}"
        for name in sorted(GRAPH)
        for other in sorted(GRAPH[name])
        if layer(other) > layer(name)
    ]
    assert not wrong, f"imports that point up: {'; '.join(wrong)}"


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        raise AssertionError(f"{circle}: move what they share into a module below both") from None


def test_the_engine_and_its_tests_need_only_what_a_machine_with_a_gpu_has():
    """`tools.gpu_check` runs there from a plain copy, beside torch, numpy, cv2, msgpack and pytest."""
    absent = ["zmq", "msgspec", "av", "pydantic", "yaml", "rich", "hypothesis", "mcap", "prometheus_client"]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import pytest; import tools.gpu_check; "
        "sys.exit(pytest.main(['-q', '--collect-only', 'tests/engine']))"
    )
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
