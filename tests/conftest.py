"""What every test may use: the same start, and short paths of sockets."""

import contextlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

# Before PyTorch: spinning threads starve the tests' other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

warnings.filterwarnings("ignore", message="no weights ship")

with contextlib.suppress(ImportError):  # a machine that is lent with a GPU lacks it
    from hypothesis import HealthCheck, settings

    # Property tests try the same examples at each run, so that a failure is a change's; long ones try others each time.
    # How long an example takes says how busy the machine is.
    unchecked = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=unchecked)
    settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests wait for other processes, which may take long on a busy machine."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Output of a test may hold file names that are no UTF-8, and pytest-xdist carries none but that."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Every test starts as if it were the first of its process, whatever commands have run in it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the models are tiny: a second costs more than it does, and other processes run beside
    torch.use_deterministic_algorithms(False)
    log = logging.getLogger("streamtok")
    log.setLevel(logging.NOTSET)
    log.handlers.clear()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What readers wait for a node's answer may be too short on a busy machine."""
    with contextlib.suppress(ImportError):  # likewise
        monkeypatch.setattr("streamtok.wire.joining.PATIENCE", 60.0)
        monkeypatch.setattr("streamtok.wire.subscriber.Subscription.info.__defaults__", (60.0,))
        monkeypatch.setattr("streamtok.wire.control.ControlClient.request.__defaults__", (None, 60.0))


@pytest.fixture
def endpoint() -> Iterator[str]:
    """An ipc endpoint with a path short enough for a socket; nothing may be left of it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield f"ipc://{folder}/s"
        assert not list(Path(folder).iterdir()), "a socket or lock file was left"


@pytest.fixture
def ipc_path() -> Iterator[Path]:
    """A path for an ipc socket: pytest's `tmp_path` can be longer than a socket path may be."""
    folder = Path(tempfile.mkdtemp(prefix="st-"))
    yield folder / "s"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny video model, for commands."""
    import streamtok
    from tests.kit.models import VIDEO, build

    folder = tmp_path_factory.mktemp("model")
    streamtok.save(build(VIDEO), folder)
    return str(folder)
