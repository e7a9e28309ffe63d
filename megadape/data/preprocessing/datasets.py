"""The datasets of a preprocessing, one for each key: described, given their names, or discarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadape.data.files import flush_folder, reporting
from megadape.data.indexed_format import best_dtype
from megadape.data.manifest import (
    DatasetManifest,
    describe_tokenizer,
    encode_manifest,
    load_manifest,
    manifest_path,
    tokenizer_copies,
)
from megadape.data.preprocessing.journal import NAME as JOURNAL
from megadape.data.preprocessing.journal import Journal, Mark
from megadape.data.preprocessing.outputs import output_files, quarantine_path
from megadape.data.preprocessing.progress import Progress
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.preprocessing.staging import Staging
from megadape.data.preprocessing.work import Outcome
from megadape.data.reading.plan import Plan
from megadape.data.tokenizers import Tokenizer
from megadape.errors import DataError
from megadape.faults import reach


@dataclass(frozen=True)
class Datasets:
    """What is made, with the folders in which it grows locked."""

    settings: PreprocessSettings
    prefixes: Mapping[str, Path]
    """Key -> prefix."""
    tokenizer: Tokenizer
    stagings: Sequence[Staging]
    """Of each key."""

    @property
    def folders(self) -> list[tuple[Path, str]]:
        """Folder and name of each."""
        return [(staging.folder, staging.prefix.name) for staging in self.stagings]

    @property
    def journal(self) -> Journal:
        """Of the work on all of them."""
        return Journal(self.stagings[0].folder)

    @property
    def quarantine(self) -> Path:
        """Where the file of bad records grows."""
        return self.stagings[0].path(quarantine_path(self.settings.prefix))

    def complete(self, outcome: Outcome, shards: int) -> None:
        """Describe what came of the work, and have it written down that all files are as they will be."""
        reach("preprocess.before_manifest")
        self._describe(outcome)
        for folder, _ in self.folders:
            with reporting("flush the folder", folder):
                flush_folder(folder)
        self.journal.append(Mark(shard=shards, complete=True))
        reach("preprocess.after_complete")

    def publish(self) -> dict[str, DatasetManifest]:
        """Give the files their names, and see that they are there; key -> manifest."""
        for prefix, staging in zip(self.prefixes.values(), self.stagings, strict=True):
            first = [quarantine_path(self.settings.prefix)] if staging is self.stagings[0] else []
            staging.publish([*first, *output_files(self.settings, prefix)])
        manifests = {key: load_manifest(prefix) for key, prefix in self.prefixes.items()}
        reach("preprocess.after_publish")
        return manifests

    def discard(self) -> None:
        """Empty the folders; the journal goes first, so that it never tells of files that are gone."""
        for staging in self.stagings:
            staging.discard(first=JOURNAL)

    def _describe(self, outcome: Outcome) -> None:
        """Write the manifests and the copies of the tokenizer's files."""
        settings = self.settings
        quarantine = quarantine_path(settings.prefix).name if settings.on_bad_line == "quarantine" else None
        for number, (key, prefix) in enumerate(self.prefixes.items()):
            pair, staging = outcome.pairs[number], self.stagings[number]
            assert pair.documents == outcome.documents, "every document is in the dataset"
            manifest = DatasetManifest(
                tokenizer=describe_tokenizer(self.tokenizer, settings.tokenizer, prefix),
                documents=pair.documents,
                empty_documents=outcome.empty[number],
                tokens=pair.tokens,
                text_bytes=outcome.text_bytes[number],
                dtype=best_dtype(self.tokenizer.vocab_size).name,
                append_eod=settings.append_eod,
                json_key=key,
                where=settings.where,
                document_separator=settings.document_separator,
                max_line_bytes=settings.max_line_bytes,
                records=outcome.documents + outcome.bad + outcome.passed_over,
                bad=outcome.bad,
                passed_over=outcome.passed_over,
                on_bad_line=settings.on_bad_line,
                quarantine=quarantine,
                sources=outcome.sources,
                undecodable=outcome.undecodable,
                bin_size=pair.bin_size,
                bin_sha256=pair.bin_sha256,
                idx_size=pair.idx_size,
                idx_sha256=pair.idx_sha256,
            )
            for field, path in tokenizer_copies(settings.tokenizer, prefix).items():
                source = settings.tokenizer.files()[field]
                with reporting("read", source):
                    staging.write(path, source.read_bytes())
            staging.write(manifest_path(prefix), encode_manifest(manifest))


def require_text(progress: Progress, plan: Plan) -> None:
    """``DataError`` when no document has any text."""
    if progress.text_bytes:
        return
    left_out = f", {progress.bad} records are bad" if progress.bad else ""
    left_out += f", {progress.passed_over} are passed over" if progress.passed_over else ""
    raise DataError(
        f"the corpus is empty: {progress.documents} documents in {len(plan.sources)} sources hold no text{left_out}"
    )
