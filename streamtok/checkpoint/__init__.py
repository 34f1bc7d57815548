"""Reads and writes checkpoints: our folders, published Cosmos checkpoints, and diffusers' folders."""

from streamtok.checkpoint.by_name import WEIGHTS, load_checkpoint
from streamtok.checkpoint.cosmos import from_cosmos, to_published
from streamtok.checkpoint.diffusers import from_diffusers, save_diffusers
from streamtok.checkpoint.folder import read_folder, save

__all__ = [
    "WEIGHTS",
    "from_cosmos",
    "from_diffusers",
    "load_checkpoint",
    "read_folder",
    "save",
    "save_diffusers",
    "to_published",
]
