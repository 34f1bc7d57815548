"""The checks of `streamtok doctor`: what works on this machine, what is missing, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from streamtok.cores import count_cores
from streamtok.extras import install_command

OK, NOTE, BAD = "ok", "note", "bad"
EXTRAS = {"mcap": "record", "rosbags": "ros", "pyarrow": "dataset", "webdataset": "dataset", "matplotlib": "plot"}
GIB = 1 << 30


@dataclass(frozen=True)
class Check:
    """One line of the report: `state` is "ok", "note" (works, could be better) or "bad"; `advice` says what to do."""

    name: str
    state: str
    found: str
    advice: str = ""


def run_checks(folder: Path, measure: bool) -> list[Check]:
    """Run every check, in the order of the report; `folder` is where recordings would go. Failures are reported too."""
    machine = [check_machine, check_torch, check_cuda, check_model, *([check_capacity] if measure else [])]
    outside = check_zmq, check_video, check_gstreamer, check_display, check_cameras, check_extras
    checks = [check for probe in (*machine, *outside) for check in collect(probe)]
    return checks + collect(check_disk, folder)


def collect(probe: Callable[..., Iterator[Check]], *arguments: object) -> list[Check]:
    """The findings of one probe; an exception that it raises becomes one."""
    found: list[Check] = []
    try:
        found.extend(probe(*arguments))
    except Exception as error:
        name = getattr(probe, "__name__", "check").removeprefix("check_")
        found.append(Check(name, BAD, f"{type(error).__name__}: {error}", "pip install --force-reinstall streamtok"))
    return found


def check_machine() -> Iterator[Check]:
    """Report Python, cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    yield Check("python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    cores = count_cores()
    state, advice = (OK, "") if cores >= 4 else (NOTE, "several cameras on a CPU want 4 cores or more, or a GPU")
    yield Check("processor", state, f"{cores} cores, {memory:.0f} GiB of memory", advice)


def check_torch() -> Iterator[Check]:
    """Report the version, threads and instruction set of PyTorch."""
    import torch

    found = f"{torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    yield Check("torch", OK, found)


def check_cuda() -> Iterator[Check]:
    """Check whether PyTorch has GPUs, and which, and the package for our CUDA kernels."""
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU-only"
        advice = "small models run on a CPU; for large ones install a CUDA build of PyTorch and the NVIDIA driver"
        yield Check("cuda", NOTE, f"no GPU in use (this PyTorch is {built})", advice)
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        memory = f"{facts.total_memory / GIB:.0f} GiB"
        yield Check("cuda", OK, f"{facts.name}, {memory}, sm_{facts.major}{facts.minor}, {bf16}")
    if importlib.util.find_spec("cupy") is None:
        extra = f"cuda{(torch.version.cuda or '12').split('.')[0]}"
        yield Check("kernels", NOTE, "cupy is not installed", f"pip install 'streamtok[{extra}]' for the CUDA kernels")
    else:
        yield Check("kernels", OK, f"cupy {importlib.import_module('cupy').__version__}")


def check_model() -> Iterator[Check]:
    """Check that the shipped model encodes."""
    import torch

    from streamtok.engine.loading import load

    tok = load("nano")
    out = tok.stream(slots=1, height=32, width=32).step(torch.zeros(1, 3, 1, 32, 32, dtype=torch.uint8))
    yield Check("model", OK, f"nano {tok.fingerprint[:12]} encodes 32x32 to {tuple(out.latent.shape[-2:])} tokens")


def check_capacity() -> Iterator[Check]:
    """Measure how many cameras the shipped model encodes and decodes here in real time."""
    import torch

    from streamtok.bench.measure import measure_capacities
    from streamtok.engine.loading import load

    if torch.cuda.is_available():
        found = 'not measured on a GPU: its nodes run engine "auto", which is measured first'
        yield Check("carries", NOTE, found, "streamtok bench measures it")
        return
    for options, cameras in measure_capacities(load("nano", engine="default", device="cpu")):
        found = "nano {}x{} at {:g} fps".format(*options.size, options.fps)
        found += f": {cameras.encoded:.1f} cameras encoded, {cameras.decoded:.1f} decoded, {cameras.both:.1f} both"
        advice = "" if cameras.encoded >= 1 else "use a smaller --size, or a lower rate; time goes with pixels"
        yield Check("carries", NOTE if advice else OK, found, advice)


def check_zmq() -> Iterator[Check]:
    """Report the version, transports and encryption of ZeroMQ."""
    import zmq

    ipc, curve = ("yes" if zmq.has(part) else "no" for part in ("ipc", "curve"))
    found = f"libzmq {zmq.zmq_version()}, pyzmq {zmq.__version__}, ipc {ipc}, CURVE {curve}"
    advice = "pip install --force-reinstall pyzmq: its wheels have CURVE"
    yield Check("zmq", OK, found) if curve == "yes" else Check("zmq", BAD, found, advice)


def check_video() -> Iterator[Check]:
    """Check the video codecs of PyAV, and whether OpenCV reads V4L2 cameras."""
    import av
    import cv2

    wanted = "h264", "hevc", "libx264", "mjpeg"
    there = [name for name in wanted if name in av.codecs_available]
    missing = [name for name in wanted if name not in there]
    advice = f"no {', '.join(missing)}: pip install --force-reinstall av" if missing else ""
    yield Check("video", NOTE if missing else OK, f"PyAV {av.__version__} with {', '.join(there)}", advice)
    has_v4l2 = cv2.CAP_V4L2 in cv2.videoio_registry.getCameraBackends()
    advice = "" if has_v4l2 else "for /dev/video cameras: pip install --force-reinstall opencv-python"
    found = f"{cv2.__version__}, {'with' if has_v4l2 else 'without'} V4L2 cameras"
    yield Check("opencv", OK if has_v4l2 else NOTE, found, advice)


def check_gstreamer() -> Iterator[Check]:
    """Check whether gst: sources run here, in GStreamer's launcher."""
    from streamtok.io.cameras.gstreamer_device import find_launcher

    try:
        yield Check("gstreamer", OK, f"gst: sources run in {find_launcher()}")
    except OSError as error:
        found, _, advice = str(error).removeprefix("gst: ").rpartition(": ")
        yield Check("gstreamer", NOTE, found, advice)


def check_display() -> Iterator[Check]:
    """Check whether a window can be opened."""
    display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    advice = "" if display else "streamtok decode cannot open a window here: use --out FILE.mp4 or --out zmq:ENDPOINT"
    yield Check("display", OK if display else NOTE, "there is one" if display else "none", advice)


def check_cameras() -> Iterator[Check]:
    """Check the V4L2 devices, and whether this user may read them."""
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        advice = "plug one in, or try --source 'synthetic:256x448@30'; in a container pass --device /dev/video0"
        yield Check("cameras", NOTE, "no /dev/video*", advice)
    for device in devices:
        name = Path(f"/sys/class/video4linux/{device.name}/name")
        label = name.read_text().strip() if name.exists() else "camera"
        if os.access(device, os.R_OK | os.W_OK):
            yield Check("cameras", OK, f"{device} ({label})")
        else:
            advice = "sudo usermod -aG video $USER, then log in again"
            yield Check("cameras", BAD, f"{device} ({label}): no permission", advice)


def check_extras() -> Iterator[Check]:
    """Report which optional packages are installed, with the command that installs the others."""
    for module, extra in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        advice = "" if there else install_command(extra)
        yield Check("extras", OK if there else NOTE, f"{module} {'installed' if there else 'is missing'}", advice)


def check_disk(folder: Path) -> Iterator[Check]:
    """Check for room for recordings: a six-camera rig at 256x448 and 30 fps writes about 0.6 GB of tokens an hour.

    `folder` need not exist yet, for a recorder creates it.
    """
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free / GIB
    state, advice = (OK, "") if free >= 10 else (NOTE, "record to a larger disk, or delete old recordings")
    yield Check("disk", state, f"{free:.0f} GiB free in {folder.resolve()}", advice)
