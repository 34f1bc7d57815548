"""What each precision costs and changes on one clip: milliseconds, tokens, and the pictures that its tokens give."""

from typing import Any

import torch
from torch import Tensor

from streamtok.engine.precision import Trial, moving_scene
from streamtok.model import Tokenizer
from streamtok.model.decoding import GridDecoder


def read_clip(source: str | None, size: tuple[int, int], frames: int) -> Tensor:
    """uint8 (1, 3, frames, H, W) from the start of a file or any other source; None: `moving_scene`.

    ValueError if it has fewer frames.
    """
    if source is None:
        return moving_scene(size, frames)
    from streamtok.io.source import open_frames, resize_frames

    with open_frames(source, max_frames=frames) as opened:
        images = [torch.from_numpy(frame.image) for frame in resize_frames(opened.frames, size)]
    if len(images) < frames:
        raise ValueError(f"{source} has {len(images)} frames, {frames} are needed")
    return torch.stack(images).permute(3, 0, 1, 2)[None].contiguous()


def describe_trials(tok: Tokenizer, trials: dict[str, Trial], clip: Tensor, device: str) -> dict[str, Any]:
    """Per precision: milliseconds per group, share of tokens equal to float32's, and the PSNR in dB of the clip's
    first frames as the float32 decoder shows those tokens."""
    return {
        name: {"ms": trial.ms, "agreement": trial.agreement, "psnr": _psnr(tok, trial.tokens, clip, device)}
        for name, trial in trials.items()
    }


def _psnr(tok: Tokenizer, tokens: Tensor, clip: Tensor, device: str) -> float:
    from streamtok.evaluation.metrics import as_unit, psnr

    decoder = GridDecoder(tok, device=device)
    shown = [decoder.frames(grid[0], i == 0).cpu() for i, grid in enumerate(tokens.split(1, -3))]
    decoded = torch.cat(shown, 1).transpose(0, 1)
    return psnr(as_unit(clip[0, :, : len(decoded)].transpose(0, 1)), as_unit(decoded))
