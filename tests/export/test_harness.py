"""A run in lm-evaluation-harness: numbers that can be computed by hand, and texts that are never cut."""

from __future__ import annotations

import json
import logging
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from example_exports import CASES, continue_greedily, make_architecture, make_model, save_run

from megadape.errors import ExportError
from megadape.evaluation.restore import restore_model
from megadape.export.harness import MegadapeLM
from megadape.model import GPT

LONG = "x = 1; " * 20 + "y ="
"""Longer than four training lengths. The harness moves spaces at the end of a context to what follows."""

DOCUMENTS = [
    {"question": "def f(", "choices": ["self):", "import os", "\n\n"], "answer": 0},
    {"question": LONG, "choices": [" 2", " the end of it all"], "answer": 1},
    {"question": "import", "choices": [" sys", " re"], "answer": 0},
]

TASK = """
task: small
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""

ROLLING = """
task: small_rolling
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - {metric: byte_perplexity}
  - {metric: bits_per_byte}
"""


@torch.no_grad()
def loglikelihood(model: GPT, context: list[int], continuation: list[int]) -> float:
    """By hand: the sum of log probabilities of the continuation, whose last token is not fed."""
    tokens = torch.tensor([context + continuation])
    scores = model(tokens[:, :-1])[0].log_softmax(-1)
    return sum(float(scores[place - 1, tokens[0, place]]) for place in range(len(context), tokens.shape[1]))


def evaluate(model: MegadapeLM, tmp_path: Path) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    (tmp_path / "data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in DOCUMENTS))
    for name, task in (("small", TASK), ("rolling", ROLLING)):
        (tmp_path / f"{name}.yaml").write_text(task.replace("DATA", str(tmp_path / "data.jsonl")))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return simple_evaluate(model=model, tasks=["small", "small_rolling"], task_manager=manager, bootstrap_iters=0)


def test_the_numbers_are_those_computed_by_hand(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = evaluate(MegadapeLM(run=str(trained), device="cpu", batch_size=2), tmp_path)
    model = restore_model(trained, torch.device("cpu")).model
    right, bits, size = 0, 0.0, 0
    for number, document in enumerate(DOCUMENTS):
        context = list(document["question"].encode())
        scores = [loglikelihood(model, context, list(choice.encode())) for choice in document["choices"]]
        right += max(range(len(scores)), key=scores.__getitem__) == document["answer"]
        told = [response[0][0] for response in found["samples"]["small"][number]["resps"]]
        assert told == pytest.approx(scores, abs=1e-4)
        bits -= loglikelihood(model, [256], context) / torch.log(torch.tensor(2.0)).item()
        size += len(context)
    assert found["results"]["small"]["acc,none"] == pytest.approx(right / len(DOCUMENTS))
    assert found["results"]["small_rolling"]["bits_per_byte,none"] == pytest.approx(bits / size, rel=1e-5)


@pytest.mark.parametrize("name", ["yarn", "dape-kerple_log"])
def test_scores_and_texts_of_a_batch_are_those_of_each_alone(name: str, corpus: Path, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    model = make_model(make_architecture(*CASES[name]))
    harness = MegadapeLM(run=str(save_run(model, tmp_path / "run", corpus)), device="cpu", batch_size=4)
    pairs = [("a", " b"), (LONG, "y"), ("def f", "(x)")]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    found = harness.loglikelihood(requests, disable_tqdm=True)
    for (score, _), (context, continuation) in zip(found, pairs, strict=True):
        wanted = loglikelihood(model, list(context.encode()), list(continuation.encode()))
        assert score == pytest.approx(wanted, abs=1e-4)
    until = {"until": ["\0\0\0"], "max_gen_toks": 5, "do_sample": False}
    asked = [Instance("generate_until", {}, (text, until), number) for number, text in enumerate(("ab", LONG))]
    written = harness.generate_until(asked, disable_tqdm=True)
    for text, (prompt, _) in zip(written, (one.args for one in asked), strict=True):
        ids = continue_greedily(model, torch.tensor(list(prompt.encode())), 5)
        assert text == bytes(i for i in ids.tolist() if i < 256).decode(errors="replace")


def test_a_given_length_is_passed_on(trained: Path) -> None:
    from lm_eval.api.registry import get_model

    assert get_model("megadape") is MegadapeLM
    made = MegadapeLM.create_from_arg_string(f"run={trained},max_length=32", {"device": "cpu", "batch_size": 1})
    assert made.max_length == 32
    assert MegadapeLM(run=str(trained), device="cpu").max_length == 1 << 20


def test_what_is_missing_is_named(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megadape.export.exporting import ExportRequest, export_run

    monkeypatch.setitem(sys.modules, "lm_eval.api.registry", None)  # as where it is not installed
    with pytest.raises(ExportError, match=r"the harness needs lm_eval.*: pip install 'megadape\[harness\]'"):
        runpy.run_module("megadape.export.harness", run_name="elsewhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"exporting needs transformers: pip install 'megadape\[export\]'"):
        export_run(ExportRequest(trained, tmp_path / "hf"))
