"""Counters, latencies and their export."""

import urllib.request

import pytest

from streamtok.runtime.metrics import KEPT, Metrics, PrometheusServer, Reservoir


def test_quantiles_are_those_of_the_latest_samples():
    reservoir = Reservoir()
    for value in range(3 * KEPT):
        reservoir.add(value)
    assert reservoir.quantiles()["p50"] == pytest.approx(2.5 * KEPT, rel=1e-3)
    assert reservoir.count == 3 * KEPT
    assert Reservoir().quantiles() == {}


def test_prometheus_reads_counters_gauges_and_latencies():
    metrics = Metrics()
    metrics.count("frames", "front", 3)
    metrics.gauge("up", "front", 1)
    metrics.observe("encode", 0.25)
    server = PrometheusServer(metrics, 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        server.close()
    assert 'streamtok_frames_total{stream="front"} 3.0' in text
    assert 'streamtok_up{stream="front"} 1.0' in text
    assert 'streamtok_latency_seconds{quantile="0.99",stage="encode"} 0.25' in text


def test_two_nodes_in_one_process_export_separately_and_a_taken_port_is_named():
    first = PrometheusServer(Metrics(), 0)
    second = PrometheusServer(Metrics(), 0)
    try:
        with pytest.raises(OSError, match=f"cannot serve metrics on 127.0.0.1:{first.port}"):
            PrometheusServer(Metrics(), first.port)
    finally:
        first.close()
        second.close()
