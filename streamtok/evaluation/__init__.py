"""Evaluation: metrics, baselines, reports.

`evaluate_folder(tok, [folder])` judges a tokenizer on the first 33 frames of each clip at 256 lines.
"""

from streamtok.evaluation.dataset import Clip, ClipSet, find_clips
from streamtok.evaluation.evaluate import ClipResult, Evaluation, evaluate_clips, evaluate_folder, reconstruct

__all__ = [
    "Clip",
    "ClipResult",
    "ClipSet",
    "Evaluation",
    "evaluate_clips",
    "evaluate_folder",
    "find_clips",
    "reconstruct",
]
