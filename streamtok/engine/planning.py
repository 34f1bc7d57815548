"""Which precisions a machine may run a model in, and the configuration to start from in each."""

from dataclasses import replace
from pathlib import Path

import torch

from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.cpu import interleaved, nnpack
from streamtok.model import Tokenizer

BFLOAT16_UNITS = "avx512_bf16", "amx_bf16", "bf16"  # without one of these, bfloat16 is slower than float32
INT8_UNITS = "avx512_vnni", "avx_vnni"  # add 8-bit products in 32 bits; without one, int8 is no faster


def list_candidates(device: str) -> list[str]:
    """The precisions that `auto` tries on a device, float32 first; float16 only on a GPU. int8 has to be asked for:
    with it, shipped weights agree enough with float32 on most clips, not on all (docs/performance.md).
    """
    if device == "cuda":
        return ["float32", "bfloat16", "float16"]
    return ["float32", "bfloat16"] if cpu_has(BFLOAT16_UNITS) else ["float32"]


def cpu_has(units: tuple[str, ...]) -> bool:
    """Whether /proc/cpuinfo lists one of these instruction sets."""
    try:
        return not set(units).isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def plan_precision(tok: Tokenizer, machine: EngineConfiguration, precision: str) -> EngineConfiguration:
    """The configuration to start from in a precision, before anything is measured.

    It uses our own layers where they fit, and NNPACK on x86 without AVX-512, where it is faster. With one thread it
    does so on all x86, as fleets of mixed machines must compute alike, and it is rarely slower there. On a GPU the step
    is captured as a graph. A deterministic tokenizer keeps PyTorch's layers, on which its whole clips run too.
    """
    gpu = machine.device == "cuda"
    threads = 0 if gpu else torch.get_num_threads()
    made = replace(machine, precision=precision, graph=gpu, threads=threads, slots_per_step=1, kernels="plain")
    if tok.deterministic:
        return made
    if not gpu:
        good = ("AVX2", "AVX512") if threads == 1 else ("AVX2",)
        gains = torch.backends.cpu.get_cpu_capability() in good and _may_use_nnpack(tok, made)
        convolutions = "nnpack" if gains else "direct"
        kernels = "plain" if interleaved.find_interleaving_obstacle(tok) else "interleaved"
        return replace(made, kernels=kernels, convolutions=convolutions)
    if precision == "int8" or not machine.triton_version or torch.cuda.get_device_capability() < (9, 0):
        return made
    from streamtok.engine.gpu.fused import find_fusing_obstacle  # needs triton

    return made if find_fusing_obstacle(tok.cast(made.dtype, "cuda")) else replace(made, kernels="fused")


def plan_trials(tok: Tokenizer, machine: EngineConfiguration, precisions: list[str]) -> dict[str, EngineConfiguration]:
    """The configurations to try, by name; first the reference, float32 with PyTorch's convolutions."""
    plans = {name: plan_precision(tok, machine, name) for name in dict.fromkeys(["float32", *precisions])}
    reference = replace(plans.pop("float32"), convolutions="direct")
    made = {"float32": reference}
    if _may_use_nnpack(tok, reference):
        made["float32 nnpack"] = replace(reference, convolutions="nnpack")
    return made | plans


def _may_use_nnpack(tok: Tokenizer, configuration: EngineConfiguration) -> bool:
    """Whether NNPACK can compute some of a model's convolutions here."""
    made = configuration.device, configuration.precision, tok.deterministic, torch.backends.nnpack.is_available()
    return made == ("cpu", "float32", False, True) and any(map(nnpack.is_wide, tok.modules()))
