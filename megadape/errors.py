"""What a user can do wrong.

Every mistake that a user can make raises a subclass of ``MegadapeError`` whose message is one clear sentence: what is
wrong, where (file, line, key), what to do. The command line prints that sentence and exits 2. Broken invariants are
``assert``.
"""

from __future__ import annotations

from typing import ClassVar


class MegadapeError(Exception):
    """A mistake that the user can mend; the message says how."""

    exit_code: ClassVar[int] = 2
    """Of a command that ends with it."""


class ConfigurationError(MegadapeError):
    """A setting is unknown, malformed, or contradicts another."""


class DataError(MegadapeError):
    """A corpus, an indexed dataset or a sample index is missing, malformed or too small."""


class TokenizerError(MegadapeError):
    """A tokenizer's file is missing or malformed, or a text cannot be encoded with it."""


class AttentionError(MegadapeError):
    """An attention call asks for what no backend, or not the named one, can do."""


class CheckpointError(MegadapeError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class TrainingError(MegadapeError):
    """A run cannot start or go on."""


class RankLostError(TrainingError):
    """This rank ends because another one is gone or silent: nobody's mistake, as far as it can tell."""

    exit_code = 1


class EvaluationError(MegadapeError):
    """An evaluation is asked for what the data or the run cannot give."""


class SlurmError(MegadapeError):
    """Slurm is not there or refuses, or a script, a node list or a node is not as it must be."""


class MonitoringError(MegadapeError):
    """A folder that holds no runs is to be looked at."""


class ExportError(MegadapeError):
    """A folder for Hugging Face cannot be made, or what is to be imported is none or damaged."""
