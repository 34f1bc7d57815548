"""Export one step of a model for C++, browsers or TensorRT; state tensors are inputs and outputs.

    streamtok export-model nano --size 256x448 --direction encode -o nano_encode.onnx
    streamtok export-model nano --size 256x448 --direction decode -o nano_decode.onnx
    streamtok export-model FOLDER --size 256x448 --direction encode --format aoti -o step.pt2

FILE.json beside it names inputs, outputs, state, levels, preprocessing and the fingerprint; an ONNX file contains it
too. A file is for one size and float32. An ONNX file is then run over a clip and compared with PyTorch. It serves
other languages, not speed. docs/export.md says how to use it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from streamtok.commands.command import make_main
from streamtok.settings.fields import Count, File, Flag, Model, Size, option
from streamtok.settings.shared import CommandSettings


class ExportModelSettings(CommandSettings):
    """Which step to export, and in which format."""

    model: Annotated[Model, Flag("MODEL", positional=True)] = Field(description="preset name or checkpoint folder")
    size: Size = Field(description="frame size, height first")
    direction: Literal["encode", "decode"] = option("encode", "frames to tokens, or tokens to frames")
    format: Literal["onnx", "aoti", "tensorrt"] = option("onnx", "tensorrt is untried: we have no machine with it")
    out: Annotated[File, Flag(short="-o")] | None = option(None, "the file to write (default: MODEL_DIRECTION.onnx)")
    groups: Count = option(8, "groups of a synthetic clip on which ONNX is compared with PyTorch")


def run(settings: ExportModelSettings) -> int:
    """Export a step; compare ONNX with PyTorch; returns 0."""
    from streamtok.engine.loading import load
    from streamtok.exporting.comparing import compare_with_onnx
    from streamtok.exporting.formats import SUFFIXES, export_step
    from streamtok.exporting.step import ExportedStep

    step = ExportedStep(load(settings.model), settings.direction, settings.size)
    name = f"{Path(settings.model).name}_{settings.direction}{SUFFIXES[settings.format]}"
    path = settings.out or Path(name)
    facts = export_step(step, path, settings.format)
    summary: dict[str, Any] = {"out": str(path), "json": f"{path}.json", "model": facts["model"]}
    summary |= {"tokenizer": facts["tokenizer"], "states": len(step.names)}
    if settings.format == "onnx":
        summary |= compare_with_onnx(step, path, settings.groups)
    print(settings.format_result(summary, "\n".join(f"{key}: {value}" for key, value in summary.items())))
    return 0


main = make_main("export-model", ExportModelSettings, run, __doc__)
