"""The record of a checkpoint: gathered from the run, or kept from the folder that the run was imported from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from megadape.data.manifest import TokenizerManifest, load_manifest
from megadape.data.settings import BlendPart
from megadape.data.tokenizers.registry import KINDS
from megadape.errors import ExportError
from megadape.evaluation.evaluated import Evaluated, checkpoint_digest, open_store
from megadape.evaluation.results import read_json
from megadape.export.record import PREFIX, DataFacts, Dtype, EvaluationFacts, EvaluationRow, Record
from megadape.export.source import EXPORTED, Source
from megadape.machine import versions

UNKNOWN_LICENSE = "unknown"


def make_record(source: Source, *, dtype: Dtype | None, license: str | None, code: dict[str, Any] | None) -> Record:
    """What is known of a checkpoint.

    Args:
        source: the run and its checkpoint.
        dtype: of the weights to be written; default: as they were imported, or float32.
        license: of the weights; default: as they were imported, or unknown.
        code: commit of the code that exports, where it is known.
    """
    kept = source.state.get(EXPORTED)
    record = _read_kept(source, kept) if kept is not None else _gather(source, code)
    found = dict.fromkeys([*record.evaluations, *read_evaluations(source)])
    changes: dict[str, object] = {"evaluations": tuple(found)}
    if dtype is not None:
        changes["dtype"] = dtype
    if license is not None:
        changes["license"] = license
    return record.model_copy(update=changes)


def _read_kept(source: Source, kept: object) -> Record:
    try:
        return Record.model_validate(kept)
    except ValidationError as error:
        raise ExportError(f"{source.checkpoint.path} keeps a record that cannot be read: import it again") from error


def _gather(source: Source, code: dict[str, Any] | None) -> Record:
    run, state, parts = source.run, source.state, source.run.data.parts
    progress = state.get("progress", {})
    training = run.training.model_dump(mode="json") | {"deepspeed": None}
    architecture = source.architecture.model_dump(mode="json", exclude={"training_length"})
    digest = checkpoint_digest(source.checkpoint.path)
    assert digest is not None, "its manifest was read before"
    return Record(
        step=source.checkpoint.step,
        consumed_samples=progress.get("consumed_samples", 0),
        dtype="float32",
        license=UNKNOWN_LICENSE,
        settings={"seed": run.seed, **architecture, "training": training},
        data=tuple(describe_data(part) for part in parts),
        tokenizer=describe_tokenizer(source),
        checkpoint_sha256=digest,
        layout=state.get("layout", {}),
        trained_with=state.get("versions", {}),
        exported_by={"megadape": versions()["megadape"], **(code or {})},
    )


def describe_data(part: BlendPart) -> DataFacts:
    """A dataset of a run; ``DataError`` where it or its manifest is missing."""
    manifest = load_manifest(part.prefix)
    return DataFacts(
        name=part.name,
        weight=part.weight,
        documents=manifest.documents,
        tokens=manifest.tokens,
        text_bytes=manifest.text_bytes,
        files=len(manifest.sources),
        append_eod=manifest.append_eod,
        bin_sha256=manifest.bin_sha256,
        idx_sha256=manifest.idx_sha256,
    )


def describe_tokenizer(source: Source) -> TokenizerManifest:
    """The tokenizer's record, its files by the names that they get in the exported folder."""
    record = source.tokenizer_record
    endings = KINDS[record.kind].COPIES
    return record.model_copy(update={"files": {field: f"{PREFIX}.{endings[field]}" for field in record.files}})


def read_evaluations(source: Source) -> Iterable[EvaluationFacts]:
    """The tables that ``megadape evaluate`` has measured on this very checkpoint, complete ones alone."""
    store = open_store(source.checkpoint.path.parents[1], source.checkpoint.path)
    for path in sorted(store.folder.glob("results-*.json")) if store is not None else ():
        evaluated = Evaluated.from_json(read_json(path), source.checkpoint.path.parents[1])
        for name, results in evaluated.extrapolations.items():
            rows = [
                EvaluationRow(
                    length=row.length,
                    perplexity=row.perplexity,
                    bits_per_byte=row.bits_per_byte,
                    tokens=row.tokens,
                )
                for row in results.results
            ]
            yield EvaluationFacts(name=name, mode=results.mode, rows=tuple(rows))
