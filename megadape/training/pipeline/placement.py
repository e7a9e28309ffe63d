"""Which layers each rank of a pipeline has, and what a schedule needs of the settings; light, no process group."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from megadape.model.part import Part
from megadape.model.settings import Architecture, ModelSettings
from megadape.model.stages import deal_layers
from megadape.parallel.settings import ParallelSettings

if TYPE_CHECKING:
    from megadape.training.settings import TrainingSettings


def count_stages(parallel: ParallelSettings) -> int:
    """Stages of the pipeline, virtual ones counted: runs of layers that a micro-batch goes through."""
    virtual = parallel.pp > 1 and parallel.schedule != "1f1b"
    return parallel.pp * (parallel.virtual_stages if virtual else 1)


def places_of(parallel: ParallelSettings, stage: int) -> list[int]:
    """Which of the virtual stages a rank has, in their order.

    With zero_bubble there and back (the first rank has the first and the last one: the shape V), else round and round.
    """
    ranks, count = parallel.pp, count_stages(parallel)
    if parallel.schedule == "zero_bubble":
        return [place for place in range(count) if min(place, count - 1 - place) == stage]
    return list(range(stage, count, ranks))


def assign_layers(architecture: Architecture, parallel: ParallelSettings, stage: int) -> list[tuple[int, ...]]:
    """The runs of layers that a rank has, in the order in which a micro-batch meets them.

    Args:
        architecture: with at least one layer for each virtual stage.
        parallel: stages, schedule and partition.
        stage: the rank's place in the pipeline.
    """
    dealt = deal_layers(architecture, count_stages(parallel), parallel.partition)
    return [dealt[place] for place in places_of(parallel, stage)]


def part_of(architecture: Architecture, parallel: ParallelSettings, stage: int) -> Part:
    """What a rank of the pipeline holds of the model: all its runs of layers together."""
    places = places_of(parallel, stage)
    layers = tuple(chain.from_iterable(assign_layers(architecture, parallel, stage)))
    return Part(layers, embedding=0 in places, head=count_stages(parallel) - 1 in places)


def check_pipeline(
    training: TrainingSettings, parallel: ParallelSettings, model: ModelSettings, data_ranks: int = 1
) -> None:
    """Raise ``ValueError`` where the pipeline's schedule cannot train that way.

    Args:
        training: batches, engine, activation checkpointing.
        parallel: stages and schedule.
        model: layers.
        data_ranks: data-parallel ranks; while they are not known, 1, which has the most micro-batches of all.
    """
    if parallel.pp == 1:
        return
    _check_layers(parallel, model)
    if parallel.schedule == "zero_bubble" and training.activation_checkpointing:
        raise ValueError(
            "parallel.schedule: zero_bubble keeps what the gradients of weights need until it computes them, which "
            "training.activation_checkpointing would throw away: use parallel.schedule: interleaved or 1f1b, or "
            "training.activation_checkpointing: false"
        )
    _check_micro_batches(training, parallel, data_ranks)


def _check_layers(parallel: ParallelSettings, model: ModelSettings) -> None:
    if parallel.schedule == "zero_bubble" and parallel.virtual_stages != 2:
        raise ValueError(
            "parallel.schedule: zero_bubble has two runs of layers a rank, but parallel.virtual_stages is "
            f"{parallel.virtual_stages}: set it to 2"
        )
    stages = count_stages(parallel)
    if model.num_layers < stages:
        virtual = stages // parallel.pp
        product = f"{parallel.pp} x {virtual} = {stages}" if virtual > 1 else str(stages)
        names = "parallel.pp x parallel.virtual_stages" if virtual > 1 else "parallel.pp"
        raise ValueError(
            f"every pipeline stage needs a layer: {names} is {product}, but model.num_layers is {model.num_layers}; "
            f"lower {names.split(' x ')[-1]}, or use more layers"
        )


def _check_micro_batches(training: TrainingSettings, parallel: ParallelSettings, data_ranks: int) -> None:
    count = training.global_batch_size // (training.micro_batch_size * data_ranks)
    stages = parallel.pp
    found = "an update has " if data_ranks == 1 else f"an update has, on each of {data_ranks} data-parallel ranks, "
    found += f"{count} micro-batch{'es' * (count != 1)} for parallel.pp: {stages}"
    if parallel.schedule == "interleaved" and count % max(1, count // stages):
        raise ValueError(
            f"parallel.schedule: interleaved takes micro-batches in rounds of one a stage, but {found}, which is no "
            "multiple: change training.global_batch_size or training.micro_batch_size"
        )
