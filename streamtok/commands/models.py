"""List the presets with their compression, cost and state, or prepare this machine for them.

    streamtok models                          # at 720p, 30 frames per second
    streamtok models --size 256x448 --fps 10
    streamtok models nano --json
    streamtok models nano --size 256x448 --prepare    # tune now, which the first start would do otherwise
    streamtok models FOLDER --size 256x448 --prepare --clip drive.mp4    # own weights, measured on your own video

FLOPs count a multiply-add as 2 and are those of one more group in a stream (context of one latent step). The state is
that of one camera in float16: convolutions' past frames, and `context` steps of attention keys and values.
"""

from typing import Annotated, Any

import streamtok
from streamtok.commands.command import make_main
from streamtok.config import PRESETS
from streamtok.names import nearest
from streamtok.settings.errors import SettingsError
from streamtok.settings.fields import Flag, Positive, Size, Switch, Texts, option
from streamtok.settings.shared import CommandSettings


class ModelsSettings(CommandSettings):
    """Flags of `streamtok models`."""

    names: Annotated[Texts, Flag("NAME", positional=True)] = option(
        [], "presets (default: all); with --prepare also checkpoint folders"
    )
    size: Size = option((720, 1280), "frame size, height first")
    fps: Annotated[Positive, Flag("FPS")] = option(30.0, "frames per second")
    prepare: Switch = option(False, "measure, compile and store for this machine and --size")
    clip: Annotated[str, Flag("SOURCE")] | None = option(
        None, "with --prepare: measure on it (default: a synthetic scene)"
    )
    compile: Switch = option(False, "with --prepare: run through torch.compile from now on")


def run(settings: ModelsSettings) -> int:
    """Print the table, or prepare this machine; returns 0."""
    if settings.prepare:
        prepare_machine(settings.names or ["nano"], settings.size, settings.compile, settings.clip)
        return 0
    if settings.clip or settings.compile:
        raise SettingsError("--clip and --compile say how to --prepare, which is not given")
    for name in settings.names:
        if name not in PRESETS:
            raise SettingsError(f"{name!r} is no preset; {nearest(name, PRESETS)}")
    from streamtok.model.costs import measure_preset

    rows = [measure_preset(name, settings.size, settings.fps) for name in settings.names or PRESETS]
    print(settings.format_result({"models": rows}, format_presets(rows, settings.size, settings.fps)))
    return 0


def format_presets(rows: list[dict[str, Any]], size: tuple[int, int], fps: float) -> str:
    """The rows as a text table; a continuous model has no codebook and no tokens per second."""
    cells = [
        {
            "preset": row["name"],
            "TxHxW": row["compression"],
            "ratio": f"{row['compression_ratio']:.0f}",
            "codes": format_or_dash(row["codebook_size"], "d"),
            "bits/token": format_or_dash(row["bits_per_token"], ".2f"),
            "tokens/s": format_or_dash(row["tokens_per_second"], ",.0f"),
            "kbit/s": f"{row['bits_per_second'] / 1e3:,.0f}",
            "params": f"{row['parameters'] / 1e6:.1f} M",
            "GFLOP enc": f"{row['encode_flops'] / 1e9:,.1f}",
            "GFLOP dec": f"{row['decode_flops'] / 1e9:,.1f}",
            "state enc MB": f"{row['encode_state_bytes'] / 1e6:,.1f}",
            "state dec MB": f"{row['decode_state_bytes'] / 1e6:,.1f}",
        }
        for row in rows
    ]
    widths = {head: max(len(head), *(len(row[head]) for row in cells)) for head in cells[0]}
    lines = [dict(zip(widths, widths, strict=True)), *cells]
    aligned = [
        [line[head].rjust(width) if head != "preset" else line[head].ljust(width) for head, width in widths.items()]
        for line in lines
    ]
    title = f"At {size[0]}x{size[1]} and {fps:g} frames per second, per camera; FLOPs per group; state in float16.\n\n"
    return title + "\n".join("  ".join(line) for line in aligned)


def format_or_dash(value: float | None, form: str) -> str:
    """Format the value by `form`; a dash for None."""
    return "-" if value is None else format(value, form)


def prepare_machine(names: list[str], size: tuple[int, int], compile: bool, source: str | None) -> None:
    """Tune and store engines for models by name or folder, measured on the first frames of `source`."""
    from streamtok.bench.clips import read_clip
    from streamtok.engine.precision import count_frames
    from streamtok.engine.tuning import prepare

    for name in names:
        tok = streamtok.load(name)
        clip = None if source is None else read_clip(source, size, count_frames(tok))
        engine = prepare(tok, size, compile=compile, clip=clip)
        for precision, share in engine.agreement.items():
            print(
                f"  {precision:<16} {engine.measured_ms[precision]:9.2f} ms per group, {100 * share:6.2f} % of tokens "
                "equal to float32's"
            )
        print(
            f"prepared model={name} size={size[0]}x{size[1]} device={engine.device} precision={engine.precision} "
            f"kernels={engine.kernels} convolutions={engine.convolutions} compile={engine.compile}"
        )


main = make_main("models", ModelsSettings, run, __doc__)
