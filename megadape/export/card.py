"""README.md of an exported folder, the model card: a function of the record and of nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from megadape.errors import ExportError
from megadape.export.check import STRETCH
from megadape.export.record import EvaluationFacts, Record

LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
"""An SPDX identifier, or a word like it."""

PAPER = "https://arxiv.org/abs/2405.14722"


def check_license(license: str | None) -> None:
    """``ExportError`` unless it is one word."""
    if license is not None and not LICENSE.fullmatch(license):
        raise ExportError(f"--license {license!r} is no identifier of a license: give one, such as apache-2.0")


def make_card(record: Record, parameters: int) -> str:
    """The text of the card.

    Args:
        record: of the folder.
        parameters: how many numbers the model has.
    """
    parts = (_head, _loading, _training, _evaluation, _settings, _provenance, _limits)
    return "\n\n".join("\n".join(part(record, parameters)) for part in parts) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Markdown lines; cells cannot leave their cell."""
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(_cell(value) for value in row)} |"


def _cell(value: object) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|").replace("<", "&lt;")


def _title(record: Record) -> str:
    mixer, positions = record.settings["mixer"], record.settings["positions"]["kind"]
    return positions if mixer["kind"] == "none" else f"{mixer['kind']} over {positions}"


def _head(record: Record, parameters: int) -> Iterator[str]:
    yield from ("---", f"license: {record.license}", "library_name: transformers", "pipeline_tag: text-generation")
    yield from ("tags:", "- megadape", "- length-extrapolation", "---", "")
    yield f"# A GPT with {_title(record)}"
    length = record.architecture.training_length
    yield ""
    yield (
        f"{parameters:,} parameters, trained with megadape on sequences of {length} tokens. "
        f"On data-adaptive positional encoding: [DAPE]({PAPER})."
    )
    if record.changed:
        yield ""
        yield "**The weights were changed after they were exported: what is said here is of the model before.**"


def _loading(record: Record, parameters: int) -> Iterator[str]:
    needs = " and sentencepiece" if record.tokenizer.kind == "sentencepiece" else ""
    yield "## Use"
    yield ""
    yield f"Needs transformers 5.3 or later{needs}; megadape itself is not needed. The code is in this folder: read it,"
    yield "and then trust it."
    yield ""
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield 'tokenizer = AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)'
    yield 'model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)'
    yield 'inputs = tokenizer(["Once upon a time"], return_tensors="pt")'
    yield "print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=50))[0])"
    yield "```"
    yield ""
    yield "`megadape import FOLDER RUN` makes a run of it that megadape evaluates, samples from and trains further."


def _training(record: Record, parameters: int) -> Iterator[str]:
    yield "## Training data"
    yield ""
    columns = ("dataset", "share", "documents", "tokens", "bytes of text", "files")
    yield from table(
        columns,
        (
            (each.name, f"{each.weight:.4g}", f"{each.documents:,}", f"{each.tokens:,}", f"{each.text_bytes:,}",
             f"{each.files:,}")
            for each in record.data
        ),
    )  # fmt: skip
    yield ""
    for each in record.data:
        yield f"- {_cell(each.name)}: SHA-256 of .bin `{each.bin_sha256}`, of .idx `{each.idx_sha256}`"
    seen = record.consumed_samples * record.architecture.training_length
    yield ""
    yield f"The model has seen {record.consumed_samples:,} sequences, {seen:,} tokens, in {record.step:,} updates."
    tokenizer = record.tokenizer
    yield f"Tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens, digest `{tokenizer.digest}`."


def _evaluation(record: Record, parameters: int) -> Iterator[str]:
    yield "## Evaluation"
    yield ""
    if not record.evaluations:
        yield "None was made before the export."
    for number, each in enumerate(record.evaluations):
        yield from () if number == 0 else ("",)
        yield from _evaluation_table(each)


def _evaluation_table(facts: EvaluationFacts) -> Iterator[str]:
    yield f"{_cell(facts.name)}, mode `{_cell(facts.mode)}`:"
    yield ""
    rows = ((row.length, f"{row.perplexity:.4g}", f"{row.bits_per_byte:.4g}", f"{row.tokens:,}") for row in facts.rows)
    yield from table(("length", "perplexity", "bits per byte", "tokens scored"), rows)


def _settings(record: Record, parameters: int) -> Iterator[str]:
    yield "## Settings"
    yield ""
    yield "```json"
    yield json.dumps(record.settings, indent=1)
    yield "```"


def _provenance(record: Record, parameters: int) -> Iterator[str]:
    yield "## Provenance"
    yield ""
    facts: dict[str, object] = {
        "checkpoint": f"step {record.step:,}, SHA-256 `{record.checkpoint_sha256}`",
        "ranks": ", ".join(f"{key} {value}" for key, value in record.layout.items()) or "unknown",
        "trained with": _versions(record.trained_with),
        "exported by": _versions(record.exported_by),
        "weights": record.dtype,
        "license": record.license,
    }
    for what, value in facts.items():
        yield f"- {what}: {_cell(value)}"


def _versions(found: dict[str, str | None] | dict[str, str | bool | None]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items() if value is not None) or "unknown"


def _limits(record: Record, parameters: int) -> Iterator[str]:
    length = record.architecture.training_length
    yield "## Limits"
    yield ""
    yield "- It continues text as its training data would; it follows no instructions, and nothing filters its text."
    yield f"- Before this folder was written, its logits were compared with megadape's on texts of {length} and"
    yield f"  {STRETCH * length} tokens. How well it reads texts longer than {length} tokens is in the table above,"
    yield "  where there is one."
    yield "- Computed in plain torch: megadape's own kernels are several times faster. Attention takes query rows in"
    yield "  blocks, so that memory grows with the length and not with its square."
    if record.architecture.model.documents == "separate":
        yield "- It was trained with the documents of a sequence kept apart; here a sequence is read as one document."
    if "special_tokens_in_text" in record.tokenizer.options:
        yield f"- Names of special tokens in a text are {_cell(record.tokenizer.options['special_tokens_in_text'])}."
    if record.tokenizer.vocab_size < (record.architecture.model.vocab_size or 0):
        first, last = record.tokenizer.vocab_size, (record.architecture.model.vocab_size or 0) - 1
        yield f"- Ids {first} to {last} stand for no token; they fill the embedding up and were never trained on."
