"""A wheel works outside the checkout: commands, demo, configurations, weights, the page."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.kit.wire import eventually

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of what is committed or staged."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    subprocess.run(["git", "-C", ROOT, "checkout-index", "-a", f"--prefix={sources}/"], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(sources)]
    done = subprocess.run(build, capture_output=True, text=True)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("building a wheel needs setuptools from an index")
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """The bin folder of a venv with the wheel alone, which finds other packages where this Python has them."""
    venv = wheel.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    others = [path for path in sys.path if path.endswith("site-packages")]
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "others.pth").write_text("\n".join(others))  # what is in the venv itself comes first
    install = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "-q", "--no-deps"]
    subprocess.run([*install, "--ignore-installed", str(wheel)], check=True)
    return venv / "bin"


def run(program: Path, *arguments: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_works_outside_the_checkout(installed, tmp_path):
    where = run(installed / "python", "-c", "import streamtok; print(streamtok.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))
    drive = "synthetic:64x96@10?seed=1&frames=21"
    assert json.loads(run(installed / "streamtok", "demo", "--source", drive, "--json", cwd=tmp_path))
    assert "nano-r" in run(installed / "streamtok", "models", cwd=tmp_path)
    text = "from streamtok.extras import install_command; print(install_command('view'))"
    assert run(installed / "python", "-c", text, cwd=tmp_path).startswith("pip install 'websockets")
    recorded = ["ingest", "--source", drive, "--bind", "tcp://127.0.0.1:*", "--record", "a.mcap", "--json"]
    assert json.loads(run(installed / "streamtok", *recorded, cwd=tmp_path))["streams"]
    view = subprocess.Popen(
        [installed / "streamtok", "view", "a.mcap", "--port", "0"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        line = eventually(lambda: next((line for line in view.stderr if "event=page" in line), None))
        with urllib.request.urlopen(line.split("url=")[1].strip()) as page:
            assert b"streamtok" in page.read()
    finally:
        view.terminate()
        view.communicate(timeout=200)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["uv", "pipx"])
def test_uv_and_pipx_install_the_wheel_and_what_it_asks_for(tool, wheel, tmp_path):
    """As docs/operations.md does, from an index; then the command that an error names does what it says."""
    program = shutil.which(tool) or shutil.which(tool, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"needs: pip install {tool}")
    torch = f"torch=={version('torch')}"
    places = {"UV_TOOL_DIR": "tools", "UV_TOOL_BIN_DIR": "bin", "PIPX_HOME": "home", "PIPX_BIN_DIR": "bin"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {name: str(tmp_path / place) for name, place in places.items()}
    environment["UV_FIND_LINKS"] = os.environ.get("PIP_FIND_LINKS", "")
    environment["PATH"] = f"{Path(program).parent}{os.pathsep}{os.environ['PATH']}"
    options = {"uv": ["tool", "install", "--with", torch], "pipx": ["install", "--preinstall", torch]}
    command = [program, *options[tool], "--python", sys.executable, str(wheel)]

    def call(*words: object, shell: bool = False) -> subprocess.CompletedProcess:
        where = {"cwd": tmp_path, "env": environment, "shell": shell}
        return subprocess.run(words[0] if shell else list(map(str, words)), capture_output=True, text=True, **where)

    done = call(*command)
    assert done.returncode == 0, done.stderr
    streamtok = tmp_path / "bin" / "streamtok"
    demo = call(streamtok, "demo", "--source", "synthetic:64x96@10?seed=1&frames=21", "--json")
    assert json.loads(demo.stdout), demo.stderr
    asked = call(streamtok, "view", "tcp://127.0.0.1:1")
    hint = asked.stderr.partition("'view': ")[2].strip()
    assert hint.startswith({"uv": "uv pip install --python", "pipx": "pipx inject streamtok"}[tool])
    done = call(hint, shell=True)
    assert done.returncode == 0, done.stderr
    assert call(streamtok.resolve().parent / "python", "-c", "import websockets").returncode == 0


@pytest.mark.slow
def test_what_the_compose_file_starts_works_together(installed, tmp_path):
    """Its commands, without containers: a node, a recorder of it, a page, and metrics where Prometheus asks."""
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    ports = {port: str(free_port()) for port in ("5555", "9464", "8088")}
    for name, port in ports.items():
        text = text.replace(name, port)
    assert '"127.0.0.1:9464"' in (ROOT / "deploy" / "prometheus.yml").read_text()
    text = re.sub(r"\$\{SOURCE:-(.*?)\}", "synthetic:64x96@10?seed=7", text).replace("/data/", f"{tmp_path}/data/")
    services = yaml.safe_load(text)["services"]
    (tmp_path / "data").mkdir()
    commands = {name: services[name]["command"] for name in ("node", "recorder", "viewer")}
    running = {
        name: subprocess.Popen([installed / "streamtok", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for name, words in commands.items()
    }
    try:
        for port, word in ((ports["9464"], "/metrics"), (ports["8088"], "/")):
            assert b"streamtok" in eventually(lambda url=f"http://127.0.0.1:{port}{word}": read_url(url))
        assert eventually(lambda: list((tmp_path / "data").glob("*.mcap")))
    finally:
        for each in running.values():
            each.terminate()
        told = {name: each.communicate(timeout=200)[1] for name, each in running.items()}
    assert {each.returncode for each in running.values()} == {0}, told


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def read_url(url: str) -> bytes:
    """What is there, nothing while nothing answers."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()
    return b""
