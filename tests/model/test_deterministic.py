"""Deterministic mode: bit-identical tokens for any number of slots and any split, whole clips included, in float32."""

import pytest
import torch

from tests.kit.models import decode_by_steps, encode_by_steps, tiny, video


@pytest.mark.parametrize("name", ["slim", "dv4x8x8", "dv8x8x8", "cv4x8x8", "slim-p"])
def test_whole_clips_and_steps_of_any_slots_agree_to_the_bit(name):
    model = tiny(name, deterministic=True, dtype=torch.float32)
    clip = video(1 + 4 * model.group, 24, 40, batch=3, dtype=torch.float32)
    whole = model.encode(clip)
    latent, grids = encode_by_steps(model, clip)
    assert torch.equal(latent, whole.latent)
    assert torch.equal(grids, whole.tokens)
    for row in range(3):
        assert torch.equal(encode_by_steps(model, clip[row : row + 1])[0], whole.latent[row : row + 1])
        assert torch.equal(model.encode(clip[row : row + 1]).latent, whole.latent[row : row + 1])
    frames = model.decode(whole.tokens)
    assert torch.equal(decode_by_steps(model, grids), frames)
    assert torch.equal(model.decode(whole.tokens[1:2]), frames[1:2])


def test_paused_slots_change_nothing():
    model = tiny("dv4x8x8", deterministic=True, dtype=torch.float32)
    clip = video(9, batch=2, dtype=torch.float32)
    stream = model.stream(slots=2, height=16, width=32)
    latents = []
    for slot in (0, 1):
        active = [slot == 0, slot == 1]
        outs = [stream.step(part, active=active) for part in (clip[:, :, :1], clip[:, :, 1:5], clip[:, :, 5:])]
        latents.append(torch.cat([out.latent[slot] for out in outs], 1))
    assert torch.equal(torch.stack(latents), model.encode(clip).latent)
    stream.step(clip[:, :, 1:5], active=[False, False])
