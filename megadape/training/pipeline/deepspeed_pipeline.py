"""Pipelines with DeepSpeed's ZeRO 1 (deepspeed 0.19.8): DeepSpeed's own 1F1B, or torch's schedules with DeepSpeed as
the optimizer.

As without a pipeline, half precision is autocast inside the stages and DeepSpeed sees a float32 model. ZeRO 1 it is,
always: at stage 0 DeepSpeed clips each stage by its own norm, at 2 and 3 it reduces gradients that stages still add to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from megadape.model import GPT
from megadape.parallel.group import Group
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
from megadape.training.engines.zero_state import PARTITIONS, Partitions, read_partitions, write_partitions
from megadape.training.optimizer import OptimizerBuilder, build_optimizer, set_learning_rate
from megadape.training.pipeline.evaluation import PipelineEvaluator
from megadape.training.pipeline.stage import build_stages, expect_all
from megadape.training.pipeline.torch_pipeline import TorchPipelineWorker
from megadape.training.settings import TrainingSettings


class _ZeroPipeline:
    """What both engines share: parameters as DeepSpeed must see them, and state in ZeRO's partitions."""

    engine: Any
    """DeepSpeed's."""

    def __init__(
        self,
        model: GPT,
        settings: TrainingSettings,
        parallel: ParallelSettings,
        mesh: Mesh,
        optimizer: OptimizerBuilder = build_optimizer,
    ) -> None:
        assert mesh.pp.size > 1
        assert parallel.zero == 1, "checked when settings are read"
        self.settings, self.mesh, self.updates = settings, mesh, 0
        self.gradients = Gradients(model, mesh)
        self.parameters = self.gradients.parameters
        self.optimizer = optimizer(model, settings.optimizer)
        self.loss_scale = build_loss_scale(settings.precision, settings.loss_scale)
        self.config = engine_config(settings, parallel, mesh.data_ranks, pinned=mesh.device.type == "cuda")
        mark_tensor_parallel(model, mesh)
        self.copies = () if mesh.pp.rank == 0 else tuple(parameter for parameter, _ in self.gradients.shared)

    def state(self) -> EngineState:
        """This rank's part, gathered from ZeRO's partitions."""
        values, moments = read_partitions(self._partitions(), self.parameters, self.updates)
        return EngineState(self.updates, values, moments, self.loss_scale.state() if self.loss_scale else None)

    @torch.no_grad()
    def load_state(self, state: EngineState) -> None:
        """Take up a state in place."""
        self.updates = state.updates
        if self.loss_scale and state.loss_scale:
            self.loss_scale.load_state(state.loss_scale)
        write_partitions(self._partitions(), self.parameters, state.updates, state.parameters, state.moments)

    def _start(self, config: dict[str, Any], **arguments: object) -> Any:  # noqa: ANN401
        """DeepSpeed's engine."""
        for copy in self.copies:  # only now: a PipelineModule takes such marks off
            copy.ds_pipe_replicated = True  # type: ignore[attr-defined]  # it does not count in the gradient's norm
        engine = initialise_deepspeed(self.settings, self.mesh, config, optimizer=self.optimizer, **arguments)
        self.gate = ZeroGate(engine.optimizer, zero=1)
        return engine

    def _partitions(self) -> Partitions:
        return PARTITIONS[1](self.engine.optimizer)

    def _conclude(self, loss: float, scale: float | None, admit: Admit) -> StepResult:
        """The result of an update that DeepSpeed has made, or left out: refused, or its gradient was not finite."""
        finite = math.isfinite(self.gate.norm)
        if self.loss_scale is not None:
            self.loss_scale.update(not finite, self.updates + 1)
        elif not finite:
            admit(loss, self.gate.norm)  # it is only told
        skipped = self.gate.refused or not finite
        self.updates += not skipped
        return StepResult(loss, self.gate.norm, skipped, scale)


class DeepSpeedPipelineEngine(_ZeroPipeline):
    """See ``megadape.training.engines.base.Engine``: DeepSpeed's own pipeline, 1F1B."""

    def __init__(
        self,
        model: GPT,
        settings: TrainingSettings,
        parallel: ParallelSettings,
        mesh: Mesh,
        optimizer: OptimizerBuilder = build_optimizer,
    ) -> None:
        super().__init__(model, settings, parallel, mesh, optimizer)
        assert settings.precision != "fp16", "checked when settings are read"
        import_deepspeed(mesh.device).init_distributed(
            dist_backend="nccl" if mesh.device.type == "cuda" else "gloo", verbose=False
        )
        from megadape.training.pipeline.deepspeed_module import StageModule

        self.stages = build_stages(model, settings.sequence_length, settings.precision, parallel, mesh)
        (stage,) = self.stages
        self.evaluator = PipelineEvaluator(model, self.stages, parallel, mesh)
        # by default DeepSpeed sends slices of activations, which it takes to be the same on tensor-parallel ranks:
        # with sequence parallelism they are not
        sliced = {"pipe_partitioned": False, "grad_partitioned": False, "activation_checkpoint_interval": 0}
        module = StageModule(stage, self.gradients.shared, mesh)
        self.engine = self._start({**self.config, "pipeline": sliced}, model=module)

    def train_step(self, micro_batches: Sequence[Tensor], learning_rate: float, admit: Admit = admit_all) -> StepResult:
        """One update."""
        assert len(micro_batches) == self.engine.gradient_accumulation_steps()
        set_learning_rate(self.optimizer, learning_rate)
        expect_all(self.stages, micro_batches)
        # DeepSpeed tells the ranks the loss after the update: here they are told before, all at this moment
        self.gate.ask(lambda norm: admit(float(self.engine._aggregate_total_loss()), norm))
        loss = self.engine.train_batch(iter([(tokens[:, :-1], tokens[:, 1:]) for tokens in micro_batches]))
        return self._conclude(float(loss), None, admit)

    def evaluate(self, tokens: Tensor) -> Tensor:
        """Mean loss of [b, s + 1]; not through DeepSpeed's pipeline, whose buffers have the shape of training."""
        return self.evaluator.loss(tokens)


class DeepSpeedScheduleEngine(_ZeroPipeline):
    """See ``megadape.training.engines.base.Engine``: torch's schedules work, DeepSpeed averages, clips and updates."""

    def __init__(
        self,
        model: GPT,
        settings: TrainingSettings,
        parallel: ParallelSettings,
        mesh: Mesh,
        optimizer: OptimizerBuilder = build_optimizer,
    ) -> None:
        super().__init__(model, settings, parallel, mesh, optimizer)
        self.worker = TorchPipelineWorker(model, settings, parallel, mesh)
        # to DeepSpeed an update is one large batch; it must not send gradients off while the schedule adds to them
        whole = {
            "train_micro_batch_size_per_gpu": settings.global_batch_size // mesh.data_ranks,
            "gradient_accumulation_steps": 1,
            "zero_optimization": {**self.config["zero_optimization"], "overlap_comm": False},
        }
        self.engine = self._start({**self.config, **whole}, model=model, mpu=StagesTopology(mesh))

    def train_step(self, micro_batches: Sequence[Tensor], learning_rate: float, admit: Admit = admit_all) -> StepResult:
        """One update."""
        set_learning_rate(self.optimizer, learning_rate)
        scale = self.loss_scale.value if self.loss_scale else None
        if scale is not None:
            self.engine.optimizer.override_loss_scale(scale)
        mean = self.mesh.mean_over_data(self.worker.run(micro_batches, scale or 1.0))
        sum_over_stages(self.gradients.shared)
        self.gate.ask(lambda norm: admit(float(mean), norm))
        self.engine.set_gradient_accumulation_boundary(is_boundary=True)
        self.engine.allreduce_gradients()
        self.engine.step()
        return self._conclude(float(mean), scale, admit)

    def evaluate(self, tokens: Tensor) -> Tensor:
        """Mean loss of [b, s + 1]."""
        return self.worker.evaluate(tokens)


def sum_over_stages(shared: Sequence[tuple[nn.Parameter, Group]]) -> None:
    """Sum the gradients of parameters that several stages hold; one that a stage does not use counts as zero."""
    for parameter, group in shared:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        group.all_reduce(parameter.grad)


class StagesTopology(MeshTopology):
    """The mesh to a DeepSpeed that knows nothing of stages: a model's ranks share one norm, over all its stages, in
    which tensor-parallel ranks alone hold parameters twice."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh, mesh.model)
        self._tensor: Group = mesh.tp

    def get_tensor_model_parallel_rank(self) -> int:
        """Which part of every layer."""
        return self._tensor.rank

    def get_tensor_model_parallel_world_size(self) -> int:
        """How many parts."""
        return self._tensor.size
