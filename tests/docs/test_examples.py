"""The examples in Python of the pages, run beside a trained run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from pages import DOCS, ROOT, blocks
from typer.testing import CliRunner

PAGES_WITH_EXAMPLES = ("checkpoint", "config", "generation")


@pytest.fixture(scope="module")
def folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configs and a run of two steps in runs/books."""
    from megadape.cli import app

    folder = tmp_path_factory.mktemp("examples")
    (folder / "configs").symlink_to(ROOT / "configs")
    small = {
        "run_dir": folder / "runs/books",
        "data.prefix": corpus,
        "data.split": "80,20",
        "model.num_layers": 1,
        "model.hidden_size": 16,
        "model.num_heads": 2,
        "training.steps": 2,
        "training.sequence_length": 16,
        "training.global_batch_size": 2,
        "training.micro_batch_size": 2,
    }
    files = [str(ROOT / "configs/models/demo.yaml"), str(ROOT / "configs/positions/dape_kerple.yaml")]
    settings = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(app, ["train", *files, *settings])
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize("page", PAGES_WITH_EXAMPLES)
def test_examples_run(
    page: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    examples = [block for block in blocks(DOCS / f"{page}.md") if block.language == "python" and not block.caption]
    assert examples
    for number, block in enumerate(examples):
        script = tmp_path / f"example{number}.py"
        script.write_text(block.text)
        runpy.run_path(str(script))
        assert capsys.readouterr().out.strip()


def test_no_example_is_left_out() -> None:
    found = {page.stem for page in DOCS.glob("*.md") for block in blocks(page) if block.language == "python"}
    # what loads an exported folder needs transformers, and is run by tests/export
    assert found == {*PAGES_WITH_EXAMPLES, "export"}
