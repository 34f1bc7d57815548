"""Writes and reads the log of a run, log.jsonl, and plots its curves."""

import json
import logging
from pathlib import Path

log = logging.getLogger("streamtok.training")


class Journal:
    """Appends JSON lines to log.jsonl in `folder`; old lines from step `start` on are dropped first."""

    def __init__(self, folder: Path, start: int):
        self.path = folder / "log.jsonl"
        kept = [line for line in read_journal(self.path) if line["step"] < start] if start else []
        with open(self.path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)

    def write(self, kind: str, step: int, **values: float) -> None:
        """Append a line, with floats rounded to six digits, and log it."""
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
        line = {"kind": kind, "step": step, **rounded}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        log.info(" ".join(f"{k}={v}" for k, v in line.items()))


def read_journal(path: Path) -> list[dict]:
    """The lines of a log.jsonl, without any that a crash cut off; none if there is no such file."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            log.warning("event=cut_off_line file=%s", path)
    return lines


def find_first_validation(folder: Path) -> dict[str, float]:
    """The figures of the held-out clips before the first step; empty if they were not logged."""
    lines = (line for line in read_journal(folder / "log.jsonl") if line["kind"] == "validate" and line["step"] == 0)
    return {name: value for name, value in next(lines, {}).items() if name not in ("kind", "step", "seconds")}


def plot_curves(folder: Path) -> Path | None:
    """Plot log.jsonl into curve.png; None if matplotlib is missing (pip install 'streamtok[plot]')."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.warning("event=no_plot reason=matplotlib is missing; pip install 'streamtok[plot]'")
        return None
    lines = read_journal(folder / "log.jsonl")
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
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
    return path
