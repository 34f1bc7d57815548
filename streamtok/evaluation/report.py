"""Writes an evaluation as report.md, report.json and contact_sheet.png into one folder."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from streamtok.evaluation.drift import Drift, Seam, StillCurve
from streamtok.evaluation.evaluate import Evaluation
from streamtok.evaluation.pictures import contact_sheet
from streamtok.evaluation.suite import Baseline, SuiteResult
from streamtok.io.images.stills import write_png

DEFINITIONS = (
    "PSNR of a clip: -10 log10 of the mean squared error over all its frames, channels and pixels, values 0..1; the "
    "figure is the mean over clips. SSIM: Gaussian window 11, sigma 1.5, valid places only, mean over RGB and frames. "
    "Pooled entropy: of one histogram over all tokens of all clips, in bits per token."
)
_FURTHER = {  # further metrics: name in the JSON -> (heading, format)
    "ms_ssim": ("MS-SSIM", "{:.4f}"),
    "warping_error": ("warping error, grey levels", "{:.2f}"),
    "warping_error_source": ("the same of the original", "{:.2f}"),
    "flicker": ("change of the coding error along motion, grey levels", "{:.2f}"),
    "group_edge_pulse": ("that change at group edges over elsewhere (1 = none)", "{:.2f}"),
    "coded_bits": ("bits per token by the token coder", "{:.2f}"),
    "late_gain": ("late frames in the stream against the same after a reset, dB", "{:+.2f}"),
    "grid": ("token-grid visibility (1 = none)", "{:.3f}"),
}
SOURCE = "the TokenBench repository's README (NVlabs/TokenBench), at the time of the Cosmos 0.1 tokenizers"
CAUTION = (
    "Measured elsewhere, by others, on other data: high-resolution TokenBench clips, with their own script, one "
    "version of which subtracts 8-bit arrays without widening them and so reads too high. Do not compare row by row."
)
PUBLISHED = (  # by the Cosmos authors, on TokenBench: name, time x height x width, bottleneck, PSNR in dB, SSIM, rFVD
    ("Cosmos-DV", "4x8x8", "FSQ", 35.137, 0.887, 19.672),
    ("Cosmos-DV", "8x8x8", "FSQ", 34.746, 0.872, 43.865),
    ("Cosmos-DV", "8x16x16", "FSQ", 33.718, 0.828, 113.481),
    ("VideoGPT", "4x4x4", "VQ", 35.119, 0.914, 13.855),
    ("OmniTokenizer", "4x8x8", "VQ", 30.152, 0.827, 53.553),
    ("Cosmos-CV", "4x8x8", "AE", 37.270, 0.928, 6.849),
    ("Cosmos-CV", "8x8x8", "AE", 36.856, 0.917, 11.624),
    ("Cosmos-CV", "8x16x16", "AE", 35.158, 0.875, 43.085),
    ("CogVideoX", "4x8x8", "VAE", 33.149, 0.908, 6.970),
    ("OmniTokenizer", "4x8x8", "VAE", 29.705, 0.830, 35.867),
)


@dataclass(frozen=True)
class Run:
    """How an evaluation was run, so that it can be repeated."""

    command: str
    model: str  # as the command names it: a preset, or where the weights are
    fingerprint: str
    device: str
    lines: int | None
    frames: int

    def to_dict(self) -> dict:
        """Plain values for JSON, with the versions of torch and Python."""
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        return asdict(self) | {"lines": self.lines or "native"} | versions | {"definitions": DEFINITIONS}


def write_report(folder: Path, result: SuiteResult, run: Run) -> list[Path]:
    """Write the report's three files into `folder` (created if missing); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    report, values, sheet = folder / "report.md", folder / "report.json", folder / "contact_sheet.png"
    values.write_text(json.dumps({"run": run.to_dict(), **result.to_dict()}, indent=1) + "\n")
    write_png(sheet, contact_sheet(result.samples))
    report.write_text(format_markdown(result, run, sheet.name))
    return [report, values, sheet]


def format_markdown(result: SuiteResult, run: Run, sheet: str | None = None) -> str:
    """The report as Markdown; `sheet` is the file name of the contact sheet beside it."""
    found = result.evaluation
    size = "native size" if run.lines is None else f"{run.lines} lines"
    name = run.model if run.model == found.model else f"{run.model} ({found.model})"
    parts = [
        f"# {name} on {len(found.clips)} clips, {size}, first {run.frames} frames at most",
        f"`{run.command}`\n\nWeights `{run.fingerprint}`, {run.device}, torch {torch.__version__}. {DEFINITIONS}",
        _format_summary(result),
        _format_over_time(found),
    ]
    parts += [_format_baselines(found, result.baselines)] if result.baselines else []
    parts += _format_stability(result.seam, result.still, result.drift)
    parts += [_format_codes(found.codes)] if found.codes else []
    parts += [_format_clips(found)]
    parts += [f"## Contact sheet\n\n![original, reconstruction, worst patch of both]({sheet})"] if sheet else []
    parts += [_format_published()]
    return "\n\n".join(parts) + "\n"


def format_scores(result: SuiteResult) -> list[str]:
    """The main figures, one per line, for a terminal."""
    return [f"{name:<52} {value}" for name, value in _list_figures(result)]


def format_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; cells are converted to text, and bars in them escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _list_figures(result: SuiteResult) -> list[tuple[str, str]]:
    found = result.evaluation
    figures = [("PSNR, dB", f"{found.psnr:.2f}"), ("SSIM", f"{found.ssim:.4f}")]
    if found.codes:
        figures.append(("pooled token entropy, bits", f"{found.codes['entropy_bits']:.2f}"))
    rates = [clip.bits_per_second for clip in found.clips if clip.bits_per_second is not None]
    if rates:
        figures.append(("token stream, kbit/s (mean over clips)", f"{sum(rates) / len(rates) / 1000:.0f}"))
    figures += [(_FURTHER[name][0], _FURTHER[name][1].format(value)) for name, value in found.extra_means().items()]
    figures += [("rFVD", f"{result.rfvd:.2f}")] if result.rfvd is not None else []
    figures += [("rFID", f"{result.rfid:.2f}")] if result.rfid is not None else []
    return figures


def _format_summary(result: SuiteResult) -> str:
    text = "## Summary\n\n" + format_table(("figure", "value"), _list_figures(result))
    skipped = result.evaluation.skipped
    if skipped:
        text += "\n\nSkipped: " + "; ".join(f"`{name}` ({reason})" for name, reason in skipped.items()) + "."
    damaged = result.evaluation.damaged
    if damaged:
        text += "\n\nDamaged frames left out: " + "; ".join(f"`{name}` ({n})" for name, n in damaged.items()) + "."
    return text


def _format_over_time(found: Evaluation) -> str:
    places = ["keyframe", *(f"place {i}" for i in range(1, len(found.psnr_by_place)))]
    text = "## PSNR by place in the group and by group\n\n" + format_table(
        places, [[f"{x:.2f}" for x in found.psnr_by_place]]
    )
    groups = found.psnr_by_group
    if len(groups) == 1:
        return text
    rows = []
    for start in range(1, len(groups), 8):
        values = [f"{x:.2f}" for x in groups[start : start + 8]]
        rows.append([f"from group {start}", *values, *[""] * (8 - len(values))])
    return text + "\n\n" + format_table(["", *(f"+{i}" for i in range(8))], rows)


def _format_baselines(found: Evaluation, baselines: Sequence[Baseline]) -> str:
    own = {clip.name: clip.psnr for clip in found.clips}
    rows = [[f"**{found.model}**", f"{found.psnr:.2f}", f"{found.ssim:.4f}", "100 %" if found.codes else "", ""]]
    for line in baselines:
        ahead = sum(own[name] > value for name, value in line.psnr_by_clip.items())
        share = "" if line.bits_share is None else f"{line.bits_share:.0%}".replace("%", " %")
        rows.append([line.name, f"{line.psnr:.2f}", f"{line.ssim:.4f}", share, f"{ahead} of {len(own)}"])
    head = ("", "PSNR, dB", "SSIM", "bits", f"clips on which {found.model} is ahead")
    return (
        "## Baselines, same clips and frames\n\n" + format_table(head, rows) + "\n\n"
        "Bits: share of the token stream's, which counts log2 of the codebook per token and no entropy coding. The "
        "codecs search the quality that just fits; with a token coder, also into the bits that it makes of the tokens."
    )


def _format_stability(seam: Seam | None, still: StillCurve | None, drift: Drift | None) -> list[str]:
    lines = []
    if seam:
        lines.append(
            f"Frames {seam.frame + 1}-{seam.frame + 8} in the running stream: {seam.in_stream:.2f} dB; after a reset "
            f"at frame {seam.frame}: {seam.after_reset:.2f} dB; difference {seam.gain:+.2f} dB."
        )
    if still:
        lines.append(
            f"A held still by group, the keyframe first, dB: {', '.join(f'{x:.2f}' for x in still.psnr)}. From the "
            f"first to the fourth {still.rise_to_fourth:+.2f} dB; deepest fall below the best after that "
            f"{still.worst_fall_after:.2f} dB."
        )
    if drift:
        lines.append(
            f"{drift.groups[-1]} groups without a keyframe, decoded in {drift.receiver} by a receiver: "
            f"{drift.loss:+.2f} dB lost at the end ({drift.encoder_psnr[-1]:.2f} dB by the encoder's arithmetic)."
        )
    return ["## Over a longer time", *lines] if lines else []


def _format_codes(codes: dict) -> str:
    rows = [
        ("tokens", f"{codes['tokens']:,}"),
        ("codes used", f"{codes['codes_used']:,} of {codes['codebook_size']:,}"),
        ("pooled entropy, bits", f"{codes['entropy_bits']:.2f} of {codes['bits_per_token']:.2f}"),
    ]
    for name, text in (("order_0_bits", "each digit by itself"), ("last_grid_bits", "given the digit one grid before")):
        rows += [(f"entropy of digits, {text}, bits per token", f"{codes[name]:.2f}")] if name in codes else []
    levels = codes.get("levels_used", [])
    rows += [(f"level {i} shares", ", ".join(f"{x:.3f}" for x in shares)) for i, shares in enumerate(levels)]
    return "## Codebook\n\n" + format_table(("", ""), rows)


def _format_clips(found: Evaluation) -> str:
    names = list(found.extra_means())
    head = ["clip", "size", "frames", "PSNR, dB", "SSIM", *(name.replace("_", " ") for name in names)]
    rows = [
        [clip.name, f"{clip.size[0]}x{clip.size[1]}", clip.frames, f"{clip.psnr:.2f}", f"{clip.ssim:.4f}"]
        + [_FURTHER[name][1].format(clip.extra[name]) for name in names]
        for clip in sorted(found.clips, key=lambda clip: clip.psnr)
    ]
    return "## Clips, worst first\n\n" + format_table(head, rows)


def _format_published() -> str:
    rows = [(*names, f"{psnr:.2f}", f"{ssim:.3f}", f"{rfvd:.1f}") for *names, psnr, ssim, rfvd in PUBLISHED]
    head = ("tokenizer", "compression", "bottleneck", "PSNR, dB", "SSIM", "rFVD")
    heading = "## Published figures: measured elsewhere, on other data"
    return f"{heading}\n\nFrom {SOURCE}. {CAUTION}\n\n{format_table(head, rows)}"
