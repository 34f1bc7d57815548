"""Training a token coder: it learns, it is the coder of those weights, and its command says what it is worth."""

import json

import numpy as np
import pytest
import torch

from streamtok.coding.coder import load_coder
from streamtok.commands.train_coder import main
from streamtok.evaluation.layouts import pictures_to_video
from streamtok.training.coder_loop import count_bits, train_coder
from streamtok.training.coder_tokens import Epoch, encode_epoch
from tests.kit.coders import draw_grids, make_coder
from tests.kit.models import tiny


def test_what_repeats_itself_is_learned_and_costs_less():
    levels = (5, 5)
    untrained = make_coder(levels)
    still = [np.stack([grid] * 4) for grid in draw_grids(untrained, 8, (6, 8))]
    epochs = [Epoch(f"clip{number}", grids) for number, grids in enumerate(still)]
    seen: list[float] = []
    coder = train_coder(levels, "ab12", epochs, 100, on_step=lambda step, bits: seen.append(bits))
    assert coder.tokenizer == "ab12"
    assert np.mean(seen[-10:]) < np.mean(seen[:10]) - 1
    bits = count_bits(coder, still[0])
    assert np.mean(bits[1:]) < np.mean(count_bits(coder, still[0], independent=True)[1:]) - 0.2
    assert np.mean(bits) < np.mean(count_bits(untrained, still[0])) - 0.4


def test_one_seed_gives_one_coder():
    epochs = [Epoch("clip", np.stack(draw_grids(make_coder((5, 5)), 5, (3, 4))))]
    coders = [train_coder((5, 5), "ab12", epochs, 3, seed=seed) for seed in (1, 1, 2)]
    assert coders[0].fingerprint == coders[1].fingerprint != coders[2].fingerprint


@pytest.mark.parametrize("model", ["nano", "nano-r"])
def test_the_command_writes_a_coder_beside_its_figures(tmp_path, capsys, model):
    drives = [f"synthetic:64x96@30?seed={seed}&frames=17" for seed in (1, 2)]
    arguments = [model, "--data", drives[0], "--data", drives[1], "--holdout", "synthetic:64x96@30?seed=2"]
    assert main([*arguments, "--steps", "2", "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    coder = load_coder(tmp_path)
    assert printed["fingerprint"] == coder.fingerprint
    for rows in (printed["clips"], printed["held_still"]):
        (row,) = rows.values()
        assert 5 < row["bits"] < 30
        assert row["independent"] > 5


def test_without_data_there_is_no_coder(tmp_path, capsys):
    assert main(["nano", "--out", str(tmp_path)]) != 0
    assert "data: required, not given" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tokens_of_large_codebooks_are_not_cut():
    tok = tiny("dv4x8x8", dtype=torch.float32, levels=(16,) * 5, latent_channels=5)
    pictures = np.random.default_rng(0).integers(0, 256, (9, 16, 32, 3), dtype=np.uint8)
    grids = encode_epoch(tok, pictures)
    assert grids.dtype == np.uint32
    assert np.array_equal(grids, tok.encode(pictures_to_video(pictures)).indices[0].numpy())
    assert grids.max() > 1 << 16
