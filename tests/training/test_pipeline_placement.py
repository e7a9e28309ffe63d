"""Layers of a pipeline's ranks, and what cannot be a pipeline."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from pipelines import Case

from megadape.model import GPT
from megadape.model.settings import ModelSettings
from megadape.parallel.settings import ParallelSettings
from megadape.training.pipeline.placement import assign_layers, check_pipeline, part_of
from megadape.training.settings import TrainingSettings

ARCHITECTURE = Case("rope").architecture


def parallel(**keys: Any) -> ParallelSettings:
    return ParallelSettings.model_validate(keys)


def training(**keys: Any) -> TrainingSettings:
    base = {"steps": 1, "sequence_length": 16, "global_batch_size": 8, "micro_batch_size": 1}
    return TrainingSettings.model_validate({**base, **keys})


def model(layers: int = 4) -> ModelSettings:
    return ModelSettings(num_layers=layers, hidden_size=32, num_heads=4)


def test_a_schedule_decides_which_layers_a_rank_has() -> None:
    def runs(**keys: Any) -> list[list[tuple[int, ...]]]:
        settings = parallel(pp=2, partition="even", **keys)
        return [assign_layers(ARCHITECTURE, settings, stage) for stage in range(2)]

    assert runs() == [[(0, 1)], [(2, 3)]]
    assert runs(schedule="interleaved") == [[(0,), (2,)], [(1,), (3,)]]
    assert runs(schedule="zero_bubble") == [[(0,), (3,)], [(1,), (2,)]]


def test_without_a_pipeline_a_rank_has_everything() -> None:
    assert part_of(ARCHITECTURE, parallel(), 0) == GPT(ARCHITECTURE).part


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zero_bubble"])
@pytest.mark.parametrize("pp", [2, 3])
def test_every_layer_is_somewhere_once(schedule: str, pp: int) -> None:
    case = ARCHITECTURE.model_copy(update={"model": ARCHITECTURE.model.model_copy(update={"num_layers": 7})})
    parts = [part_of(case, parallel(pp=pp, schedule=schedule), stage) for stage in range(pp)]
    assert sorted(chain.from_iterable(part.layers for part in parts)) == list(range(7))
    assert all(part.layers == tuple(sorted(part.layers)) for part in parts)
    assert [part.embedding for part in parts] == [stage == 0 for stage in range(pp)]
    assert [part.head for part in parts] == [
        stage == (0 if schedule == "zero_bubble" else pp - 1) for stage in range(pp)
    ]


@pytest.mark.parametrize(
    ("more_parallel", "more_training", "layers", "message"),
    [
        ({"pp": 4}, {}, 3, "every pipeline stage needs a layer: parallel.pp is 4, but model.num_layers is 3"),
        (
            {"pp": 2, "schedule": "interleaved", "virtual_stages": 3},
            {},
            5,
            "parallel.pp x parallel.virtual_stages is 2 x 3 = 6, but model.num_layers is 5; "
            "lower parallel.virtual_stages",
        ),
        ({"pp": 2, "schedule": "zero_bubble", "virtual_stages": 3}, {}, 8, "parallel.virtual_stages is 3: set it to 2"),
        (
            {"pp": 2, "schedule": "zero_bubble"},
            {"activation_checkpointing": True},
            4,
            "use parallel.schedule: interleaved or 1f1b, or training.activation_checkpointing: false",
        ),
        (
            {"pp": 2, "schedule": "interleaved"},
            {"global_batch_size": 5},
            4,
            "an update has 5 micro-batches for parallel.pp: 2, which is no multiple",
        ),
    ],
)
def test_what_a_schedule_cannot_do_is_refused(
    more_parallel: dict[str, Any], more_training: dict[str, Any], layers: int, message: str
) -> None:
    with pytest.raises(ValueError, match="parallel") as caught:
        check_pipeline(training(**more_training), parallel(**more_parallel), model(layers))
    assert message in str(caught.value)


def test_data_parallel_ranks_share_the_micro_batches() -> None:
    settings = parallel(pp=2, schedule="interleaved")
    check_pipeline(training(global_batch_size=10), settings, model())
    with pytest.raises(ValueError, match="on each of 2 data-parallel ranks, 5 micro-batches"):
        check_pipeline(training(global_batch_size=10), settings, model(), data_ranks=2)


def test_what_works_is_not_refused() -> None:
    for pp, schedule in ((1, "1f1b"), (2, "1f1b"), (4, "1f1b"), (2, "interleaved"), (2, "zero_bubble")):
        check_pipeline(training(), parallel(pp=pp, schedule=schedule), model())
    few = training(engine="deepspeed", global_batch_size=1)
    check_pipeline(few, parallel(pp=4, zero=1), model())
    check_pipeline(training(global_batch_size=3), parallel(pp=2, schedule="zero_bubble"), model())
