"""Short paths for ipc sockets (pytest's tmp_path can be longer than a socket path may be)."""

import shutil
import tempfile
from pathlib import Path

import pytest
import zmq


@pytest.fixture
def ipc_path():
    folder = Path(tempfile.mkdtemp(prefix="st-"))
    yield folder / "s"
    shutil.rmtree(folder)


@pytest.fixture
def context():
    """A ZeroMQ context for plain sockets; whatever a test leaves open is closed, so that no failure hangs the rest."""
    context = zmq.Context()
    yield context
    context.destroy(linger=0)
