"""Checks every GPU kernel against plain PyTorch in float32: random data, poisoned outputs, sizes with ragged edges."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from streamtok.engine.gpu.kernels import attention, fsq, haar, norm, ring_attention, spatial, temporal
from streamtok.model.frames import to_float
from streamtok.model.quantizer import FSQ, fsq_tables
from streamtok.model.wavelet import haar as plain_haar
from streamtok.model.wavelet import haar_matrix

CL = torch.channels_last


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted|| of two tensors of one shape; NaN stays NaN."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


class Case:
    """Makes random tensors of one dtype on one device, the same in every run."""

    def __init__(self, device: str, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator(device).manual_seed(0)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(*shape, device=self.device, generator=self.generator)
        return (values * scale).to(self.dtype)


def check_norm(new: Case, size: tuple[int, int], channels: int) -> float:
    """Check GroupNorm and SiLU with padded edges, from its own moments."""
    x = (new(2, channels, *size, scale=3) + 5).to(memory_format=CL)
    weight, bias = new(channels), new(channels)
    found = norm.norm_silu(x, weight, bias, edge=1)
    wanted = F.silu(F.group_norm(x.float(), 1, weight.float(), bias.float(), eps=1e-6))
    return relative_error(found, F.pad(wanted.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)))


def check_conv3x3(new: Case, size: tuple[int, int], channels: int, out_channels: int) -> float:
    """Check the spatial convolution, into a new tensor and into a ring."""
    x = new(2, channels, *size).to(memory_format=CL)
    weight, bias = new(out_channels, channels, 3, 3, scale=(9 * channels) ** -0.5), new(out_channels)
    padded, packed = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous(), spatial.pack_weight(weight)
    wanted = F.conv2d(x.float(), weight.float(), bias.float(), padding=1)
    ring = torch.full((2, 3, *size, out_channels), torch.nan, device=x.device, dtype=x.dtype)
    spatial.conv3x3(padded, packed, bias, ring, torch.tensor([0, 4], device=x.device))
    into_ring = torch.stack([ring[0, 0], ring[1, 1]]).permute(0, 3, 1, 2)
    return max(relative_error(spatial.conv3x3(padded, packed, bias), wanted), relative_error(into_ring, wanted))


def check_causal_conv(new: Case, size: tuple[int, int], channels: int, steps: int = 1) -> float:
    """Check four steps of the temporal convolution from a fresh start, with residual, and its moments by a norm."""
    slots, out_channels, worst = 2, channels, 0.0
    weight, bias = new(3, out_channels, channels, scale=(3 * channels) ** -0.5), new(out_channels)
    ring = torch.full((slots, 2 + steps, *size, channels), torch.nan, device=new.device, dtype=new.dtype)
    count = torch.zeros(slots, dtype=torch.long, device=new.device)
    past = None
    for step in range(4):
        x = new(slots * steps, channels, *size).to(memory_format=CL)
        residual = new(slots * steps, out_channels, *size).to(memory_format=CL)
        for t in range(steps):
            ring[:, (step * steps + t) % ring.shape[1]] = x.unflatten(0, (slots, steps))[:, t].permute(0, 2, 3, 1)
        y, known = temporal.causal_conv(ring, count, weight, bias, steps, residual=residual, want_moments=True)
        frames = x.unflatten(0, (slots, steps)).float()
        past = frames[:, :1].expand(-1, 2, -1, -1, -1) if past is None else past
        joined = torch.cat([past, frames], 1)
        taps = [torch.einsum("btchw,dc->btdhw", joined[:, k : k + steps], weight[k].float()) for k in range(3)]
        wanted = (taps[0] + taps[1] + taps[2]).flatten(0, 1) + bias.float()[:, None, None] + residual.float()
        ones, zeros = torch.ones_like(bias), torch.zeros_like(bias)
        normed = norm.norm_silu(y, ones, zeros, known=known).permute(0, 3, 1, 2)
        worst = max(worst, relative_error(y, wanted), relative_error(normed, F.silu(F.group_norm(wanted, 1, eps=1e-6))))
        past = joined[:, -2:]
        count += 1
    return worst


def check_attention(new: Case, length: int, channels: int, kind: str) -> float:
    """Check spatial attention on slices of one projection, as the fused layer calls it."""
    rows = 16 if length < 512 else None  # small tiles for Triton's interpreter
    q, k, v = new(2, length, 3 * channels).chunk(3, -1)
    small = {"rows": rows, "columns": 16} if kind == "flash" else {"rows": 2 * rows, "tile": (16, 32)} if rows else {}
    found = getattr(attention, kind)(q, k, v, **(small if rows else {}))
    return relative_error(found, F.scaled_dot_product_attention(q.float(), k.float(), v.float()))


def check_ring(new: Case, places: int, channels: int, context: int) -> float:
    """Check temporal attention over a ring, from a fresh start until it has wrapped around."""
    slots, worst = 2, 0.0
    history: list[tuple[Tensor, Tensor]] = []
    keys, values = (
        torch.full((slots, places, context, channels), torch.nan, device=new.device, dtype=new.dtype) for _ in range(2)
    )
    count = torch.zeros(slots, dtype=torch.long, device=new.device)
    for _ in range(context + 2):
        q, k, v = (new(slots, places, channels) for _ in range(3))
        history = [*history, (k.float(), v.float())][-context:]
        found = ring_attention.over_ring(q, k, v, keys, values, count)
        past_k, past_v = (torch.stack(part, 2) for part in zip(*history, strict=True))
        wanted = F.scaled_dot_product_attention(q.float()[:, :, None], past_k, past_v)[:, :, 0]
        worst = max(worst, relative_error(found, wanted))
        count += 1
    return worst


def check_fsq(new: Case) -> float:
    """The share of indices that differ from plain PyTorch's."""
    levels = (8, 8, 8, 5, 5, 5)
    z = new(2, 6, 45, 80, scale=2)
    wanted = FSQ(levels)(z).indices
    found = fsq.fsq_pack(z, fsq_tables(levels, torch.float32, torch.device(new.device)))
    return float((found != wanted).float().mean())


def check_haar(new: Case) -> float:
    """Check the Haar bands of uint8 frames, with padded edges."""
    frames = torch.randint(0, 256, (2, 3, 8, 40, 56), dtype=torch.uint8, device=new.device, generator=new.generator)
    signs = (haar_matrix(4, "thw", torch.float32, torch.device("cpu")) * 64).T.half().contiguous().to(new.device)
    found = haar.haar_bands(frames, signs, new.dtype, edge=1)
    wanted = plain_haar(to_float(frames, torch.float32), 4)
    return relative_error(found, F.pad(wanted.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)))


def all_checks(device: str, dtype: torch.dtype, small: bool = False) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield (name, check) of every kernel; a check returns the relative error (of FSQ, the share of other indices)."""
    new = Case(device, dtype)
    size, channels, length = ((6, 10), 32, 70) if small else ((45, 77), 512, 2000)
    yield "norm_silu", partial(check_norm, new, size, channels)
    yield "conv3x3", partial(check_conv3x3, new, size, channels, 2 * channels)
    yield "conv3x3 narrow", partial(check_conv3x3, new, size, channels, 16)
    for steps in (1, 2):
        yield f"causal_conv T={steps}", partial(check_causal_conv, new, size, channels, steps)
    for kind in ("flash", "strips"):
        yield kind, partial(check_attention, new, length, channels, kind)
    yield "ring", partial(check_ring, new, 20 if small else 500, channels, 4 if small else 32)
    yield "fsq", partial(check_fsq, new)
    yield "haar", partial(check_haar, new)


TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
FSQ_TOLERANCE = 2e-4  # tanh of two libraries may fall on different sides of a rounding boundary
