"""The figures of docs/exactness.md: how far streams, whole clips, modes and precisions are apart, on one machine."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from streamtok.engine.loading import load
from streamtok.model import Encoded, Tokenizer


@dataclass(frozen=True)
class Row:
    """One comparison: what was compared, on what, and what was found."""

    comparison: str
    model: str
    found: str


def synthetic_clip(frames: int, height: int, width: int, seed: int = 7) -> Tensor:
    """The synthetic drive as (1, 3, T, H, W) uint8."""
    from streamtok.io.source import open_source

    images = []
    with open_source(f"synthetic:{height}x{width}@30?seed={seed}&frames={frames}", realtime=False) as source:
        images = [torch.from_numpy(frame.image) for frame in source]
    return torch.stack(images).permute(3, 0, 1, 2)[None].contiguous()


def by_steps(model: Tokenizer, clip: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Latent (B, C, T', h, w) and indices (B, T', h, w) of a clip, one group per step."""
    stream = model.stream(slots=len(clip), height=clip.shape[-2], width=clip.shape[-1], dtype=dtype)
    outs = [stream.step(part) for part in (clip[:, :, :1], *clip[:, :, 1:].split(model.group, 2))]
    return torch.cat([out.latent for out in outs], 2), torch.cat([indices_of(out) for out in outs], 1)


def indices_of(out: Encoded) -> Tensor:
    """The indices of a discrete model's output."""
    if out.indices is None:
        raise ValueError("exactness is measured on tokens, and a continuous model has none; name a discrete preset")
    return out.indices


def cpu_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median process time of a call, all threads together: less moved by other work on the machine than wall time."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return sorted(times[1:])[repeats // 2]


def measure(
    name: str = "nano", frames: int = 17, height: int = 256, width: int = 448, repeats: int = 3
) -> Iterator[Row]:
    """Compare the ways to encode one synthetic clip with one discrete preset."""
    plain, deterministic = load(name), load(name, deterministic=True)
    clip = synthetic_clip(frames, height, width)
    whole = plain.encode(clip)
    latent, indices = by_steps(plain, clip)
    yield _compare("steps against the whole clip", name, latent, whole.latent, indices, indices_of(whole))
    exact = deterministic.encode(clip)
    latent, indices = by_steps(deterministic, torch.cat([clip, clip.flip(2)]))
    yield _compare(
        "deterministic: two slots against the whole clip",
        name,
        latent[:1],
        exact.latent,
        indices[:1],
        indices_of(exact),
    )
    wide = load(name).double()
    reference = wide.encode(clip)
    yield _compare(
        "float32 against float64", name, whole.latent, reference.latent, indices_of(whole), indices_of(reference)
    )
    latent, indices = by_steps(plain, clip, torch.bfloat16)
    yield _compare("bfloat16 against float32, steps", name, latent, whole.latent, indices, indices_of(whole))
    ratio = cpu_seconds(lambda: deterministic.encode(clip), repeats) / cpu_seconds(lambda: plain.encode(clip), repeats)
    yield Row("deterministic: CPU time of a whole clip, against the plain mode", name, f"{ratio:.2f} times")
    four = clip[:, :, :5].expand(4, -1, -1, -1, -1)
    ratio = cpu_seconds(lambda: by_steps(deterministic, four), repeats) / cpu_seconds(
        lambda: by_steps(plain, four), repeats
    )
    yield Row("deterministic: CPU time of a four-slot stream, against the plain mode", name, f"{ratio:.2f} times")


def _compare(what: str, model: str, latent: Tensor, want: Tensor, indices: Tensor, wanted: Tensor) -> Row:
    apart = (latent.double() - want.double()).abs().max()
    differing = int((indices != wanted).sum())
    bits = ", bit-identical" if torch.equal(latent, want) else ""
    return Row(what, model, f"latents within {apart:.1e}{bits}; {differing} of {wanted.numel():,} tokens differ")
