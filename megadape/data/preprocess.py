"""From text files to an indexed dataset.

The inputs are divided into shards and blocks (``reading.plan``) that depend on nothing but the inputs. Workers read
blocks and make token ids of them; of a file that can only be read from its beginning (compressed, a JSON list) this
process unpacks the blocks. The results are written in order: the bytes are the same for any number of workers.

Everything grows in a hidden folder beside the prefix and appears whole or not at all. After every shard the files are
flushed and a mark is written; a run that was killed, at any moment, goes on behind the last mark and makes the same
bytes. Every record of the inputs is a document, bad, or passed over, and the manifest's numbers prove it.

Many machines each make a part, of some of the shards, in a hidden folder of its own; once all are made they are merged:
the same bytes again, manifest and quarantine included.

Memory: in each worker a block of input (``block_bytes``; never more than the longest line beside it), its texts and
their ids; in this process the results that wait for an earlier one, at most 64 MiB and one result a worker, and about a
kilobyte for each input file. It does not grow with the number of documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from megadape.data.files import PathLike
from megadape.data.manifest import DatasetManifest
from megadape.data.preprocessing.arguments import preprocess_settings
from megadape.data.preprocessing.attempt import Interrupted
from megadape.data.preprocessing.datasets import Datasets
from megadape.data.preprocessing.making import Report
from megadape.data.preprocessing.merging import Merging
from megadape.data.preprocessing.part import MadePart, make_part
from megadape.data.preprocessing.parts import Part
from megadape.data.preprocessing.planning import plan_inputs, plan_parts
from megadape.data.preprocessing.progress import Progress
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.preprocessing.staging import Staging
from megadape.data.preprocessing.whole import WholePreprocessing
from megadape.errors import DataError

__all__ = [
    "Interrupted",
    "MadePart",
    "Part",
    "PreprocessSettings",
    "Progress",
    "merge_parts",
    "preprocess",
    "preprocess_files",
    "preprocess_keys",
    "preprocess_part",
    "run_command",
]


def preprocess(settings: PreprocessSettings, progress: Report | None = None) -> DatasetManifest:
    """Write the dataset of the one JSON key (see ``preprocess_keys``); returns its manifest."""
    if len(settings.json_keys) > 1:
        raise DataError("several json_keys make several datasets: use preprocess_keys")
    return preprocess_keys(settings, progress)[settings.json_keys[0]]


def preprocess_keys(settings: PreprocessSettings, progress: Report | None = None) -> dict[str, DatasetManifest]:
    """Write ``PREFIX.bin``, ``.idx``, ``.json`` and copies of the tokenizer's files for every JSON key, in one pass.

    Args:
        settings: what to do.
        progress: called after every block.

    Returns:
        Key -> manifest.
    """
    plan, prefixes, tokenizer = plan_inputs(settings), settings.datasets(), settings.tokenizer.build()
    with ExitStack() as stack:
        stagings = [stack.enter_context(Staging(prefix)) for prefix in prefixes.values()]
        datasets = Datasets(settings, prefixes, tokenizer, stagings)
        return WholePreprocessing(settings, plan, datasets).run(progress or _silent)


def preprocess_part(settings: PreprocessSettings, part: Part, progress: Report | None = None) -> MadePart:
    """Make one part of the datasets, to be merged once all are made; says what it holds.

    A part that was killed goes on where it stopped and one that is made is left as it is, unless ``resume`` is False.

    Args:
        settings: what to do, the same for all parts but for ``workers``.
        part: which.
        progress: called after every block.
    """
    return make_part(settings, part, progress or _silent)


def merge_parts(settings: PreprocessSettings, count: int, progress: Report | None = None) -> dict[str, DatasetManifest]:
    """Write what ``preprocess_keys`` writes, of parts that are made; then they are removed.

    Args:
        settings: with which the parts were made. ``max_bad_lines`` counts the bad records of all parts.
        count: of the parts.
        progress: called after every part.

    Returns:
        Key -> manifest.
    """
    Part(1, count)
    finer, plan = plan_parts(settings, count)
    prefixes, tokenizer = settings.datasets(), settings.tokenizer.build()
    with ExitStack() as stack:
        stagings = [stack.enter_context(Staging(prefix)) for prefix in prefixes.values()]
        datasets = Datasets(finer, prefixes, tokenizer, stagings)
        return Merging(finer, plan, datasets, count).run(progress or _silent)


def preprocess_files(
    inputs: Sequence[PathLike],
    prefix: PathLike,
    *,
    tokenizer: str = "byte",
    tokenizer_options: dict[str, object] | None = None,
    json_key: str = "text",
    progress: Report | None = None,
    **options: object,
) -> DatasetManifest:
    """``preprocess`` from plain arguments, as a command line has them; every mistake in them is a ``DataError`` or
    ``TokenizerError``.

    Args:
        inputs: files, folders and globs.
        prefix: path of the dataset without its endings.
        tokenizer: kind of tokenizer.
        tokenizer_options: its settings, such as ``model``; None values are left out.
        json_key: key of the text in JSON objects.
        progress: called after every block.
        options: the other fields of ``PreprocessSettings``.
    """
    options = {"json_keys": (json_key,), **options}
    return preprocess(preprocess_settings(inputs, prefix, tokenizer, tokenizer_options or {}, **options), progress)


def run_command(
    settings: PreprocessSettings, part: str | None, merge: int | None, progress: Report | None = None
) -> list[str]:
    """What a command line asks for: everything, one part, or the merging of parts; lines that say what was made.

    Args:
        settings: what to do.
        part: ``--part``, as I/N.
        merge: ``--merge-parts``, as N.
        progress: called after every block, or part that is merged.
    """
    if part is not None and merge is not None:
        raise DataError("--part makes a part and --merge-parts merges all of them: give one of the two")
    if part is not None:
        return [preprocess_part(settings, Part.parse(part), progress).summary()]
    made = preprocess_keys(settings, progress) if merge is None else merge_parts(settings, merge, progress)
    return [f"{prefix}: {made[key].summary()}" for key, prefix in settings.datasets().items()]


def _silent(progress: Progress) -> None:
    """Nobody asked."""
