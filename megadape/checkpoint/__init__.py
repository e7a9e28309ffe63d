"""Checkpoints: complete or not there."""

from megadape.checkpoint.store import Checkpoint, CheckpointStore

__all__ = ["Checkpoint", "CheckpointStore"]
