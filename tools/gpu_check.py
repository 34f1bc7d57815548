"""Check and measure this machine's GPU: kernels against references, graphs against eager, precisions, speed.

Needs torch and triton, no network and no installation; runs from a plain copy of the repository:

    python tools/gpu_check.py --out gpu_check.json
    python tools/gpu_check.py --parts machine,kernels,step --max-seconds 100

Parts: machine, compile, kernels, prepare, agreement, step, tests, bench (or its rows: bench0, bench1...), start, tune.
Each runs in its own process with a time limit, and writes its result to the JSON at once. One that fails, crashes or
hangs is recorded, and the next one runs. All of them end within `--max-seconds`; skipped ones are named.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    """Run the parts; returns 1 if a check failed, 2 for a usage error or without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", default="machine,kernels,prepare,agreement,step,tests,bench,start,tune", help="comma-separated"
    )
    parser.add_argument("-o", "--out", default="gpu_check.json")
    parser.add_argument("--max-seconds", type=float, default=540.0)
    arguments = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))  # a copy that is not installed
    try:
        import torch

        from benchmarks.gpu import check
    except ImportError as error:
        print(f"gpu_check: {error}; it needs torch, numpy, safetensors and, for the kernels, triton", file=sys.stderr)
        return 2
    parts = [part for part in arguments.parts.split(",") if part]
    known = [*check.GROUPS, *check.PARTS]
    unknown = sorted(set(parts) - set(known))
    if unknown:
        print(f"gpu_check: unknown parts {unknown}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available() and set(parts) - set(check.WITHOUT_GPU):
        print(
            "gpu_check: no CUDA device. Without one, `--parts compile` builds the kernels for Hopper, and `make test` "
            "runs them in Triton's interpreter; both need triton (pip install triton)",
            file=sys.stderr,
        )
        return 2
    report = check.run_parts(parts, Path(arguments.out), time.monotonic() + arguments.max_seconds)
    print(json.dumps({"out": arguments.out} | {name: report[name] for name in ("seconds", "failed", "skipped")}))
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
