"""What tests share: tiny tokenizers of every kind, and running them group by group."""

import os
import warnings

import pytest

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before PyTorch: spinning threads starve the tests' other processes

import torch

warnings.filterwarnings("ignore", message="no weights ship")


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)
