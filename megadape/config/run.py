"""The root settings of a run, assembled from the settings class that stands beside each thing."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from megadape.attention import MixerSettings, NoMixer
from megadape.checkpoint.settings import CheckpointSettings
from megadape.data import DataSettings
from megadape.evaluation.settings import EvaluationSettings
from megadape.kernels import KernelSettings
from megadape.model import Architecture, ModelSettings
from megadape.parallel.settings import ParallelSettings
from megadape.positions import PositionSettings
from megadape.positions.rope import RopeSettings
from megadape.settings import Settings
from megadape.training.pipeline.placement import check_pipeline
from megadape.training.profiling import ProfileSettings
from megadape.training.settings import LoggingSettings, TrainingSettings, ValidationSettings, check_engine
from megadape.training.supervision.anomalies import AnomalySettings
from megadape.training.supervision.stop import StopSettings
from megadape.training.supervision.watchdog import WatchSettings


def check_tensor_parallel(model: ModelSettings, parallel: ParallelSettings, length: int) -> None:
    """Raise ``ValueError`` unless everything that tensor parallelism splits divides evenly."""
    sizes = {"model.num_heads": model.num_heads, "model.ffn_hidden_size": model.ffn_size}
    if model.vocab_size is not None:
        sizes["model.vocab_size"] = model.vocab_size
    if parallel.sequence_parallel:
        sizes["training.sequence_length (parallel.sequence_parallel)"] = length
    for name, size in sizes.items():
        if size % parallel.tp:
            below, above = size // parallel.tp * parallel.tp, -(-size // parallel.tp) * parallel.tp
            raise ValueError(
                f"{name} % parallel.tp must be 0, but {size} % {parallel.tp} = {size % parallel.tp}: "
                f"{f'{below} or ' if below else ''}{above} would do"
            )
    if length < 2 * parallel.tp and parallel.tp > 1:
        raise ValueError(
            f"training.sequence_length must be at least 2 x parallel.tp, but {length} is below 2 x {parallel.tp}: "
            "each rank takes two runs of rows"
        )


class RunSettings(Settings):
    """One run: its data, its model, its training."""

    run_dir: Path
    """Folder of the run: settings, metrics, checkpoints, results. The same command on the same folder resumes."""

    seed: int = Field(default=1234, ge=0)
    """Of initial values, data order, dropout."""

    data: DataSettings
    """What to train on."""

    model: ModelSettings
    """The transformer."""

    positions: PositionSettings = RopeSettings()
    """Its position encoding."""

    mixer: MixerSettings = NoMixer()
    """What corrects its attention scores, if anything."""

    training: TrainingSettings
    """Steps, batches, precision, engine."""

    validation: ValidationSettings = ValidationSettings()
    """Loss on the validation split."""

    checkpoint: CheckpointSettings = CheckpointSettings()
    """When to save."""

    parallel: ParallelSettings = ParallelSettings()
    """Over how many ranks, and how."""

    kernels: KernelSettings = KernelSettings()
    """Which fused layer norm and optimizer."""

    stop: StopSettings = StopSettings()
    """When to stop before the last step, saved and resumable."""

    watch: WatchSettings = WatchSettings()
    """Heartbeats and hangs."""

    anomalies: AnomalySettings = AnomalySettings()
    """Updates that look wrong."""

    logging: LoggingSettings = LoggingSettings()
    """Console, wandb, TensorBoard."""

    profile: ProfileSettings = ProfileSettings()
    """Steps in which torch's profiler looks on."""

    evaluation: EvaluationSettings = EvaluationSettings()
    """What megadape evaluate does unless told otherwise."""

    @model_validator(mode="after")
    def _parts_agree(self) -> RunSettings:
        check_tensor_parallel(self.model, self.parallel, self.training.sequence_length)
        check_engine(self.training, self.parallel)
        check_pipeline(self.training, self.parallel, self.model)
        if self.watch.hang_minutes >= self.parallel.timeout_minutes:
            raise ValueError(
                f"watch.hang_minutes ({self.watch.hang_minutes:g}) must be below parallel.timeout_minutes "
                f"({self.parallel.timeout_minutes:g}): else a collective gives up before the stacks of a hang are shown"
            )
        if self.parallel.mixing == "heads" and self.model.attention_backend not in ("auto", "reference"):
            raise ValueError(
                "parallel.mixing: heads computes by the reference backend alone, but model.attention_backend is "
                f"{self.model.attention_backend}: set it to auto, or use parallel.mixing: rows"
            )
        return self

    @property
    def architecture(self) -> Architecture:
        """What decides the function that the model computes."""
        return Architecture(
            model=self.model,
            positions=self.positions,
            mixer=self.mixer,
            training_length=self.training.sequence_length,
        )
