"""Whole evaluations with small tokenizers: figures follow from encode and decode, whichever way they are run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from streamtok.evaluation.dataset import Clip, ClipSet, find_clips
from streamtok.evaluation.drift import Drift, StillCurve, measure_drift, measure_seam, measure_still, play_to_and_fro
from streamtok.evaluation.evaluate import evaluate_clips, reconstruct
from streamtok.evaluation.layouts import as_unit
from streamtok.evaluation.metrics import frame_mse, psnr
from streamtok.measures import entropy_bits, psnr_from_mse
from streamtok.model.tokenizer import Tokenizer
from tests.kit.pictures import scene

Make = Callable[..., Tokenizer]


def tensor(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None]


def test_figures_of_a_folder_follow_from_encode_and_decode(tiny: Make, two_clips: Path):
    tok = tiny()
    found = evaluate_clips(tok, ClipSet(find_clips([two_clips]), 32, 9, 8, 4))
    assert [(clip.name, clip.frames, clip.size) for clip in found.clips] == [
        ("left", 9, (32, 48)),
        ("sub/right", 9, (32, 48)),
    ]
    values, tokens = [], []
    for clip in ClipSet(find_clips([two_clips]), 32, 9):
        indices = tok.encode(tensor(clip.frames)).indices
        shown = as_unit(tok.decode(indices)[0].transpose(0, 1))
        values.append(psnr(as_unit(tensor(clip.frames)[0].transpose(0, 1)), shown))
        tokens.append(indices.flatten())
    assert found.psnr == pytest.approx(np.mean(values), abs=1e-6)
    counts = torch.cat(tokens).bincount(minlength=64000).numpy()
    assert found.codes is not None
    assert found.codes["entropy_bits"] == pytest.approx(entropy_bits(counts))
    assert found.clips[0].bits_per_second == pytest.approx(4 * 6 * np.log2(64000) * 24 / 4)


LOOPS = pytest.mark.parametrize("changes", [{}, {"predictive": True}, {"refinement": 8}])


def test_held_levels_are_judged_as_they_are_encoded(tiny: Make):
    tok, clips = tiny(), [Clip("scene", scene(17, 32, 48), 24.0)]
    plain, held, steps = (
        evaluate_clips(tok, clips, hold=hold, steps=steps) for hold, steps in ((0.0, False), (1.0, False), (1.0, True))
    )
    assert held.psnr_by_frame == pytest.approx(steps.psnr_by_frame, abs=1e-3)
    assert plain.codes is not None
    assert held.codes is not None
    assert held.codes["last_grid_bits"] < plain.codes["last_grid_bits"]


@LOOPS
@pytest.mark.parametrize("frames", [1, 9])
def test_steps_and_whole_clips_give_the_same_figures(tiny: Make, frames: int, changes: dict):
    tok, clips = tiny(**changes), [Clip("scene", scene(frames, 32, 48), 24.0)]
    whole, steps = evaluate_clips(tok, clips), evaluate_clips(tok, clips, steps=True)
    assert whole.psnr_by_frame == pytest.approx(steps.psnr_by_frame, abs=1e-3)


def test_places_in_the_group_pool_squared_errors(tiny: Make):
    result = evaluate_clips(tiny(), [Clip("scene", scene(9, 32, 48))]).clips[0]
    result.mse = [0.1, 0.01, 0.02, 0.03, 0.04, 0.03, 0.02, 0.01, 0.04]
    assert result.psnr_by_place(4) == pytest.approx([psnr_from_mse(x) for x in (0.1, 0.02, 0.02, 0.02, 0.04)])
    assert result.psnr_by_group(4) == pytest.approx([psnr_from_mse(x) for x in (0.1, 0.025, 0.025)])


def test_longer_clips_alone_give_the_late_frames(tiny: Make):
    clips = [Clip("short", scene(5, 16, 16)), Clip("long", scene(9, 16, 16, seed=3)), Clip("still", scene(1, 16, 16))]
    found = evaluate_clips(tiny(), clips)
    assert found.psnr_by_frame[8] == found.clips[1].psnr_by_frame[8]
    assert found.psnr_by_frame[0] == pytest.approx(np.mean([clip.psnr_by_frame[0] for clip in found.clips]))


@pytest.mark.parametrize(
    "changes",
    [
        {"quantizer": "ae", "latent_channels": 4},
        {
            "temporal_compression": 8,
            "encoder_channels": (8, 8, 8),
            "decoder_channels": (8, 8, 8),
            "encoder_blocks": (1, 1, 1),
            "decoder_blocks": (1, 1, 1),
            "slim": False,
        },
    ],
)
def test_other_kinds_of_video_tokenizer(tiny: Make, changes: dict):
    found = evaluate_clips(tiny(**changes), [Clip("scene", scene(9, 16, 32), 24.0)])
    assert (found.codes is None) == ("quantizer" in changes)
    assert len(found.psnr_by_place) == (9 if "temporal_compression" in changes else 5)


def test_an_image_tokenizer_takes_each_frame_alone(tiny: Make):
    tok = tiny(video=False, temporal_compression=1, slim=False, num_groups=8, z_channels=8)
    frames = scene(10, 16, 32)
    shown, tokens = reconstruct(tok, Clip("scene", frames))
    assert tokens is not None
    assert tokens.shape == (10, 2, 4)
    alone = tok.decode(tok.encode(torch.from_numpy(frames[9]).permute(2, 0, 1)[None]).indices)
    assert torch.allclose(shown[9], as_unit(alone)[0], atol=1e-5)


def test_nothing_to_judge_is_an_error_that_names_what_was_skipped(tiny: Make, tmp_path: Path):
    (tmp_path / "bad.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no clip could be judged; skipped: .*bad"):
        evaluate_clips(tiny(), ClipSet(find_clips([tmp_path])))


def test_seam_compares_the_stream_with_a_fresh_start(tiny: Make):
    tok, frames = tiny(), scene(33, 16, 32)
    found = measure_seam(tok, Clip("scene", frames), reconstruct(tok, Clip("scene", frames))[0])
    original = as_unit(tensor(frames)[0].transpose(0, 1))[25:33]
    running = as_unit(tok.decode(tok.encode(tensor(frames)).indices)[0].transpose(0, 1))[25:]
    fresh = as_unit(tok.decode(tok.encode(tensor(frames[24:])).indices)[0].transpose(0, 1))[1:]
    assert found.in_stream == pytest.approx(psnr(original, running), abs=1e-4)
    assert found.after_reset == pytest.approx(psnr(original, fresh), abs=1e-4)
    assert found.gain == found.in_stream - found.after_reset
    with pytest.raises(ValueError, match="needs 33 frames"):
        measure_seam(tok, Clip("short", frames[:32]), running)


def test_a_held_still_is_constant_for_a_plain_model(tiny: Make):
    picture = scene(1, 16, 32)[0]
    curve = measure_still(tiny(), [picture, picture[::-1].copy()], groups=5)
    assert len(curve.psnr) == 6
    assert curve.psnr[1:] == pytest.approx([curve.psnr[1]] * 5, abs=1e-4)


def test_still_curve_figures_by_hand():
    curve = StillCurve([28.0, 30.0, 31.0, 31.5, 31.4, 31.7, 31.3])
    assert curve.rise_to_fourth == 3.5
    assert curve.worst_fall_after == pytest.approx(0.4)


@LOOPS
def test_a_receiver_of_equal_arithmetic_does_not_drift(tiny: Make, changes: dict):
    found = measure_drift(tiny(**changes), Clip("scene", scene(9, 16, 32)), 12, torch.float32, every=4)
    assert found.groups == [0, 4, 8, 9, 10, 11, 12]
    assert found.encoder_psnr == found.receiver_psnr
    assert found.loss == 0


def test_a_receiver_in_bfloat16_is_measured_against_the_original(tiny: Make):
    clip = Clip("scene", scene(5, 16, 32))
    found = measure_drift(tiny(), clip, 1, torch.bfloat16, every=1)
    original = as_unit(tensor(clip.frames)[0].transpose(0, 1))
    tok = tiny()
    shown = as_unit(tok.decode(tok.encode(tensor(clip.frames)).indices)[0].transpose(0, 1))
    assert found.encoder_psnr[1] == pytest.approx(psnr_from_mse(frame_mse(original, shown)[1:].mean().item()), abs=1e-3)
    assert found.receiver_psnr != found.encoder_psnr
    assert found.receiver == "bfloat16"


def test_drift_loss_is_the_mean_of_the_last_tenth():
    assert Drift("bfloat16", list(range(20)), [30.0] * 20, [30.0] * 18 + [29.0, 28.0]).loss == 1.5


def test_a_clip_playsplay_to_and_fro_without_a_jump():
    frames = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    played = np.concatenate(list(play_to_and_fro(frames, 4, 4))).flatten().tolist()
    assert played == [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 4]
