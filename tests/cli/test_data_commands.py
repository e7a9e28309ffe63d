"""``megadape data`` and tools/merge_datasets.py as they are typed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megadape.cli import app
from megadape.data import IndexedDatasetWriter, load_manifest, preprocess_files

ROOT = Path(__file__).parents[2]
COMMANDS = ("inspect", "validate", "merge", "split", "shuffle", "stats")


def data(*arguments: object) -> str:
    """Standard output of a command that succeeds."""
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small datasets, a and b, in the working directory."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"text of {name}\n")
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "[bold]{name}"}}\n{{"text": ""}}\n')
        preprocess_files([tmp_path / f"{name}.txt", tmp_path / f"{name}.jsonl"], tmp_path / name, append_eod=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_work_one_after_another(folder: Path) -> None:
    assert data("merge", "a", "b", "--output-prefix", "ab").endswith("ab: 6 documents, 40 tokens\n")
    assert "shuffled: 6 documents" in data("shuffle", "ab", "--output-prefix", "shuffled", "--seed", 5)
    parts = data("split", "shuffled", "--shares", "50,50", "--by", "hash", "--seed", "1")
    assert [line.split(":")[0] for line in parts.splitlines()[-3:]] == [
        f"shuffled_{part}" for part in ("train", "valid", "test")
    ]
    assert "shuffled_train is sound: " in data("validate", "shuffled_train", "--deep")
    shown = data("inspect", "shuffled_train", "--sources")
    for words in ("byte, 257 tokens", "of a, b", "of shuffled; shares 50,50, by hash, seed 1, part train", "a.jsonl"):
        assert words in shown
    assert data("inspect", "a", "--document", "1") == "91 98 111 108 100 93 97 256\n"
    assert data("inspect", "a", "--document", "1", "--decode") == "[bold]a\n"
    table = data("stats", "ab")
    assert "median" in table
    assert (folder / "ab_lengths.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "ab_lengths.csv").read_text().startswith("length_from,length_to,documents,tokens")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["merge", "a", "nothing", "--output-prefix", "x"], "there is no nothing.idx"),
        (["merge", "a", "b", "--output-prefix", "b"], "b.bin is read and would be written over"),
        (["validate", "broken"], "broken has 2 problems"),
        (["split", "a", "--shares", "x"], "malformed"),
        (["stats", "a", "--figure", "a.gif"], ".png, .svg, .pdf"),
        (["inspect", "a.bin"], "give the prefix without its ending, a"),
        (["shuffle", "a", "--output-prefix", "b", "--seed", "-1"], "cannot be a seed"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_mistakes_and_damages_end_with_2_and_change_nothing(folder: Path, arguments: list[str], said: str) -> None:
    with IndexedDatasetWriter(folder / "broken", "i4") as writer:
        writer.add_document([[1, 2]])
    (folder / "broken.bin").write_bytes(b"")
    (folder / "broken.json").write_text("{}")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = CliRunner().invoke(app, ["data", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_every_command_has_an_example_and_none_loads_torch(folder: Path) -> None:
    code = (
        "import sys\nfrom megadape.cli import app\n"
        f"for name in {COMMANDS}:\n    app(['data', name, '--help'], standalone_mode=False)\n"
        "for words in ('validate a --deep', 'inspect a', 'stats a', 'merge a --output-prefix c',"
        " 'split a --shares 1,1', 'shuffle a --output-prefix d --seed 1'):\n"
        "    app(['data', *words.split()], standalone_mode=False)\n"
        "print('loaded', sorted({'torch', 'deepspeed', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Example: megadape data ") >= len(COMMANDS)
    assert result.stdout.endswith("loaded []\n")


@pytest.fixture
def tool() -> Callable[[list[str]], int]:
    """The tool's main function, which gives the exit code."""
    spec = spec_from_file_location("merge_datasets", ROOT / "tools/merge_datasets.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_the_tool_merges_a_folder_in_the_order_of_names(folder: Path) -> None:
    command = [ROOT / "tools/merge_datasets.py", "--input", ".", "--output-prefix", "out/all"]
    subprocess.run([sys.executable, *command], check=True)
    manifest = load_manifest(folder / "out/all", verify=True)
    assert [one.name for one in manifest.operations[0].inputs] == ["a", "b"]
    assert manifest.documents == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "nowhere"], "nowhere is not a folder"),
        (["--input", "empty"], "holds no .bin and .idx files"),
        (["--input", "halves"], "the pair is incomplete"),
        (["--input", ".", "--multimodal"], "cannot be merged"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_mistakes_with_the_tool_are_told(
    folder: Path,
    tool: Callable[[list[str]], int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    (folder / "empty").mkdir()
    (folder / "halves").mkdir()
    (folder / "halves/x.bin").write_bytes(b"")
    assert tool([*arguments, "--output-prefix", "out"]) == 2
    assert said in capsys.readouterr().err
    assert not list(folder.glob("out*"))
