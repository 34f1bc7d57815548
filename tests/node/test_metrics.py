"""Counters, latencies and their export."""

import re
import socket
import struct
import urllib.request

import pytest

from streamtok.node.metrics import OPEN_REQUESTS, Metrics, PrometheusServer
from tests.kit.nodes import ask


def test_prometheus_reads_counters_gauges_and_latencies():
    metrics = Metrics({"model": "nano"})
    metrics.count("frames", "front", 3)
    metrics.gauge("up", "front", 1)
    metrics.observe("encode", "front", 0.25)
    metrics.observe("encode", "rear", 0.5)
    server = PrometheusServer(metrics, 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        server.close()
    assert 'streamtok_frames_total{stream="front"} 3.0' in text
    assert 'streamtok_up{stream="front"} 1.0' in text
    assert 'streamtok_latency_seconds{quantile="0.99",stage="encode",stream="front"} 0.25' in text
    assert 'streamtok_latency_seconds{quantile="0.99",stage="encode",stream="rear"} 0.5' in text
    assert re.search(r'streamtok_build_info\{model="nano",version="[0-9.]+"\} 1\.0', text)
    assert "process_cpu_seconds_total" in text
    assert metrics.latency_ms()["encode"]["p50"] == 375


def test_scrapers_that_break_off_print_nothing(capfd):
    server = PrometheusServer(Metrics(), 0)
    try:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port)) as scraper:
                scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no end
                scraper.sendall(b"GET /met")
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
            assert answer.status == 200
    finally:
        server.close()
    assert capfd.readouterr().err == ""


def test_probes_answer_beside_the_metrics():
    wrong: list[str] = []
    metrics = Metrics()
    metrics.count("frames", "front", 3)
    server = PrometheusServer(metrics, 0, probes={"/readyz": lambda: wrong})
    try:
        assert ask(server.port, "/readyz") == (200, "ok\n")
        wrong += ["front: no frame yet", "rear: no frame yet"]
        assert ask(server.port, "/readyz?verbose") == (503, "front: no frame yet\nrear: no frame yet\n")
        assert ask(server.port, "/readyz", "HEAD") == (503, "")
        assert 'streamtok_frames_total{stream="front"} 3.0' in ask(server.port, "/metrics")[1]
    finally:
        server.close()


def test_metrics_are_served_on_ipv6_too():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    server = PrometheusServer(Metrics(), 0, "::1")
    try:
        with urllib.request.urlopen(f"http://[::1]:{server.port}/metrics") as answer:
            assert answer.status == 200
    finally:
        server.close()


def test_two_nodes_in_one_process_export_separately_and_a_taken_port_is_named():
    first = PrometheusServer(Metrics(), 0)
    second = PrometheusServer(Metrics(), 0)
    try:
        with pytest.raises(OSError, match=f"cannot serve metrics on 127.0.0.1:{first.port}"):
            PrometheusServer(Metrics(), first.port)
    finally:
        first.close()
        second.close()


def test_idle_connections_keep_no_probe_out_and_are_bounded():
    server = PrometheusServer(Metrics(), 0, probes={"/healthz": list})
    try:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        for each in idle:
            each.sendall(b"GET /metrics HTTP/1.1\r\nX-a: ")
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=60) as answer:
            assert answer.status == 200
        assert len(server._server._open) <= OPEN_REQUESTS
        for each in idle:
            each.close()
    finally:
        server.close()
