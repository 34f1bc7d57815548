"""From capture to subscriber: a real ingest node and a real reader over ipc, with synthetic cameras in real time."""

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from streamtok.bench.timing import percentiles
from streamtok.engine.engine import OptimizedTokenizer


def end_to_end(
    fast: OptimizedTokenizer, size: tuple[int, int], cameras: int = 1, fps: float = 30.0, seconds: float = 30.0
) -> dict[str, Any]:
    """Milliseconds from the capture of each group's last frame to its arrival at a reader, and of transport alone.

    The cameras are synthetic; capture, encoding and publishing run in one node, the reader in this process.
    """
    from streamtok.runtime.ingest import IngestNode
    from streamtok.settings import RigSettings
    from streamtok.wire.subscriber import subscribe

    height, width = size
    source = f"synthetic:{height}x{width}@{fps:g}?seed=%d&frames={round(seconds * fps)}"
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        endpoint = f"ipc://{Path(folder) / 'tokens'}"
        streams: list[Any] = [
            {"name": f"cam{i}", "source": source % i, "realtime": True, "policy": "latest"} for i in range(cameras)
        ]
        settings = RigSettings(bind=endpoint, streams=streams, wait_subscribers=1)
        node = IngestNode(settings, tokenizer=fast)
        summary: dict[str, Any] = {}
        worker = threading.Thread(target=lambda: summary.update(node.run()), daemon=True)
        worker.start()
        whole, transport = [], []
        with subscribe(endpoint, timeout=30.0, until_end=True) as reader:
            for message in reader:
                now, header = time.monotonic_ns(), message.header
                whole.append((now - header.capture_ns[-1]) / 1e6)
                transport.append((now - header.publish_ns) / 1e6)
        worker.join(10.0)
    if not whole:
        raise RuntimeError("no message reached the reader; the node's log says why")
    dropped = sum(stream.get("dropped", 0) for stream in summary.get("streams", {}).values())
    return {
        "seconds": seconds, "messages": len(whole), "dropped_frames": dropped,
        "capture_to_reader": percentiles(whole[2:] or whole),
        "publish_to_reader": percentiles(transport[2:] or transport),
        "node_latency_ms": summary.get("latency_ms", {}),
    }  # fmt: skip
