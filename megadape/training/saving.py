"""A run's state to a checkpoint and back, whatever the layout.

What is written does not know of ranks: full named tensors, and JSON. Each rank's part is joined when saving and cut out
when loading, so that a checkpoint of any layout serves any other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from megadape.checkpoint import Checkpoint, CheckpointStore
from megadape.checkpoint.layout import gather_full, take_own
from megadape.data.indexed_format import idx_path
from megadape.machine import versions
from megadape.model import GPT, Architecture
from megadape.parallel.mesh import Mesh
from megadape.parameters import parameter_table
from megadape.training.engine import Engine, EngineState
from megadape.training.identity import check_identity, file_digest
from megadape.training.protocols import Run
from megadape.training.random import random_state, restore_random_state

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0
    consumed_samples: int = 0
    wandb_id: str | None = None


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
        self.store = CheckpointStore(run.run_dir / "checkpoints", run.checkpoint.keep)

    def save(self, progress: Progress) -> Path | None:
        """Write a checkpoint, a collective; its path on the first rank."""
        state = self.engine.state()
        random = self.mesh.gather(random_state(self.mesh.device, self.streams))
        model, optimizer = self._gather(state)
        path = None
        if self.mesh.is_first:
            assert model is not None
            content = {
                "format": 1,
                "updates": state.updates,
                "loss_scale": state.loss_scale,
                "progress": asdict(progress),
                "identity": self._identity(),
                "architecture": self.architecture.model_dump(mode="json"),
                "layout": {"tp": self.mesh.tp.size, "pp": self.mesh.pp.size, "dp": self.mesh.dp.size},
                "random": random,
                "versions": versions(),
                "kernels": self.kernels,
            }
            path = self.store.save(progress.step, {"model": model, "optimizer": optimizer}, content)
        self.mesh.barrier()
        return path

    def resume(self) -> Progress:
        """Take up the newest checkpoint, if there is one.

        Raises:
            CheckpointError: it belongs to another run.
        """
        checkpoint = self.store.newest()
        return Progress() if checkpoint is None else self._take_up(checkpoint)

    def _gather(self, state: EngineState) -> tuple[dict[str, Tensor] | None, dict[str, Tensor]]:
        """Full parameters and moments (MOMENT/NAME) on the first rank."""
        model = gather_full(state.parameters, self.table, self.mesh)
        optimizer = {}
        for moment, tensors in state.moments.items():
            full = gather_full(tensors, self.table, self.mesh) or {}
            optimizer.update({f"{moment}/{name}": tensor for name, tensor in full.items()})
        return model, optimizer

    def _take_up(self, checkpoint: Checkpoint) -> Progress:
        content = checkpoint.state()
        check_identity(checkpoint.path, content["identity"], self._identity())
        full: dict[str, dict[str, Tensor]] = {}
        for key, tensor in checkpoint.tensors("optimizer").items():
            moment, _, name = key.partition("/")
            full.setdefault(moment, {})[name] = tensor
        moments = {moment: take_own(tensors, self.table) for moment, tensors in full.items()}
        parameters = take_own(checkpoint.tensors("model"), self.table)
        self.engine.load_state(EngineState(content["updates"], parameters, moments, content.get("loss_scale")))
        self._restore_random(content)
        return Progress(**content["progress"])

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
            "data": {
                "index": file_digest(idx_path(self.run.data.prefix)),
                "split": f"{self.run.data.split} by {self.run.data.split_by}",
                "recipe": self.run.data.recipe,
                "seed": self.run.data.seed,
            },
        }
