"""What a run leaves to look at: log.jsonl, a plot of it, and source beside reconstruction as PNG."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamtok.evaluation.layouts import video_to_unit
from streamtok.evaluation.metrics import psnr
from streamtok.io.media import write_png
from streamtok.measures import entropy_bits
from streamtok.model.decoding import to_uint8
from streamtok.training.config import TrainConfig
from streamtok.training.data import Cache
from streamtok.training.step import Step

log = logging.getLogger("streamtok.training")


class Journal:
    """Appends JSON lines to out/log.jsonl; on resume, lines from the step resumed at onwards are dropped first."""

    def __init__(self, folder: Path, start: int):
        self.path = folder / "log.jsonl"
        kept = [line for line in read_journal(self.path) if line["step"] < start] if start else []
        with open(self.path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One line; floats are rounded to six digits."""
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
        line = {"kind": kind, "step": step, **rounded}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        log.info(" ".join(f"{k}={v}" for k, v in line.items()))


def read_journal(path: Path) -> list[dict]:
    """The lines of a log.jsonl; a last line cut off by a crash is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            log.warning("event=cut_off_line file=%s", path)
    return lines


def plot(folder: Path) -> Path | None:
    """Draw log.jsonl into curve.png; None when matplotlib is missing (pip install 'streamtok[plot]')."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        log.warning("event=no_plot reason=matplotlib is missing; pip install 'streamtok[plot]'")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = read_journal(folder / "log.jsonl")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    steps = [line for line in lines if line["kind"] == "train"]
    for name in sorted({k.removeprefix("loss_") for line in steps for k in line if k.startswith("loss_")}):
        points = [(line["step"], line[f"loss_{name}"]) for line in steps if f"loss_{name}" in line]
        left.semilogy(*zip(*points, strict=True), label=name)
    checks = [line for line in lines if line["kind"] == "validate"]
    right.plot([line["step"] for line in checks], [line["psnr"] for line in checks], marker="o", label="held-out clips")
    left.set(xlabel="step", title="training losses")
    right.set(xlabel="step", title="PSNR, dB")
    for axis in (left, right):
        if axis.lines:
            axis.legend()
    path = folder / "curve.png"
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


@torch.no_grad()
def validate(step: Step, cache: Cache, config: TrainConfig, number: int) -> dict[str, float]:
    """Judge the averaged weights on the first frames of every held-out clip, and save a PNG of them.

    Returns psnr (mean over clips), psnr_first and psnr_last (of the first and the last group), and entropy in bits.
    """
    results, tokens, rows = [], [], []
    last = slice(-max(1, (config.sample_frames - 1) // 4), None)
    step.average.swap()
    step.model.eval()
    try:
        for name in cache.names:
            video = _fitting(cache.clip(name, config.sample_lines)[: config.sample_frames])
            with step.autocast():
                output = step.model(video, state=None)
            shown = output.reconstruction.float()
            source, rebuilt = (video_to_unit(frames[0]) for frames in (video, shown))
            results.append([psnr(source[part], rebuilt[part]) for part in (slice(None), slice(1), last)])
            tokens += [output.indices.flatten()] if output.indices is not None else []
            rows.append(_side_by_side(video[0], shown[0]))
    finally:
        step.model.train()
        step.average.swap()
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows])
    write_png(Path(config.out) / f"sample_{number:07d}.png", sheet)
    mean = np.mean(results, axis=0)
    summary = {"psnr": float(mean[0]), "psnr_first": float(mean[1]), "psnr_last": float(mean[2])}
    if not tokens:
        return summary
    return summary | {"entropy": entropy_bits(torch.cat(tokens).unique(return_counts=True)[1].cpu().numpy())}


def _fitting(frames: Tensor) -> Tensor:
    """(T, 3, H, W) uint8 -> (1, 3, T, H, W) in -1..1 with sides cut to multiples of 16."""
    height, width = (side // 16 * 16 for side in frames.shape[-2:])
    return frames[:, :, :height, :width].float().div(127.5).sub(1).movedim(0, 1)[None]


def _side_by_side(source: Tensor, shown: Tensor) -> np.ndarray:
    """(3, T, H, W) twice -> (H, 4 W, 3) uint8: the first and the last frame, each with its reconstruction."""
    pairs = [to_uint8(v[:, [i]])[0] for i in (0, -1) for v in (source, shown)]
    return np.concatenate(pairs, axis=1)
