"""What is exported: a checkpoint of a run, its settings, its tokenizer, and tokens to try it on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from megadape.checkpoint import Checkpoint, CheckpointFolder
from megadape.checkpoint.manifest import MODEL_ONLY, find_problem
from megadape.config import load
from megadape.config.run import RunSettings
from megadape.data import IndexedDataset
from megadape.data.build import token_stream
from megadape.data.manifest import TokenizerManifest, load_manifest, load_tokenizer
from megadape.data.tokenizers.base import Tokenizer
from megadape.errors import CheckpointError, DataError, ExportError
from megadape.model import GPT, Architecture

EXPORTED = "exported"
"""Key of a checkpoint's state: the record of the folder that it was imported from."""


@dataclass(frozen=True)
class Source:
    """A run and one of its checkpoints."""

    run: RunSettings
    checkpoint: Checkpoint

    @cached_property
    def state(self) -> dict[str, Any]:
        """What the checkpoint knows beside tensors."""
        return self.checkpoint.state()

    @cached_property
    def architecture(self) -> Architecture:
        """Of the model."""
        try:
            return Architecture.model_validate(self.state["architecture"])
        except (KeyError, ValidationError) as error:
            raise CheckpointError(f"{self.checkpoint.path} does not say what its model is: {error}") from error

    @property
    def prefix(self) -> Path:
        """Of the dataset whose tokenizer is the model's; all of a blend have the same."""
        return self.run.data.parts[0].prefix

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Of the run's data."""
        return load_tokenizer(self.prefix)

    @cached_property
    def tokenizer_record(self) -> TokenizerManifest:
        """The same, as the dataset's manifest has it."""
        return load_manifest(self.prefix).tokenizer

    def build_model(self) -> GPT:
        """The checkpoint's model, on the CPU, in evaluation mode.

        Raises:
            CheckpointError: its tensors do not fit its architecture.
        """
        with torch.device("meta"):
            model = GPT(self.architecture)
        try:
            model.load_state_dict(self.checkpoint.tensors("model"), assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"{self.checkpoint.path} does not fit its own architecture: {error}") from error
        return model.float().eval()

    def sample_tokens(self, count: int) -> np.ndarray:
        """Tokens of the run's data, [count]; where there are fewer, this room's own text goes on, again and again."""
        dataset = IndexedDataset(self.prefix)
        tokens = token_stream(dataset, np.arange(len(dataset)), limit=count)
        if len(tokens) < count:
            own = self.tokenizer.encode(sample_text()).astype(np.int64)
            tokens = np.concatenate([tokens, np.resize(own, count - len(tokens))])
        return tokens


def open_source(run_dir: Path, step: int | None = None) -> Source:
    """A run and its newest sound checkpoint, or that of a step.

    Raises:
        ExportError: it is no run folder, or has no such checkpoint.
        CheckpointError: the checkpoint is damaged.
        ConfigurationError: its settings cannot be read.
    """
    settings = run_dir / "settings.yaml"
    if not settings.is_file():
        raise ExportError(f"{run_dir} is no run folder: it has no settings.yaml; train one with megadape train")
    run, folder = load([settings]), CheckpointFolder(run_dir / "checkpoints")
    if step is None:
        newest = folder.newest(MODEL_ONLY)
        if newest is None:
            raise ExportError(f"{run_dir} has no valid checkpoint: train it first, with megadape train")
        return Source(run, newest)
    there = folder.list()
    found = next((one for one in there if one.step == step), None)
    if found is None:
        steps = ", ".join(str(one.step) for one in reversed(there)) or "none"
        raise ExportError(f"{run_dir} has no checkpoint of step {step}; there are {steps}")
    problem = find_problem(found.path, MODEL_ONLY)
    if problem is not None:
        raise CheckpointError(f"{found.path} is not exported: {problem}")
    return Source(run, found)


def check_vocabulary(source: Source) -> None:
    """``ExportError`` unless the model knows all tokens of its tokenizer."""
    vocabulary = source.architecture.model.vocab_size
    assert vocabulary is not None
    if source.tokenizer.vocab_size > vocabulary:
        raise ExportError(
            f"the tokenizer of {source.prefix} has {source.tokenizer.vocab_size} tokens, but the model of "
            f"{source.checkpoint.path} knows {vocabulary}: the dataset is not the one that it was trained on"
        )


def check_data(source: Source) -> None:
    """``ExportError`` unless the datasets are those that the checkpoint was trained on."""
    known = source.state.get("identity", {}).get("data", {})
    parts = source.run.data.parts
    for place, part in enumerate(parts):
        there = known if len(parts) == 1 and source.run.data.blend is None else known.get(f"blend[{place}]", {})
        digest = there.get("index")
        if digest is not None and digest != load_manifest(part.prefix).idx_sha256:
            raise DataError(
                f"{part.prefix} is not the dataset that {source.checkpoint.path} was trained on (the digest of its "
                ".idx differs): restore it, since the tokenizer is taken from there"
            )


def sample_text() -> str:
    """Text that is always at hand."""
    return (Path(__file__).parent / "hf" / "modeling_megadape.py").read_text(encoding="utf-8")
