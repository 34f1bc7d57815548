"""Plain sockets beside the project's own."""

import pytest
import zmq


@pytest.fixture
def context():
    """A ZeroMQ context for plain sockets; whatever a test leaves open is closed, so that no failure hangs the rest."""
    context = zmq.Context()
    yield context
    context.destroy(linger=0)
