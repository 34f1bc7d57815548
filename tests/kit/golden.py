"""Vectors that the published code made, and the tokenizers and clips that they belong to."""

import json
from pathlib import Path

import numpy as np
import torch

import streamtok
from tests.golden import weights

GOLDEN = Path(__file__).parent.parent / "golden"


def load(name: str):
    """The golden tokenizer, its input and its recorded outputs."""
    shapes = json.loads((GOLDEN / "shapes.json").read_text())[name]
    case = np.load(GOLDEN / f"{name}.npz")
    state = {key: torch.from_numpy(value) for key, value in weights.golden_state_dict(shapes).items()}
    tok = streamtok.from_cosmos(state, json.loads(str(case["config"])))
    clip = weights.golden_video(int(case["input_seed"]), case["input_shape"])
    assert weights.array_digest(clip) == json.loads(str(case["meta"]))["input_sha256"]
    recorded = {key: torch.from_numpy(case[key]) for key in case if case[key].dtype.kind in "fi"}
    return tok, torch.from_numpy(clip), recorded
