"""A run's state to a checkpoint and back, whatever the layout.

What is written does not know of ranks: full named tensors, and JSON. Each rank's part is joined when saving and cut out
when loading, so that a checkpoint of any layout serves any other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from megadape.checkpoint import Checkpoint, CheckpointWriter, Saved
from megadape.errors import CheckpointError
from megadape.machine import versions
from megadape.model import GPT, Architecture
from megadape.parallel.mesh import Mesh
from megadape.parameters import parameter_table
from megadape.training.engines.base import Engine, EngineState
from megadape.training.identity import check_identity, data_identity, flatten
from megadape.training.protocols import Run
from megadape.training.random import random_state, restore_random_state

logger = logging.getLogger(__name__)

BEGINS_RUN = "begins_run"
"""Key of the state of a checkpoint that holds parameters alone, for a run to begin with."""

FREE_OF_MODEL = {"attention_backend", "dropout", "attention_dropout", "documents", "end_of_document"}
"""Settings of the model that such a run chooses: they decide how it is trained, not what it computes."""


@dataclass
class Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0
    consumed_samples: int = 0
    wandb_id: str | None = None
    anomalies: dict[str, Any] | None = None
    """State of ``AnomalyWatch``."""


class Saver:
    """The checkpoints of a run, as one of its ranks sees them.

    Args:
        run: settings.
        architecture: with its vocabulary known.
        mesh: the ranks.
        model: this rank's part.
        engine: around the model.
        kernels: names of the kernels in use, kept for the record.
    """

    def __init__(
        self,
        run: Run,
        architecture: Architecture,
        mesh: Mesh,
        model: GPT,
        engine: Engine,
        kernels: Mapping[str, str],
    ) -> None:
        self.run, self.architecture, self.mesh, self.engine = run, architecture, mesh, engine
        self.kernels = dict(kernels)
        self.table = parameter_table(model)
        self.streams = model.position_streams
        self.writer = CheckpointWriter(run.run_dir / "checkpoints", mesh, run.checkpoint)
        self.data_identity = data_identity(run.data)

    @property
    def failed(self) -> bool:
        """Whether a checkpoint that is written in the background has failed on this rank; ``finish`` says how."""
        return self.writer.failed

    def save(self, progress: Progress) -> Saved | None:
        """Write a checkpoint, a collective; None where it is written in the background.

        Raises:
            CheckpointError: on all ranks: this one, or the one that was still being written, failed on some rank.
        """
        state = self.engine.state()
        random = self.mesh.gather(random_state(self.mesh.device, self.streams))
        content = {
            "format": 2,
            "updates": state.updates,
            "loss_scale": state.loss_scale,
            "progress": asdict(progress),
            "identity": self._identity(),
            "architecture": self.architecture.model_dump(mode="json"),
            "training": self.run.training.model_dump(mode="json"),
            "layout": {"tp": self.mesh.tp.size, "pp": self.mesh.pp.size, "dp": self.mesh.dp.size},
            "random": random,
            "versions": versions(),
            "kernels": self.kernels,
        }
        return self.writer.save(progress.step, state.parameters, state.moments, self.table, content)

    def finish(self) -> Saved | None:
        """Wait for what is written in the background, a collective.

        Raises:
            CheckpointError: on all ranks: it failed on some rank.
        """
        return self.writer.finish()

    def resume(self) -> Progress:
        """Become the one start of the run that may write, and take up the newest checkpoint, if there is one.

        Raises:
            CheckpointError: it belongs to another run, or the folder to a later restart of this job.
        """
        checkpoint = self.writer.take_over()
        return Progress() if checkpoint is None else self._take_up(checkpoint)

    def _take_up(self, checkpoint: Checkpoint) -> Progress:
        content = checkpoint.state()
        if content.get(BEGINS_RUN):
            return self._begin_with(checkpoint, content["architecture"])
        if "identity" not in content:  # converted from another project: parameters alone, nothing to go on from
            raise CheckpointError(
                f"{checkpoint.path} holds parameters alone and is no run to go on with: choose another run_dir"
            )
        check_identity(checkpoint.path, content["identity"], self._identity())
        self._tell_differences(content.get("training", {}))
        parameters, moments = checkpoint.read_own(self.table)
        self.engine.load_state(EngineState(content["updates"], parameters, moments, content.get("loss_scale")))
        self._restore_random(content)
        return Progress(**content["progress"])

    def _begin_with(self, checkpoint: Checkpoint, architecture: Mapping[str, Any]) -> Progress:
        """Begin with the parameters of an imported model; how it is trained, and on what, is this run's own choice."""
        free: Any = {"training_length": True, "model": FREE_OF_MODEL}
        saved = Architecture.model_validate(architecture).model_dump(mode="json", exclude=free)
        check_identity(checkpoint.path, saved, self.architecture.model_dump(mode="json", exclude=free))
        parameters, _ = checkpoint.read_own(self.table)
        self.engine.load_state(EngineState(0, parameters, {}))
        if self.mesh.is_first:
            logger.info("beginning with the parameters of %s", checkpoint.path)
        return Progress()

    def _tell_differences(self, saved: Mapping[str, Any]) -> None:
        """Settings win where they differ from the checkpoint's: learning rate, betas, decay, steps, precision."""
        before, now = flatten(saved), flatten(self.run.training.model_dump(mode="json"))
        differences = [
            f"training.{key} {before[key]} -> {now.get(key)}" for key in before if before[key] != now.get(key)
        ]
        if differences and self.mesh.is_first:
            logger.warning("settings differ from the checkpoint's, and hold from here on: %s", "; ".join(differences))

    def _restore_random(self, content: Mapping[str, Any]) -> None:
        mesh, streams = self.mesh, content["random"]
        here = {"tp": mesh.tp.size, "pp": mesh.pp.size, "dp": mesh.dp.size}
        there = content.get("layout", {"tp": 1, "pp": 1, "dp": len(streams)})
        if here == there:
            restore_random_state(streams[mesh.rank], mesh.device, self.streams)
        elif mesh.is_first:
            logger.warning("the checkpoint is of layout %s, this run of %s: random streams start anew", there, here)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint and the settings must agree on for the run to go on."""
        return {
            **self.architecture.model_dump(mode="json", exclude={"model": {"attention_backend"}}),
            "seed": self.run.seed,
            "global_batch_size": self.run.training.global_batch_size,
            "data": self.data_identity,
        }
