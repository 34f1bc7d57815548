"""One process that loads a model and encodes one frame: what `measure_start` times where an ingest node cannot run.

    python -m streamtok.bench.first_step MODEL HEIGHT WIDTH DEVICE THREADS

Once the tokens are on the host it prints the engine configuration as one line of JSON.
"""

import json
import sys

from streamtok.node.process import share_cores


def main(argv: list[str]) -> int:
    """Load, step, print."""
    share_cores()
    import torch

    from streamtok.engine.loading import load
    from streamtok.engine.optimized import OptimizedTokenizer
    from streamtok.evaluation.layouts import tokens_of

    name, height, width, device, threads = argv
    size = int(height), int(width)
    torch.set_num_threads(int(threads))
    tok = load(name, engine="auto", size=size, device=device)
    out = tok.stream(1, *size).step(torch.zeros(1, 3, 1, *size, dtype=torch.uint8, device=device), keyframe=[True])
    tokens_of(out).cpu()
    assert isinstance(tok, OptimizedTokenizer)
    print(json.dumps(tok.engine.to_dict()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
