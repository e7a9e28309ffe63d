"""DeepSpeed's engine with ZeRO 0 to 3 (deepspeed 0.19.8), behind the same interface as the reference.

Half precision is torch's autocast inside the objective, and DeepSpeed sees a float32 model: parameters are their own
master weights, accumulation over micro-batches and exchange between ranks are float32 at every stage. DeepSpeed's own
bf16 would start Adam one step late at stage 0 and accumulate in bf16 at stage 3 whatever it is told; its own fp16 keeps
fp16 parameters and refuses a CPU. fp16's loss scale is ours, told to the ZeRO optimizer, which divides it out before it
clips and skips an update whose gradients are not finite.

Stage 0 has no ZeRO optimizer: DeepSpeed averages, and this engine takes the norm, over tensor-parallel ranks too, and
clips, as the reference does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from megadape.model import GPT
from megadape.parallel.mesh import Mesh
from megadape.parallel.settings import ParallelSettings
from megadape.training.engines.admission import Admit, ZeroGate, admit_all
from megadape.training.engines.base import EngineState, StepResult
from megadape.training.engines.deepspeed_config import engine_config
from megadape.training.engines.deepspeed_setup import (
    MeshTopology,
    import_deepspeed,
    initialise_deepspeed,
    mark_tensor_parallel,
)
from megadape.training.engines.gradients import Gradients
from megadape.training.engines.loss_scale import build_loss_scale
from megadape.training.engines.objective import Objective
from megadape.training.engines.zero_state import PARTITIONS, Partitions, read_partitions, write_partitions
from megadape.training.optimizer import (
    OptimizerBuilder,
    build_optimizer,
    read_moments,
    set_learning_rate,
    write_moments,
)
from megadape.training.settings import TrainingSettings

__all__ = ["DeepSpeedEngine", "import_deepspeed"]


class DeepSpeedEngine:
    """See ``megadape.training.engines.base.Engine``."""

    def __init__(
        self,
        model: GPT,
        settings: TrainingSettings,
        parallel: ParallelSettings,
        mesh: Mesh,
        optimizer: OptimizerBuilder = build_optimizer,
    ) -> None:
        assert mesh.pp.size == 1
        self.mesh, self.zero, self.updates = mesh, parallel.zero, 0
        self.clip = settings.optimizer.clip
        self.gradients = Gradients(model, mesh)
        self.parameters = self.gradients.parameters
        self.optimizer = optimizer(model, settings.optimizer)
        self.loss_scale = build_loss_scale(settings.precision, settings.loss_scale)
        self.objective = Objective(model, settings.precision, mesh.device)
        mark_tensor_parallel(model, mesh)
        if self.zero == 3:
            gather_by_block(self.objective)
        self.engine = initialise_deepspeed(
            settings,
            mesh,
            engine_config(settings, parallel, mesh.data_ranks, pinned=mesh.device.type == "cuda"),
            model=self.objective,
            optimizer=self.optimizer,
            mpu=MeshTopology(mesh),
        )
        self.gate = ZeroGate(self.engine.optimizer, self.zero) if self.zero else None

    def train_step(self, micro_batches: Sequence[Tensor], learning_rate: float, admit: Admit = admit_all) -> StepResult:
        """One update."""
        assert len(micro_batches) == self.engine.gradient_accumulation_steps()
        set_learning_rate(self.optimizer, learning_rate)
        scale = self.loss_scale.value if self.loss_scale else None
        if self.zero and scale is not None:
            self.engine.optimizer.override_loss_scale(scale)
        mean = self.mesh.mean_over_data(self._accumulate(micro_batches, scale or 1.0))
        # the loss is read with the norm: earlier, a GPU would be waited for twice
        norm, skipped = self._finish(scale or 1.0, lambda norm: admit(float(mean), norm))
        loss = float(mean)
        if self.loss_scale is not None:
            self.loss_scale.update(not math.isfinite(norm), self.updates + 1)
        elif not math.isfinite(norm):
            admit(loss, norm)  # the update is left out already: it is only told
        self.updates += not skipped
        return StepResult(loss, norm, skipped, scale)

    def _accumulate(self, micro_batches: Sequence[Tensor], scale: float) -> Tensor:
        """Forward and backward of all micro-batches; the mean loss."""
        losses = []
        for index, tokens in enumerate(micro_batches):
            loss = self.engine(tokens)
            # a ZeRO optimizer multiplies by the scale that it was told
            self.engine.backward(loss if self.zero else loss * scale)
            losses.append(loss.detach())
            if index + 1 < len(micro_batches):
                self.engine.step()
        return torch.stack(losses).mean()

    def _finish(self, scale: float, admit: Callable[[float], bool]) -> tuple[float, bool]:
        """Clip and update; the norm before clipping, the same on every rank, and whether nothing was changed."""
        if self.gate is not None:
            self.gate.ask(admit)
            self.engine.step()
            return self.gate.norm, self.gate.refused or not math.isfinite(self.gate.norm)
        self.gradients.divide(scale)
        exact = self.gradients.norm()
        norm = float(exact)
        skipped = not math.isfinite(norm) or not admit(norm)
        if skipped:
            self.gradients.clear()  # the optimizer passes over parameters without a gradient
        else:
            self.gradients.clip(exact, self.clip)
        self.engine.step()
        return norm if math.isfinite(norm) else math.inf, skipped

    @torch.no_grad()
    def evaluate(self, tokens: Tensor) -> Tensor:
        """Mean loss of [b, s + 1]."""
        loss: Tensor = self.objective(tokens)
        return loss

    def state(self) -> EngineState:
        """This rank's part, gathered from ZeRO's partitions."""
        scale = self.loss_scale.state() if self.loss_scale else None
        if self.zero:
            values, moments = read_partitions(self._partitions(), self.parameters, self.updates)
            return EngineState(self.updates, values, moments, scale)
        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        moments = read_moments(self.optimizer, self.parameters) if self.updates else {}
        return EngineState(self.updates, values, moments, scale)

    @torch.no_grad()
    def load_state(self, state: EngineState) -> None:
        """Take up a state in place."""
        self.updates = state.updates
        if self.loss_scale and state.loss_scale:
            self.loss_scale.load_state(state.loss_scale)
        if self.zero:
            write_partitions(self._partitions(), self.parameters, state.updates, state.parameters, state.moments)
            return
        for name, parameter in self.parameters.items():
            parameter.copy_(state.parameters[name])
        if state.moments:
            write_moments(self.optimizer, self.parameters, state.updates, state.moments)

    def _partitions(self) -> Partitions:
        return PARTITIONS[self.zero](self.engine.optimizer)


def gather_by_block(objective: Objective) -> None:
    """Say when ZeRO 3 must gather which parameters.

    DeepSpeed gathers a module's parameters around its forward, but our encodings and mixers are read, not called: a
    block is gathered as a whole. What lies outside of blocks (embedding, final norm, output layer, an encoding that all
    layers share) is read in several places, and gathered around the whole objective.
    """
    from deepspeed.runtime.zero.partition_parameters import register_external_parameter
    from deepspeed.utils import set_z3_leaf_module

    blocks = list(objective.model.blocks.values())
    for block in blocks:
        set_z3_leaf_module(block, True)
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    for parameter in objective.model.parameters():
        if id(parameter) not in inside:
            register_external_parameter(objective, parameter)
