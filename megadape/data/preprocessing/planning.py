"""What there is to read, as one process or many parts need it divided."""

from __future__ import annotations

from megadape.data.preprocessing.outputs import own_files, protect_inputs
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.reading.plan import STDIN, Plan, plan_corpus
from megadape.errors import DataError

_SHARDS_A_PART = 4
"""At least, where the inputs can be cut so finely: parts differ by no more than a shard."""

_LEAST_SHARD = 1 << 10


def plan_inputs(settings: PreprocessSettings) -> Plan:
    """The plan of the inputs, none of which is written over."""
    datasets = settings.datasets()
    own = own_files(settings, datasets)
    plan = plan_corpus(settings.inputs, settings.cut_options(), settings.text_suffixes, exclude=own)
    protect_inputs(settings, datasets, plan)
    return plan


def plan_parts(settings: PreprocessSettings, count: int) -> tuple[PreprocessSettings, Plan]:
    """The plan that all of so many parts follow, and the settings with which its shards are large and small enough."""
    if STDIN in map(str, settings.inputs):
        raise DataError("standard input cannot be divided into parts: give files, or preprocess it as a whole")
    plan = plan_inputs(settings)
    fine = max(_LEAST_SHARD, -(-plan.total_bytes // (count * _SHARDS_A_PART)))
    if not plan.total_bytes or fine >= settings.shard_bytes:
        return settings, plan
    finer = {"shard_bytes": fine, "block_bytes": min(fine, settings.block_bytes)}
    settings = settings.model_copy(update=finer)
    return settings, plan_inputs(settings)
