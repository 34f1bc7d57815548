"""A capture that fails leaves PyTorch as it found it: what a GPU would do is played by stand-ins."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from streamtok.engine.configuration import EngineError
from streamtok.engine.gpu.graph import CapturedStep


class Device:
    """PyTorch's streams and allocator, as far as a capture changes them."""

    def __init__(self, monkeypatch):
        self.current = self.default = SimpleNamespace(device_index=0, wait_stream=lambda other: None)
        self.capturing, self.uses = [], {}
        side = SimpleNamespace(wait_stream=lambda other: None)
        parts = {
            "CUDAGraph": lambda: SimpleNamespace(reset=lambda: None),
            "Stream": lambda: side,
            "current_stream": lambda: self.current,
            "set_stream": lambda stream: setattr(self, "current", stream),
            "stream": contextlib.nullcontext,
            "graph": self.graph,
            "graph_pool_handle": lambda: (0, 1),
        }
        for name, stand_in in parts.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self.release, raising=False)

    @contextlib.contextmanager
    def graph(self, graph, pool, capture_error_mode):
        self.capturing.append(pool)
        self.uses[pool] = self.uses.get(pool, 0) + 1
        self.current = "the capture's"
        yield  # what follows is left out if the block raises, as in torch.cuda.graph when the capture is invalid
        self.capturing.remove(pool)
        self.current = self.default

    def end(self, device, pool):
        if pool not in self.capturing:
            raise RuntimeError("not currently recording to mempool_id")
        self.capturing.remove(pool)

    def release(self, device, pool):
        self.uses[pool] -= 1


def step(fails_at):
    """A step function that raises at one of its calls: three warm-ups, then the capture."""
    calls = []

    def run(frames, active, keyframe):
        calls.append(frames)
        if len(calls) == fails_at:
            raise RuntimeError("operation not permitted when stream is capturing")
        return frames, active

    return run


@pytest.mark.parametrize(("fails_at", "uses"), [(2, {}), (4, {(0, 1): 0})])
def test_a_failed_capture_is_undone(monkeypatch, fails_at, uses):
    device = Device(monkeypatch)
    with pytest.raises(EngineError, match=r"could not be captured.*not permitted"):
        CapturedStep(step(fails_at), torch.zeros(1, 3))
    assert device.current is device.default
    assert (device.capturing, device.uses) == ([], uses)


def test_a_capture_that_succeeds_keeps_its_memory(monkeypatch):
    device = Device(monkeypatch)
    CapturedStep(step(0), torch.zeros(1, 3), (0, 7))
    assert (device.capturing, device.uses) == ([], {(0, 7): 1})
