"""What tests share: tiny tokenizers of every kind, and running them group by group."""

import os
import warnings

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
