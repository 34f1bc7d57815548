"""TorchScript archives are read for their tensors, and nothing in them is run."""

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

import streamtok
from streamtok.checkpoint.torchscript import is_archive, read_archive

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Parts(torch.nn.Module):
    """Sub-modules, buffers, several types, a tied weight, an empty tensor, and attributes that are no tensors."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3).half()
        self.rest = torch.nn.Sequential(torch.nn.Linear(2, 2).bfloat16(), torch.nn.BatchNorm1d(2))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("empty", torch.zeros(0))
        self.tied = self.conv.weight
        self.numbers, self.word = [1, 2], "x"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(x)


class Evil(torch.nn.Module):
    """Writes a file while it is loaded by `torch.jit.load`."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1))

    @torch.jit.export
    def __getstate__(self):
        return (torch.zeros(1), self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        written = torch.from_file("written_by_load", True, 1, dtype=torch.uint8)
        written.copy_(torch.ones(1, dtype=torch.uint8))
        self.w = state[0] + written.sum().to(torch.float)
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_the_tensors_are_those_that_torch_reads(tmp_path):
    path = tmp_path / "parts.jit"
    torch.jit.script(Parts()).save(str(path))
    theirs, ours = torch.jit.load(str(path)).state_dict(), read_archive(path)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


def test_an_archive_that_would_write_a_file_is_refused_and_writes_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "Cosmos-0.1-Tokenizer-DV4x8x8"
    folder.mkdir()
    for name in ("encoder.jit", "decoder.jit"):
        torch.jit.script(Evil()).save(str(folder / name))
    Path("written_by_load").unlink(missing_ok=True)
    torch.jit.load(str(folder / "encoder.jit"))
    assert Path("written_by_load").exists(), "the attack works on torch's own reader"
    Path("written_by_load").unlink()
    with pytest.raises(ValueError, match=r"encoder\.jit .* a class of it has a __setstate__, which would have to run"):
        streamtok.load(folder)
    assert not Path("written_by_load").exists()


@pytest.mark.parametrize("called", [print, eval, Path, torch.load, warnings.warn])
def test_whatever_a_pickle_names_besides_tensors_is_refused(called, tmp_path):
    path = tmp_path / "named.jit"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("named/code/x.py", "")
        archive.writestr("named/data.pkl", pickle.dumps(called, 2))
    assert is_archive(path)
    with pytest.raises(ValueError, match=r"named\.jit is no TorchScript archive of plain tensors: it names "):
        read_archive(path)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_an_error_with_its_name(cut, tmp_path):
    path = tmp_path / "cut.jit"
    torch.jit.script(Parts()).save(str(path))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(ValueError, match=r"cut\.jit"):
        read_archive(path)


MODULE = b"c__torch__\nM\n)\x81"
DEEP = (MODULE + b"}X\x01\0\0\0m") * 3000 + MODULE + b"}b" + b"sb" * 3000
TWICE = MODULE + b"}bq\0" + (b"0" + MODULE + b"}X\x01\0\0\0ah\0sX\x01\0\0\0bh\0sbq\0") * 60


@pytest.mark.parametrize("pickled", [TWICE, b"\x80\x02]q\0h\0a", b"garbage"], ids=["twice", "no module", "garbage"])
def test_an_archive_that_cannot_be_is_refused_at_once(pickled, tmp_path):
    path = tmp_path / "odd.jit"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("odd/data.pkl", pickled + b".")
    with pytest.raises(ValueError, match=r"odd\.jit is no TorchScript archive of plain tensors"):
        read_archive(path)


def test_a_deep_archive_is_read_and_a_damaged_one_refused(tmp_path):
    path = tmp_path / "odd.jit"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("odd/data.pkl", DEEP + b".")
    assert read_archive(path) == {}
    data = bytearray(path.read_bytes())
    begin = data.find(b"data.pkl") + len("data.pkl")
    data[begin : begin + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"odd\.jit is no TorchScript archive of plain tensors"):
        read_archive(path)


def test_a_view_larger_than_its_storage_takes_no_memory(tmp_path):
    path, storage = (
        tmp_path / "view.jit",
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x01tQ",
    )
    size = b"J\xff\xff\xff\x7f" * 2
    view = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0(" + size + b"t(K\0K\0t\x89}tR"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("view/data/0", bytes(4))
        archive.writestr("view/data.pkl", MODULE + b"}X\x01\0\0\0w" + view + b"sb.")
    assert read_archive(path)["w"].shape == (2**31 - 1, 2**31 - 1)


def test_a_file_that_cannot_be_read_is_told_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path / "none.jit")
    with pytest.raises(IsADirectoryError):
        read_archive(tmp_path)


def test_an_archive_whose_offsets_lie_is_damaged(tmp_path):
    """Such an offset ends in a seek that the system refuses: a fault of the file, not of the disk."""
    path = tmp_path / "odd.jit"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("odd/data.pkl", b"x" * 100)
    data = path.read_bytes()
    for offset in (200, 2**31):
        path.write_bytes(data[:-6] + offset.to_bytes(4, "little") + data[-2:])
        with pytest.raises(ValueError, match=r"odd\.jit is no TorchScript archive of plain tensors"):
            read_archive(path)
