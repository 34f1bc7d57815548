"""The token coder: exact for every grid, every stream, every order of summation, and never other tokens in silence."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.checkpoint import WEIGHTS
from streamtok.coding.arithmetic import (
    ACTIVATION_MAX,
    Arithmetic,
    Integers,
    choose_arithmetic,
    integers_are_exact,
    integers_pay,
)
from streamtok.coding.coder import FILE, FRESH, CodingError, Past, TokenCoder, load_coder, save_coder
from streamtok.coding.layout import make_phases
from streamtok.training.coder_model import KNOWN, CoderModel
from tests.kit.coders import LEVELS, draw_grids, make_coder

ROOT = Path(__file__).parents[2]
SIZES = st.tuples(st.integers(1, 13), st.integers(1, 13))
LEVEL_SETS = [LEVELS, (2,) * 9, (5, 5, 5), (64, 3), (8, 8, 8, 6, 5, 5, 4)]
KINDS = [(levels, 0) for levels in LEVEL_SETS] + [(LEVELS, 1536), ((5, 5), 1), ((5, 5), 7), ((64, 3), 1000)]


def encode_all(coder: TokenCoder, grids: list[np.ndarray], past: Past = FRESH) -> list[bytes]:
    out = []
    for grid in grids:
        data, past = coder.encode(grid, past)
        out.append(data)
    return out


@settings(max_examples=30)
@given(st.sampled_from(KINDS), SIZES, st.integers(0, 99), st.lists(st.booleans(), min_size=1, max_size=12))
def test_grids_of_any_levels_and_size_come_back(kind, size, seed, keyframes):
    """Resets anywhere, a change of size in between, and a stream that is kept and taken up again."""
    coder = make_coder(kind[0], refinement=kind[1])
    sent = received = FRESH
    for keyframe, grid in zip(keyframes, draw_grids(coder, len(keyframes), size, seed), strict=True):
        if keyframe:
            sent = received = FRESH
        data, sent = coder.encode(grid, sent)
        kept = received
        again, received = coder.decode(data, size, received)
        assert np.array_equal(again, grid)
        assert again.dtype == grid.dtype
        assert np.array_equal(coder.decode(data, size, kept)[0], grid)  # the past is a value: nothing has touched it
    turned = np.ascontiguousarray(grid.T)
    assert np.array_equal(coder.decode(coder.encode(turned, sent)[0], turned.shape, received)[0], turned)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "int64"])
def test_tokens_may_be_any_integers(dtype):
    """int32 is what tensors of tokens are."""
    coder = make_coder()
    grids = draw_grids(coder, 3, (6, 7), 1)
    assert encode_all(coder, [grid.astype(dtype) for grid in grids]) == encode_all(coder, grids)


@given(SIZES)
def test_every_cell_has_one_phase_and_only_neighbours_of_earlier_ones(size):
    phases = make_phases(*size)
    assert sorted(phases.order) == list(range(size[0] * size[1]))
    assert np.unique(phases.inside).size == phases.inside.size
    known: set[int] = set()
    for phase, around in enumerate(phases.neighbours):
        own = set(phases.inside[phases.cuts[phase] : phases.cuts[phase + 1]].tolist())
        inside = set(around.ravel().tolist()) & set(phases.inside.tolist())
        assert inside <= known
        assert around.size == 0 or 0 <= around.min() <= around.max() < phases.padded
        known |= own


@pytest.mark.parametrize("refinement", [0, 1536])
def test_streams_do_not_touch_each_other(refinement):
    coder = make_coder(refinement=refinement)
    cameras = [draw_grids(coder, 4, (6, 7), seed) for seed in (1, 2)]
    alone = [encode_all(coder, grids) for grids in cameras]
    pasts, mixed = [FRESH, FRESH], [[], []]
    for step in range(4):
        for camera in (0, 1):
            data, pasts[camera] = coder.encode(cameras[camera][step], pasts[camera])
            mixed[camera].append(data)
    assert mixed == alone


class Shuffled(Arithmetic):
    """Adds up products in another order."""

    def multiply(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        order = np.random.default_rng(0).permutation(len(weight))
        return np.ascontiguousarray(x[:, order]) @ np.ascontiguousarray(weight[order])


class Wide(Arithmetic):
    """In float64."""

    activation = sums = np.float64


class Slow(Integers):
    """Whole numbers without PyTorch, whatever the processor has."""

    def multiply(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.asarray(x, np.int32) @ np.asarray(weight, np.int32)


@pytest.mark.parametrize("refinement", [0, 1536])
@pytest.mark.parametrize("arithmetic", [Arithmetic(), Shuffled(), Wide(), Slow()], ids=lambda each: type(each).__name__)
def test_the_order_of_summation_and_the_kind_of_numbers_change_no_byte(refinement, arithmetic):
    coder = make_coder(refinement=refinement)
    other = TokenCoder(LEVELS, coder.tokenizer, coder.tensors, arithmetic)
    for size in ((9, 12), (1, 1), (1, 30)):
        grids = draw_grids(coder, 4, size)
        coded = encode_all(coder, grids)
        assert encode_all(other, grids) == coded
        past = FRESH
        for grid, data in zip(grids, coded, strict=True):
            found, past = other.decode(data, size, past)
            np.testing.assert_array_equal(found, grid)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 70), st.integers(0, 1 << 32))
def test_products_of_whole_numbers_are_exact_where_they_are_used(cells, inputs, outputs, seed):
    if not integers_are_exact():
        pytest.skip("needs a processor with instructions for products of int8")
    rng = np.random.default_rng(seed)
    x = rng.choice([0, 1, ACTIVATION_MAX], (cells, inputs)).astype(np.int8)
    weight = rng.choice([-128, -1, 0, ACTIVATION_MAX], (inputs, outputs)).astype(np.int8)
    expected = x.astype(np.int64) @ weight.astype(np.int64)
    np.testing.assert_array_equal(Integers().multiply(x, weight), expected)
    np.testing.assert_array_equal(Integers().multiply(weight.T, x.T), expected.T)
    np.testing.assert_array_equal(Integers().multiply(x[:1], weight), expected[:1])
    same = x[0][None]  # a stride of 0
    np.testing.assert_array_equal(Integers().multiply(same, weight), expected[:1])


def test_numpy_takes_over_where_pytorch_has_no_products_of_int8(monkeypatch):
    monkeypatch.delattr(torch, "_int_mm")
    for measured in (integers_are_exact, integers_pay):
        measured.cache_clear()
    try:
        assert type(choose_arithmetic()) is Arithmetic
    finally:
        for measured in (integers_are_exact, integers_pay):
            measured.cache_clear()


@pytest.mark.parametrize("refinement", [0, 1536])
def test_training_computes_what_the_coder_codes(refinement):
    """The bits that the loss counts are those of the bytes, up to the ends of the stream."""
    coder = make_coder(refinement=refinement)
    torch.manual_seed(0)
    model = CoderModel(LEVELS, coder.tensors.get("words"))
    assert model.export("0" * 32).fingerprint == coder.fingerprint
    grids, size = draw_grids(coder, 4, (16, 20)), (16, 20)
    past = [np.broadcast_to(coder.alphabet.symbols.none, (320, len(coder.alphabet.sizes)))] * 3
    for grid, data in zip(grids, encode_all(coder, grids), strict=True):
        past.insert(0, coder.alphabet.split(grid.ravel(), past[0]))
        now, *before = (torch.from_numpy(each.copy())[None] for each in past[:4])
        bits = model(now, tuple(before), *size).sum().item()
        if refinement:
            kept = np.flatnonzero(past[0][:, 0])
            shares = coder.tensors["words"] / coder.tensors["words"].sum(1, keepdims=True)
            bits -= np.log2(shares[past[1][kept, 0], grid.ravel()[kept] - 64_000]).sum()
        assert bits * 0.998 - 1 < 8 * len(data) < bits * 1.001 + 9  # what is least likely costs 16 bits at most


SCRIPT = """
import sys, zlib, numpy as np
from pathlib import Path
from streamtok.checkpoint import WEIGHTS
from streamtok.coding.coder import FRESH, load_coder
coder, past, total = load_coder(Path(sys.argv[1])), FRESH, 0
for grid in np.load(sys.argv[2]):
    data, past = coder.encode(grid, past)
    total = zlib.crc32(data, total)
print(total)
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX2 FMA3"},  # SSE3 alone
        {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    ],
)
@pytest.mark.parametrize("refinement", [0, 1536])
def test_instruction_sets_and_threads_change_no_byte(tmp_path, environment, refinement):
    coder = make_coder(refinement=refinement)
    save_coder(coder, tmp_path)
    grids = draw_grids(coder, 3, (20, 24))
    np.save(tmp_path / "grids.npy", np.stack(grids))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(tmp_path / "grids.npy")]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == zlib.crc32(b"".join(encode_all(coder, grids)))


@pytest.mark.parametrize("refinement", [0, 1500])
def test_hostile_bytes_end_in_an_error_or_in_a_grid_of_tokens(refinement):
    """Never more than a grid; that it is another one than was sent, only a checksum can tell."""
    coder, rng = make_coder(refinement=refinement), np.random.default_rng(0)
    grid = draw_grids(coder, 1, (4, 5))[0]
    data = coder.encode(grid)[0]
    damaged = [bytes(rng.integers(0, 256, rng.integers(0, 60)).astype(np.uint8)) for _ in range(100)]
    damaged += [data[:cut] for cut in range(len(data))] + [data + b"\1", data + bytes(999)]
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for each in damaged:
        try:
            found, _ = coder.decode(each, (4, 5))
        except CodingError:
            continue
        assert found.shape == (4, 5)
        assert found.max() < 64_000 + refinement


def test_what_is_no_grid_of_these_tokens_is_refused():
    coder = make_coder()
    wrong = [np.zeros((2, 3, 4), np.uint16), np.full((2, 2), 64_000, np.uint16), np.zeros((2, 2)), np.int32([[-1]])]
    for grid in [*wrong, np.zeros((0, 4), np.uint16)]:
        with pytest.raises(ValueError, match="expected \\[h, w\\] of tokens below 64000"):
            coder.encode(grid)
    with pytest.raises(ValueError, match="FSQ of 2 to 64"):
        make_coder((1024,))
    refining = make_coder(refinement=1500)
    with pytest.raises(ValueError, match="of tokens below 65500"):
        refining.encode(np.full((2, 2), 65_500, np.uint16))
    for words in (refining.tensors["words"][1:], refining.tensors["words"] * np.uint16(0)):
        with pytest.raises(ValueError, match="expected uint16, 10 rows above 0"):
            TokenCoder(LEVELS, refining.tokenizer, refining.tensors | {"words": words})


def test_a_file_is_read_as_it_was_written_or_not_at_all(tmp_path):
    coder = make_coder()
    save_coder(coder, tmp_path)
    assert load_coder(tmp_path).fingerprint == coder.fingerprint
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="is no token coder: its fingerprint is"):
        load_coder(path)
    path.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="is no token coder"):
        load_coder(path)
    loud = coder.tensors | {"mean.weight": np.full((64, 5000), 127, np.int8)}
    with pytest.raises(ValueError, match="mean: sums of up to"):
        TokenCoder(LEVELS, coder.tokenizer, loud)
    early = coder.tensors["known"].copy()
    early[-1, KNOWN] = 1
    with pytest.raises(ValueError, match="known: a digit of group 2 says something to a head that is not later"):
        TokenCoder(LEVELS, coder.tokenizer, coder.tensors | {"known": early})
    with pytest.raises(ValueError, match="'older' is missing"):
        TokenCoder(LEVELS, coder.tokenizer, {name: coder.tensors[name] for name in coder.tensors if name != "older"})


def test_shipped_coders_belong_to_the_weights_beside_them():
    for name in ("nano", "nano-p", "nano-r", "nano-pr"):
        config = json.loads((WEIGHTS / name / "config.json").read_text())
        coder = load_coder(WEIGHTS / name)
        assert coder.tokenizer == config["fingerprint"], f"the weights of {name} have changed: streamtok train-coder"
        assert list(coder.levels) == config["tokenizer"]["levels"]
        assert coder.alphabet.codes == 64_000 + config["tokenizer"].get("refinement", 0)


@pytest.mark.parametrize("name", ["nano", "nano-r"])
def test_a_plain_reader_decodes_the_vectors_of_the_protocol_page(name):
    """Our coder gives them, and an implementation in 64-bit integers that shares no code with it reads them."""
    vectors = ROOT / "tests" / "golden" / f"coded_{name}.json"
    coder, past = load_coder(WEIGHTS / name), FRESH
    for message in json.loads(vectors.read_text())["messages"]:
        alone = message["keyframe"] or message["independent"]
        size, payload = tuple(message["grid"]), bytes.fromhex(message["payload"])
        grid, after = coder.decode_checked(payload, size, message["checksum"], FRESH if alone else past)
        assert coder.encode(grid, FRESH if alone else past)[0] == payload
        past = after
    reader = [sys.executable, ROOT / "examples" / "plain_coder.py", WEIGHTS / name / FILE, vectors]
    done = subprocess.run(reader, capture_output=True, text=True, check=True)
    assert done.stdout.count("right") == 6
