"""Addresses in flags and configuration files."""

import pytest

from streamtok.names import parse_endpoint


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:65535", "tcp://[::1]:1", "tcp://*:*", "ipc:///data/front cam"])
def test_endpoints_that_work_are_taken(endpoint):
    assert parse_endpoint(endpoint) == endpoint


def test_a_port_that_libzmq_would_take_for_another_is_refused():
    with pytest.raises(ValueError, match="up to 65535"):
        parse_endpoint("tcp://127.0.0.1:99999")
