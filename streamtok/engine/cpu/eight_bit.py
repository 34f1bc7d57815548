"""Precision "int8": the encoder's 3x3 convolutions in 8 bits, with dynamic quantization of activations.

Weights have a scale per output channel. Activations have one scale and one zero point per frame, from that frame's
range. Products are integers summed in 32 bits, so they are exact: independent of order, thread count and batch, and the
same on a CPU and a GPU. Norms, the first and the last convolution, resampling, temporal convolutions and the quantizer
stay in floating point: they cost less and lose more (docs/performance.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.engine.rebuild import exchange_modules
from streamtok.model.blocks import ResBlock
from streamtok.model.layers import SpatialConv
from streamtok.model.tokenizer import Tokenizer

EIGHT_BITS = "this tokenizer's engine holds its convolutions in 8 bits"
STEPS = 254  # quantization steps over a frame's range: one less than a byte has, so that rounding never overflows it
TINY = torch.finfo(torch.float32).tiny
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")


def quantize_frame(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """rows (H, W, C) float32 that contain a 0 -> uint8 or int8 rows, scale and zero point, both float32 scalars.

    A value is scale * (byte - zero point). 0 is exact, as padding must be. Values that are not finite make the scale
    not finite.
    """
    low, high = rows.amin(), rows.amax()
    scale = ((high - low) / STEPS).clamp_min(TINY)
    zero = torch.iinfo(dtype).min - (low / scale).round()
    return (rows / scale).round_().add_(zero).to(dtype), scale, zero


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (D, C, 3, 3) -> int8 weight, of largest magnitude 127 in each output channel, and scales (D,)."""
    weight = weight.detach().float()
    scale = (weight.abs().amax((1, 2, 3)) / 127).clamp_min(TINY)
    return (weight / scale.view(-1, 1, 1, 1)).round().to(torch.int8), scale


class EightBitConv(nn.Module):
    """A 3x3 convolution with zero padding in 8 bits. x (N, C, H, W) -> (N, D, H, W), in the precision of x.

    It runs frame by frame, since each has its own scale: on a CPU by oneDNN, elsewhere by im2col and a matrix product.
    """

    scale: Tensor
    sums: Tensor
    bias: Tensor

    def __init__(self, conv: SpatialConv):
        super().__init__()
        weight, scale = quantize_weight(conv.weight)
        rows = weight.permute(0, 2, 3, 1).flatten(1)
        assert conv.bias is not None
        self.bias, self.onednn = conv.bias, _ONEDNN and weight.device.type == "cpu"
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("sums", rows.sum(1, dtype=torch.int32), persistent=False)
        if self.onednn:
            ones = [1, 1]
            weight = torch.ops.onednn.qconv_prepack(weight, scale, 1.0, 1, ones, [0, 0], ones, 1, None)
        self.weight = nn.Parameter(weight if self.onednn else rows, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, D, H, W)."""
        convolve = self._by_onednn if self.onednn else self._by_columns
        frames = [F.pad(frame.float(), (0, 0, 1, 1, 1, 1)).contiguous() for frame in x.permute(0, 2, 3, 1)]
        return torch.cat([convolve(frame) for frame in frames]).to(x.dtype)

    def __deepcopy__(self, memo: object) -> "EightBitConv":
        """ValueError: a cast copies layers, and quantized weights cannot be cast back."""
        raise ValueError(f"{EIGHT_BITS}; cast a tokenizer that was loaded without an engine")

    def _by_onednn(self, frame: Tensor) -> Tensor:
        """frame (H + 2, W + 2, C) float32 -> (1, D, H, W) float32."""
        rows, scale, zero = quantize_frame(frame, torch.uint8)
        weight = (self.weight, self.scale, torch.zeros_like(self.sums), self.bias.float())
        geometry = ([1, 1], [0, 0], [1, 1], 1)  # stride, padding, dilation, groups
        output: tuple = (1.0, 0, torch.float32, "none", [], "")  # scale, zero point, dtype, no fused operation
        images = rows.permute(2, 0, 1)[None]
        return torch.ops.onednn.qconv2d_pointwise.tensor(images, scale, zero.int(), *weight, *geometry, *output)

    def _by_columns(self, frame: Tensor) -> Tensor:
        """As `_by_onednn`: (H + 2, W + 2, C) -> (N, D, H, W), N = 1."""
        rows, scale, zero = quantize_frame(frame, torch.int8)
        added = torch._int_mm(gather_columns(rows), self.weight.t()).sub_(zero.int() * self.sums)
        y = torch.addcmul(self.bias.float(), added.float(), scale * self.scale)
        return y.view(1, frame.shape[0] - 2, frame.shape[1] - 2, -1).permute(0, 3, 1, 2)


def gather_columns(rows: Tensor) -> Tensor:
    """im2col: rows (H + 2, W + 2, C) contiguous -> (H W, 9 C), the 3x3 neighbourhood of each pixel, tap slowest."""
    height, width, channels = rows.shape[0] - 2, rows.shape[1] - 2, rows.shape[2]
    down, right, _ = rows.stride()
    return rows.as_strided((height, width, 3, 3 * channels), (down, right, down, 1)).reshape(height * width, -1)


def quantize(model: Tokenizer) -> Tokenizer:
    """A copy of the model with the 3x3 convolutions of its encoder's residual blocks in 8 bits; it shares the rest.

    ValueError if the model or the machine does not support it.
    """
    reason = find_int8_obstacle(model)
    if reason:
        raise ValueError(f"precision int8 cannot run here: {reason}; use float32 or bfloat16")
    return model.with_modules(encoder=exchange_modules(model.encoder, _quantize_block)).eval()


def _quantize_block(module: nn.Module) -> nn.Module | None:
    """A residual block with its 3x3 convolutions in 8 bits."""
    return exchange_modules(module, _quantize_conv) if isinstance(module, ResBlock) else None


def _quantize_conv(module: nn.Module) -> nn.Module | None:
    return EightBitConv(module) if isinstance(module, SpatialConv) and module.kernel_size == (3, 3) else None


def find_int8_obstacle(model: Tokenizer) -> str | None:
    """Why this model cannot run in 8 bits on its device, or None."""
    odd = [n for n in (model.config.stem_channels, *model.config.encoder_channels) if n % 8]
    if odd:
        return f"channel counts {odd} are not multiples of 8"
    if not products_are_exact(model.device):
        return f"8-bit products on {model.device} are not added in 32 bits"
    return None


def products_are_exact(device: torch.device | str) -> bool:
    """Test with the largest values whether the device sums 8-bit products in 32 bits: some saturate pairs at 16."""
    conv = nn.utils.skip_init(SpatialConv, 16, 8, 3, padding=1, device=device)  # draws no random numbers
    nn.init.constant_(conv.weight, 127.0)
    nn.init.zeros_(conv.bias)
    frame = torch.full((1, 16, 5, 5), float(STEPS), device=device)
    try:
        with torch.no_grad():
            return bool((EightBitConv(conv)(frame)[:, :, 1:-1, 1:-1] == 9 * 16 * 127 * STEPS).all())
    except (RuntimeError, NotImplementedError):
        return False
