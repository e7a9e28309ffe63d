"""Checkpoints: complete or not there, of any layout for any other."""

from megadape.checkpoint.folder import CheckpointFolder
from megadape.checkpoint.reading import Checkpoint
from megadape.checkpoint.writer import CheckpointWriter, Saved

__all__ = ["Checkpoint", "CheckpointFolder", "CheckpointWriter", "Saved"]
