"""The demo: its text, its settings, and the whole of it on a small text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from megadape.config import load
from megadape.config.run import RunSettings
from megadape.data import CorpusReader
from megadape.errors import DataError
from megadape.studies.demo import FULL, METHODS, DemoOptions, method_settings
from megadape.studies.text import PIECES, cut, demo_inputs, standard_library

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", METHODS)
def test_the_demo_trains_what_its_settings_files_say(name: str, tmp_path: Path) -> None:
    run = method_settings(name, DemoOptions(out=tmp_path), FULL)
    encoding = {"dape-kerple": "dape_kerple"}.get(name, name)
    files = [ROOT / "configs/models/demo.yaml", ROOT / f"configs/positions/{encoding}.yaml"]
    own = {"run_dir": run.run_dir, "data": run.data, "evaluation": run.evaluation}
    expected = load(files, ["run_dir=r", "data.prefix=p"]).model_copy(update=own)
    assert run == RunSettings.model_validate(expected.model_dump())


def test_the_standard_library_is_there_and_is_python() -> None:
    files = standard_library()
    assert len(files) > 200
    assert all(path.suffix == ".py" for path in files)
    assert not any("site-packages" in path.parts for path in files)


def test_one_long_text_is_cut_into_pieces_that_hold_all_of_it(tmp_path: Path) -> None:
    text = "".join(f"line {number} of a book\r\n" if number % 7 else f"{number}\n" for number in range(5000))
    book = tmp_path / "book.txt"
    book.write_text(text, newline="")
    pieces = [document.text for document in CorpusReader(demo_inputs(book, tmp_path / "data"))]
    assert "".join(pieces) == text
    assert PIECES / 2 < len(pieces) <= PIECES + 1


def test_a_text_without_lines_stays_whole() -> None:
    assert list(cut("no line ends here", 4)) == ["no line ends here"]
    assert list(cut("", 4)) == []


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="holds no text"):
        demo_inputs(tmp_path / "empty.txt", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_demo_on_a_text_of_ones_own(tmp_path: Path) -> None:
    """A minute on two idle cores."""
    library = Path(sysconfig.get_paths()["stdlib"])
    book = tmp_path / "book.rst"
    with book.open("wb") as file:
        for name in ("argparse.py", "typing.py", "inspect.py", "turtle.py", "tarfile.py", "_pydecimal.py"):
            with (library / name).open("rb") as source:
                shutil.copyfileobj(source, file)
    out = tmp_path / "demo"
    command = [
        sys.executable,
        "-m",
        "megadape",
        "demo",
        "--quick",
        "--text",
        book,
        "--tokenizer",
        "sentencepiece",
        "--out",
        out,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=590, check=False)
    assert result.returncode == 0, result.stderr
    results = json.loads((out / "results.json").read_text())["methods"]
    assert list(results) == list(METHODS)
    for method in results.values():
        assert list(method["perplexity"]) == [str(128 * 2**power) for power in range(7)]
        assert all(1 < value < 1e6 for value in method["perplexity"].values())
        assert all(0 < value < 20 for value in method["bits_per_byte"].values())
        assert method["train_seconds"] > 0
    extra = results["dape-kerple"]["parameters"] - results["kerple_log"]["parameters"]
    assert extra == 4 * (32 * 8 + 32 + 4 * 32 + 4)
    for name in ("report.html", "report.md", "extrapolation.png", "extrapolation.csv", "heads.png", "heads.csv"):
        assert (out / name).stat().st_size > 100
    assert (out / "runs/rope/metrics.jsonl").read_text().count("\n") == 120
    assert "now try:" in result.stdout
