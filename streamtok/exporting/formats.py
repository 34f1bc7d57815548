"""Writes a step for ONNX runtimes (onnx), for C++ with libtorch (aoti), or for TensorRT (tensorrt)."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram, export

from streamtok.exporting.step import ExportedStep
from streamtok.extras import needs_extra

LARGE = 1 << 29  # bytes of weights from which they go into a separate file, as protobuf is limited to 2 GiB
SUFFIXES = {"onnx": ".onnx", "aoti": ".pt2", "tensorrt": ".engine"}


def export_step(step: ExportedStep, path: Path, kind: str) -> dict[str, Any]:
    """Write a step as `kind` ("onnx", "aoti" or "tensorrt"), and its facts as PATH.json beside it; returns the facts.

    Raises ImportError that says what to install, OSError if the files cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.enable_grad():  # with gradients on, no state is written in place
        warnings.simplefilter("ignore")
        program = export(step, step.example, strict=False)
        facts = step.facts() | {"kind": kind, "file": path.name} | WRITERS[kind](program, step, path)
    path.with_suffix(path.suffix + ".json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def write_onnx(program: ExportedProgram, step: ExportedStep, path: Path) -> dict[str, Any]:
    """Write an ONNX file, with the facts in its metadata `streamtok`; returns its opset."""
    with needs_extra("exporting to ONNX", "onnx"):
        import onnxscript  # noqa: F401  (needed by torch.onnx)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every optional package that is missing
    made = torch.onnx.export(
        program, step.example, input_names=step.inputs, output_names=step.outputs, dynamo=True, verbose=False
    )
    assert made is not None
    made.model.metadata_props["streamtok"] = json.dumps(step.facts())
    weights = sum(parameter.nbytes for parameter in step.parameters())
    made.save(path, external_data=weights > LARGE)
    return {"opset": made.model.opset_imports[""]}


def write_aoti(program: ExportedProgram, step: ExportedStep, path: Path) -> dict[str, Any]:
    """Write a package that libtorch loads without Python, compiled for this kind of machine in minutes."""
    from torch._inductor import aoti_compile_and_package

    with torch.no_grad():
        aoti_compile_and_package(program, package_path=str(path.resolve()))
    return {"torch": torch.__version__}


def write_tensorrt(program: ExportedProgram, step: ExportedStep, path: Path) -> dict[str, Any]:
    """Write a TensorRT engine for this machine's GPU, via ONNX. Untested: we had no machine with TensorRT."""
    try:
        import tensorrt
    except ImportError as error:
        raise ImportError("building an engine needs TensorRT's Python package, as JetPack and NGC have it") from error
    facts = write_onnx(program, step, path.with_suffix(".onnx"))
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network()
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path.with_suffix(".onnx"))):
        raise RuntimeError(f"TensorRT cannot read the step: {parser.get_error(0)}")
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    if engine is None:
        raise RuntimeError("TensorRT has built no engine; its log above says why")
    path.write_bytes(engine)
    return facts | {"tensorrt": tensorrt.__version__, "untried": True}


WRITERS: dict[str, Callable[[ExportedProgram, ExportedStep, Path], dict[str, Any]]] = {
    "onnx": write_onnx,
    "aoti": write_aoti,
    "tensorrt": write_tensorrt,
}


class OnnxStep:
    """Runs an exported ONNX step by ONNX Runtime, and keeps its state from step to step."""

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        with needs_extra("running an exported step", "onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.facts = json.loads(self.session.get_modelmeta().custom_metadata_map["streamtok"])
        inputs = self.facts["inputs"]
        self._first = inputs[0]["name"]
        self._state = {each["name"]: np.zeros(each["shape"], each["dtype"]) for each in inputs[2:]}

    def step(self, x: np.ndarray, keyframe: bool) -> np.ndarray:
        """Frames uint8 (1, G, H, W, 3) -> tokens (1, [Q,] h, w), or the reverse if the file decodes."""
        given = {self._first: x, "keyframe": np.array([keyframe]), **self._state}
        out, *state = self.session.run(self.facts["outputs"], given)
        self._state = dict(zip(self._state, state, strict=True))
        return out
