"""The command as it is typed: main paths, and mistakes that end in one sentence and exit code 2.

Main paths are processes of their own; most mistakes are made in this one, which has torch imported already.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from megadape.cli import app

ROOT = Path(__file__).parents[2]


def megadape(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megadape", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240, check=False)


def here(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, [*map(str, arguments)])


def small_run(corpus: Path, run_dir: Path, *more: str) -> list[str]:
    keys = {
        "run_dir": run_dir,
        "data.prefix": corpus,
        "data.split": "80,20",
        "model.num_layers": 1,
        "model.hidden_size": 16,
        "model.num_heads": 2,
        "training.steps": 3,
        "training.sequence_length": 16,
        "training.global_batch_size": 4,
        "training.micro_batch_size": 2,
    }
    files = [str(ROOT / "configs/models/demo.yaml"), str(ROOT / "configs/positions/dape_kerple.yaml")]
    settings = [*(f"{key}={value}" for key, value in keys.items()), *more]
    return ["train", *files, *(word for setting in settings for word in ("--set", setting))]


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("cli") / "run"
    result = megadape(*small_run(corpus, run_dir, "validation.every=2"))
    assert result.returncode == 0, result.stderr
    assert "step 3/3" in result.stdout
    return run_dir


def test_training_fills_the_run_folder(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[1]["validation_loss"] > 0
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second", "peak_memory_bytes"} <= rows[0].keys()
    assert rows[2]["consumed_samples"] == 12
    assert (trained / "checkpoints/step-00000003/manifest.json").is_file()
    assert json.loads((trained / "provenance.json").read_text())["versions"]["torch"]


def test_the_kept_settings_are_the_run_again(trained: Path) -> None:
    result = megadape("train", trained / "settings.yaml")
    assert result.returncode == 0, result.stderr
    assert "is done: all 3 steps" in result.stdout


def test_evaluation_writes_table_figure_and_files(trained: Path) -> None:
    result = megadape("evaluate", trained, "--lengths", "16,64", "--sequences", "3", "--mode", "all")
    assert result.returncode == 0, result.stderr
    assert "bits per byte" in result.stdout
    assert "16 (trained)" in result.stdout
    written = json.loads((trained / "evaluation/all-step-3.json").read_text())
    assert [row["tokens"] for row in written["results"]] == [48, 192]
    assert (trained / "evaluation/all-step-3.png").read_bytes()[:4] == b"\x89PNG"
    assert (trained / "evaluation/all-step-3.csv").read_text().startswith("length,perplexity,bits_per_byte")


def test_heads_are_drawn(trained: Path) -> None:
    result = megadape("evaluate", "heads", trained, "--length", "40", "--layer", "0", "--query", "20")
    assert result.returncode == 0, result.stderr
    csv = (trained / "evaluation/heads-layer-0-query-20-step-3.csv").read_text().splitlines()
    assert len(csv) == 1 + 2 * 21  # two heads, distances 0 to 20


def test_preprocessing_makes_a_dataset_and_a_short_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two two"}\n')
    inputs = ["--input", tmp_path / "a.jsonl", "--tokenizer-type", "byte"]
    made = megadape("preprocess", *inputs, "--output-prefix", tmp_path / "p")
    assert made.returncode == 0, made.stderr
    assert "2 documents, 12 tokens" in made.stdout
    result = here(*small_run(tmp_path / "p", tmp_path / "run"))
    assert result.exit_code == 2
    assert "fewer than one sample" in result.stderr


def test_config_commands(tmp_path: Path) -> None:
    files = [ROOT / "configs/models/demo.yaml", ROOT / "configs/positions/dape_fire.yaml"]
    needed = ["--set", "run_dir=r", "--set", "data.prefix=p"]
    shown = here("config", "show", *files, *needed)
    assert shown.exit_code == 0, shown.stderr
    assert yaml.safe_load(shown.stdout)["positions"]["kind"] == "fire"
    assert "demo.yaml:" in shown.stdout
    assert "# --set" in shown.stdout
    assert here("config", "validate", *files, *needed).stdout == "the settings are valid\n"
    difference = here("config", "diff", files[0], ROOT / "configs/models/125M.yaml", *needed)
    assert "model.num_layers" in difference.stdout
    assert "properties" in json.loads(here("config", "schema").stdout)


@pytest.mark.parametrize("model", sorted((ROOT / "configs/models").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("encoding", sorted((ROOT / "configs/positions").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_settings_file_is_valid(model: Path, encoding: Path) -> None:
    from megadape.config import load

    settings = load([model, encoding], ["run_dir=r", "data.prefix=p"])
    assert settings.model.num_heads in (4, 12, 16)


MISTAKES = {
    "an unknown key": (["--set", "model.num_layer=4"], "did you mean"),
    "an unknown encoding": (["--set", "positions.kind=ropee"], "rope"),
    "heads that do not divide": (["--set", "model.num_heads=3"], "hidden_size % num_heads"),
    "a batch that does not divide": (["--set", "training.micro_batch_size=3"], "micro_batch_size x accumulation"),
    "a missing dataset": (["--set", "data.prefix=/nowhere/text"], "/nowhere/text"),
    "ZeRO without DeepSpeed": (["--set", "parallel.zero=1"], "deepspeed"),
    "heads that tp does not divide": (["--set", "parallel.tp=3"], "num_heads % parallel.tp"),
    "a vocabulary that is too small": (["--set", "model.vocab_size=100"], "257 tokens"),
    "an unknown backend": (["--set", "model.attention_backend=flash"], "flash"),
}


@pytest.mark.parametrize(("settings", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_sentence(settings: list[str], said: str, corpus: Path, tmp_path: Path) -> None:
    result = here(*small_run(corpus, tmp_path / "run"), *settings)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_several_mistakes_are_told_at_once(corpus: Path, tmp_path: Path) -> None:
    wrong = ["--set", "model.num_layers=0", "--set", "training.step=5", "--set", "positions.kind=alibo"]
    result = megadape(*small_run(corpus, tmp_path / "run"), *wrong)
    assert result.returncode == 2
    for word in ("model.num_layers", "training.step", "alibi"):
        assert word in result.stderr


def test_a_checkpoint_of_another_model_is_refused(trained: Path, corpus: Path) -> None:
    before = (trained / "metrics.jsonl").read_text()
    result = here(*small_run(corpus, trained, "validation.every=2", "model.num_layers=2", "training.steps=5"))
    assert result.exit_code == 2
    assert "model.num_layers is 1 there and 2 here" in result.stderr
    assert (trained / "metrics.jsonl").read_text() == before
    assert yaml.safe_load((trained / "settings.yaml").read_text())["model"]["num_layers"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "/nowhere"], "no run folder"),
        (["evaluate", "heads", "/nowhere"], "no run folder"),
        (["demo", "--text", "/nowhere.txt"], "does not exist"),
        (["train", "/nowhere.yaml"], "no such settings file"),
        (["preprocess", "--input", "/nowhere", "--output-prefix", "x", "--tokenizer-type", "byte"], "/nowhere"),
        (["preprocess", "--input", "README.md", "--output-prefix", "x", "--tokenizer-type", "bite"], "byte"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_what_is_not_there_is_named(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = here(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_evaluation_mistakes(trained: Path) -> None:
    for arguments, said in (
        (["--lengths", "16,x"], "malformed"),
        (["--lengths", "99999999"], "needs 100000000"),
        (["--mode", "sliding"], "fixed_target"),
        (["--split", "test"], "is empty"),
    ):
        result = here("evaluate", trained, *arguments)
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_an_unwritable_run_folder_is_named(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = here(*small_run(corpus, tmp_path / "file" / "run"))
    assert result.exit_code == 2
    assert str(tmp_path / "file") in result.stderr


def test_help_imports_neither_torch_nor_deepspeed() -> None:
    code = "import sys, megadape.cli; print(sorted({'torch', 'deepspeed', 'numpy', 'pydantic'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_an_interruption_keeps_what_is_complete_and_the_same_command_goes_on(corpus: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = small_run(corpus, run_dir, "training.steps=4000", "checkpoint.save_every=5")
    process = subprocess.Popen(
        [sys.executable, "-m", "megadape", *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not list((run_dir / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert json.loads((run_dir / "outcome.json").read_text())["reason"] == "SIGINT on rank 0"
    assert b"Traceback" not in stderr
    again = megadape(*command, "--stop-after-steps", 3)
    assert again.returncode == 75, again.stderr
    assert "resuming after step" in again.stdout
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_told_and_leaves_nothing_to_trust(corpus: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], check=False).returncode:
        pytest.skip("this system lets nobody mount a tmpfs")
    try:
        result = megadape(*small_run(corpus, small / "run", "model.hidden_size=64"))
        assert result.returncode == 2
        assert "No space left" in result.stderr or "disk" in result.stderr
        assert not list((small / "run" / "checkpoints").glob("step-*"))
    finally:
        subprocess.run(["umount", small], check=True)
