"""Measures the figures of docs/exactness.md: how far streams, whole clips, modes and precisions differ here."""

from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor

from streamtok.bench.clips import encode_by_steps, read_clip
from streamtok.bench.timing import time_calls
from streamtok.engine.loading import load
from streamtok.engine.optimized import describe_engine
from streamtok.model import Encoded, Tokenizer

SIZE, REPEATS = (256, 448), 3


def measure_exactness(name: str, frames: int) -> Iterator[tuple[str, str]]:
    """Compare the ways to encode a synthetic clip of `frames` frames with a preset: what was compared, and the result.

    ValueError for a continuous preset.
    """
    plain, deterministic = load(name), load(name, deterministic=True)
    clip = read_clip(f"synthetic:{SIZE[0]}x{SIZE[1]}@30?seed=7&frames={frames}", SIZE, frames)
    whole, exact = plain.encode(clip), deterministic.encode(clip)
    if whole.indices is None:
        raise ValueError("exactness is measured on tokens, and a continuous model has none; name a discrete preset")

    yield "steps against the whole clip", _describe_distance(_encode_by_steps(plain, clip), whole)
    fast = load(name, engine="default", device="cpu")
    kind = describe_engine(fast).convolutions
    comparison = f"the CPU engine's steps ({kind} convolutions) against PyTorch's"
    yield comparison, _describe_distance(_encode_by_steps(fast, clip), whole)
    latent, indices = _encode_by_steps(deterministic, torch.cat([clip, clip.flip(2)]))
    yield "deterministic: two slots against the whole clip", _describe_distance((latent[:1], indices[:1]), exact)
    wide = load(name).double().encode(clip)
    yield "float32 against float64", _describe_distance((whole.latent, whole.indices), wide)
    narrow = _encode_by_steps(plain, clip, torch.bfloat16)
    yield "bfloat16 against float32, steps", _describe_distance(narrow, whole)

    def busy_ms(tok: Tokenizer, encode: Callable[[Tokenizer], object]) -> float:
        return median(time_calls(lambda _: encode(tok), REPEATS, warm_up=1)[1])

    def cost(encode: Callable[[Tokenizer], object]) -> str:
        return f"{busy_ms(deterministic, encode) / busy_ms(plain, encode):.2f} times"

    text = "deterministic: CPU time of a {}, against the plain mode"
    yield text.format("whole clip"), cost(lambda tok: tok.encode(clip))
    four = clip[:, :, :5].expand(4, -1, -1, -1, -1)
    yield text.format("four-slot stream"), cost(lambda tok: _encode_by_steps(tok, four))


def _encode_by_steps(tok: Tokenizer, clip: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Encode a clip (B, 3, T, H, W) by `encode_by_steps`, in a new stream of this precision."""
    slots, _, _, height, width = clip.shape
    return encode_by_steps(tok.stream(slots, height, width, dtype=dtype), clip)


def _describe_distance(found: tuple[Tensor, Tensor], wanted: Encoded) -> str:
    """Describe how far latents (B, C, T', h, w) and indices (B, T', h, w) are from the wanted ones."""
    latent, indices = found
    apart = (latent.double() - wanted.latent.double()).abs().max()
    bits = ", bit-identical" if torch.equal(latent, wanted.latent) else ""
    differing = int(torch.ne(indices, wanted.tokens).sum())
    return f"latents within {apart:.1e}{bits}; {differing} of {indices.numel():,} tokens differ"
