"""AutoTokenizer in an exported folder gives the ids that the run was trained on, whatever the text."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from example_exports import make_architecture, make_model, save_run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from megadape.data import preprocess_files
from megadape.data.manifest import load_tokenizer
from megadape.data.tokenizers.base import Tokenizer
from megadape.data.tokenizers.byte_level import BYTE_OF
from megadape.data.tokenizers.train import TrainTokenizerSettings, train_tokenizer
from megadape.export.exporting import ExportRequest, export_run
from megadape.export.importing import ImportRequest, import_folder

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
TEXTS = [LIBRARY / name for name in ("csv.py", "glob.py", "shlex.py")]
END = "<|endoftext|>"
PIECES = [END, "</s>", "<s>", "<unk>", "▁", " ", "the ", "\n\n", "é"]


def train_one(folder: Path, kind: str, **options: Any) -> Path:
    output = folder / f"{kind}.{'model' if kind == 'sentencepiece' else 'json'}"
    settings = TrainTokenizerSettings(
        inputs=tuple(TEXTS), output=output, kind=kind, vocab_size=400, text_suffixes=(".py",), **options
    )
    train_tokenizer(settings)
    return output


def gpt2_files(folder: Path) -> dict[str, Path]:
    """A byte-level vocabulary with a few merges, in GPT-2's two files."""
    pairs = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("e", "r"), ("i", "n"), ("Ġ", "a"), ("Ã", "©")]
    tokens = [*BYTE_OF, *("".join(pair) for pair in pairs), END]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs), encoding="utf-8")
    return {"vocab": folder / "vocab.json", "merges": folder / "merges.txt"}


CASES = ("byte", "sentencepiece", "sentencepiece-special", "sentencepiece-unigram", "huggingface",
         "huggingface-special", "gpt2", "gpt2-special")  # fmt: skip


def make_options(case: str, folder: Path) -> tuple[str, dict[str, object]]:
    kind, _, what = case.partition("-")
    options: dict[str, object] = {"special_tokens_in_text": "special"} if what == "special" else {}
    match kind:
        case "sentencepiece":
            model_type = "unigram" if what == "unigram" else "bpe"
            return kind, {"model": train_one(folder, "sentencepiece", model_type=model_type), **options}
        case "huggingface":
            return kind, {"model": train_one(folder, "bpe"), **options}
        case "gpt2":
            return kind, {**gpt2_files(folder), **options}
    return kind, options


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Any, Path]]:
    """Ours, theirs, and the folder, by case."""
    made = {}
    for case in CASES:
        base = tmp_path_factory.mktemp(case)
        kind, options = make_options(case, base)
        preprocess_files(
            TEXTS[:1], base / "text", tokenizer=kind, tokenizer_options=options, text_suffixes=(".py",), append_eod=True
        )
        ours = load_tokenizer(base / "text")
        size = {"num_layers": 1, "hidden_size": 8, "num_heads": 2, "vocab_size": -(-ours.vocab_size // 64) * 64}
        run = save_run(
            make_model(make_architecture({"kind": "none"}, {"kind": "none"}, **size)), base / "run", base / "text"
        )
        export_run(ExportRequest(run, base / "hf"))
        made[case] = ours, AutoTokenizer.from_pretrained(base / "hf", trust_remote_code=True), base / "hf"
    return made


@settings(max_examples=200)
@given(
    st.sampled_from(CASES),
    st.lists(
        st.one_of(st.text(), st.sampled_from([END, "</s>", "<s>", "<unk>", "▁", " ", "the ", "\n\n", "é"])), max_size=5
    ),
)
@example("byte", ["\U0010ffff\ufeff\x00"])
@example("sentencepiece", ["▁▁ a", "</s>"])
@example("gpt2-special", [END, END, " x"])
def test_ids_are_the_same(tokenizers: dict[str, tuple[Tokenizer, Any, Path]], case: str, parts: list[str]) -> None:
    ours, theirs, _ = tokenizers[case]
    text = "".join(parts)
    wanted = ours.encode(text).tolist()
    assert theirs(text)["input_ids"] == wanted
    assert theirs.decode(wanted, skip_special_tokens=True) == ours.decode(wanted)


@settings(max_examples=60)
@given(st.binary(max_size=12))
def test_bytes_that_are_no_text_are_decoded_alike(
    tokenizers: dict[str, tuple[Tokenizer, Any, Path]], content: bytes
) -> None:
    ours, theirs, _ = tokenizers["byte"]
    assert theirs.decode(list(content)) == ours.decode(list(content))


@pytest.mark.parametrize("case", CASES)
def test_real_text_the_end_and_batches(tokenizers: dict[str, tuple[Tokenizer, Any, Path]], case: str) -> None:
    ours, theirs, _ = tokenizers[case]
    text = (LIBRARY / "ast.py").read_text()
    assert theirs(text)["input_ids"] == ours.encode(text).tolist()
    assert theirs.eos_token_id == theirs.pad_token_id == ours.eod
    batch = theirs(["the", "the the the"], padding=True)
    assert batch["input_ids"][0][-1] == ours.encode("the")[-1]
    assert batch["attention_mask"][0][0] == 0
    assert theirs.decode([ours.eod], skip_special_tokens=True) == ""
    assert theirs.decode([ours.eod]) != ""


@pytest.mark.parametrize("case", ["sentencepiece-special", "huggingface", "gpt2-special"])
def test_a_tokenizer_comes_back_from_an_import(
    tokenizers: dict[str, tuple[Tokenizer, Any, Path]], case: str, tmp_path: Path
) -> None:
    ours, _, folder = tokenizers[case]
    run = import_folder(ImportRequest(folder, tmp_path / "run"))
    assert load_tokenizer(run / "data/text").digest == ours.digest
    export_run(ExportRequest(run, tmp_path / "again"))
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
