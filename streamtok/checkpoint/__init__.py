"""Checkpoints: our folders, and published Cosmos checkpoints."""

from streamtok.checkpoint.by_name import WEIGHTS, load_checkpoint
from streamtok.checkpoint.cosmos import from_cosmos, to_published
from streamtok.checkpoint.folder import read_folder, save

__all__ = ["WEIGHTS", "from_cosmos", "load_checkpoint", "read_folder", "save", "to_published"]
