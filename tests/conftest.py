"""What tests share: tiny tokenizers of every kind, and running them group by group."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before PyTorch: spinning threads starve the tests' other processes

import torch

warnings.filterwarnings("ignore", message="no weights ship")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests wait for other processes, which may take long on a busy machine."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture
def endpoint() -> Iterator[str]:
    """An ipc endpoint with a path short enough for a socket; nothing may be left of it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield f"ipc://{folder}/s"
        assert not list(Path(folder).iterdir()), "a socket or lock file was left"
