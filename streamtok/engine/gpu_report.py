"""Runs the parts of `gpu_check` one after the other and writes one JSON as they finish."""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamtok.engine import gpu_parts

PARTS: dict[str, Callable[[], Any]] = {
    "machine": gpu_parts.machine,
    "kernels": gpu_parts.kernels,
    "agreement": gpu_parts.agreement,
    "step": gpu_parts.step,
    "tune": gpu_parts.tune,
}


TIMED = ("tune",)  # parts that watch the deadline themselves


def run(parts: list[str], out: Path, deadline: float) -> dict[str, Any]:
    """Run the named parts until `deadline` (monotonic seconds); each entry is written as soon as it is there."""
    report: dict[str, Any] = {"schema": 1, "parts": {}, "seconds": {}, "failed": [], "skipped": []}
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        begin = time.monotonic()
        if begin > deadline:
            report["skipped"].append(part)
            continue
        gpu_parts.say(f"== {part}")
        try:
            report["parts"][part] = PARTS[part](deadline) if part in TIMED else PARTS[part]()
            if _failed(report["parts"][part]):
                report["failed"].append(part)
        except Exception:  # a part that fails is part of the report; the next one may still run
            report["failed"].append(part)
            report["parts"][part] = {"error": traceback.format_exc()[-3000:]}
            gpu_parts.say(report["parts"][part]["error"])
        report["seconds"][part] = round(time.monotonic() - begin, 1)
        out.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _failed(result: Any) -> bool:
    return any(isinstance(entry, dict) and entry.get("ok") is False for entry in result.values())
