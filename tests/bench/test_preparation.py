"""`gpu_check`'s part on prepared frames, run on the CPU: it compares bytes, notices wrong ones, and counts."""

from benchmarks.gpu.preparation import check_preparation, has_bytes, raw_frames
from streamtok.config import PRESETS
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.model import build
from streamtok.preprocessing.preprocessor import Preprocessor


def test_prepared_frames_are_compared_and_timed():
    found = dict(check_preparation("cpu", cases=(((40, 64), (16, 24)),), encodings=("rgb8", "nv12"), count=9))
    assert found.pop("kernels") == {"built": False}
    assert set(found) == {
        f"40x64 {name} to 16x24, {way}" for name in ("rgb8", "nv12") for way in ("chosen", "on the CPU")
    }
    for entry in found.values():
        assert entry["ok"]
        assert entry["host"]["count"] == 9
        assert entry["there_ms"] >= 0


def test_frames_with_other_bytes_are_noticed():
    core = IngestCore(build(PRESETS["nano"]), {"cam0": StreamOptions(size=(16, 24))})
    frames = raw_frames("mono8", (40, 64), 9)
    wanted = [Preprocessor((40, 64), (16, 24))(frame.image) for frame in frames]
    assert has_bytes(core, frames, wanted)
    wanted[7][0, 0, 0] ^= 1
    core = IngestCore(core.tokenizer, {"cam0": StreamOptions(size=(16, 24))})
    assert not has_bytes(core, frames, wanted)
