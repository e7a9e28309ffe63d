"""The root settings of a run, assembled from the settings class that stands beside each thing."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from megadape.attention import MixerSettings, NoMixer
from megadape.checkpoint.settings import CheckpointSettings
from megadape.data import DataSettings
from megadape.evaluation.settings import EvaluationSettings
from megadape.model import Architecture, ModelSettings
from megadape.parallel.settings import ParallelSettings
from megadape.positions import PositionSettings
from megadape.positions.rope import RopeSettings
from megadape.settings import Settings
from megadape.training.settings import LoggingSettings, TrainingSettings, ValidationSettings


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

    logging: LoggingSettings = LoggingSettings()
    """Console, wandb, TensorBoard."""

    evaluation: EvaluationSettings = EvaluationSettings()
    """What megadape evaluate does unless told otherwise."""

    @model_validator(mode="after")
    def _parts_agree(self) -> RunSettings:
        model, parallel = self.model, self.parallel
        if model.num_heads % parallel.tp:
            raise ValueError(
                f"model.num_heads % parallel.tp must be 0, but {model.num_heads} % {parallel.tp} = "
                f"{model.num_heads % parallel.tp}"
            )
        if parallel.pp > model.num_layers:
            raise ValueError(
                f"parallel.pp is at most one stage a layer, but {parallel.pp} stages share {model.num_layers} layers"
            )
        for degree, name in (
            (parallel.tp, "tensor parallelism (parallel.tp)"),
            (parallel.pp, "a pipeline (parallel.pp)"),
        ):
            if degree > 1:
                raise ValueError(f"this version trains without {name}: set it to 1 and use data-parallel ranks")
        if parallel.zero and self.training.engine != "deepspeed":
            raise ValueError(
                f"parallel.zero is {parallel.zero}, but only training.engine: deepspeed shards its optimizer "
                f"(it is {self.training.engine})"
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
