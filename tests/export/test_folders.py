"""Export, import and export again; what may go wrong with folders leaves everything as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from example_exports import CASES, dape, make_architecture, make_model, run_settings, save_run
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from megadape.cli import app
from megadape.config import dump_yaml, load
from megadape.errors import CheckpointError, ExportError, MegadapeError
from megadape.evaluation.restore import restore_model
from megadape.evaluation.run import evaluate_all
from megadape.evaluation.settings import EvaluationSettings
from megadape.export.exporting import ExportRequest, export_run
from megadape.export.folder import staged
from megadape.export.importing import ImportRequest, import_folder
from megadape.export.record import read_record
from megadape.testing import Silent
from megadape.training.launch import train

CPU = torch.device("cpu")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    folder = tmp_path_factory.mktemp("exported") / "hf"
    export_run(ExportRequest(trained, folder, license="apache-2.0"))
    return folder


@pytest.fixture(scope="module")
def imported(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return import_folder(ImportRequest(exported, tmp_path_factory.mktemp("imported") / "run"))


def test_the_folder_says_what_is_in_it(exported: Path) -> None:
    assert set(contents(exported)) == {
        "README.md", "config.json", "configuration_megadape.py", "generation_config.json", "megadape.json",
        "model.safetensors", "modeling_megadape.py", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    card, config = (exported / "README.md").read_text(), json.loads((exported / "config.json").read_text())
    record = read_record(exported)
    assert "license: apache-2.0\n" in card
    assert f"| 16 | {record.evaluations[0].rows[0].perplexity:.4g} |" in card
    assert record.data[0].bin_sha256 in card
    assert "The model has seen 4 sequences, 64 tokens, in 2 updates." in card
    assert config["training_length"] == 16
    assert config["max_position_embeddings"] == 1 << 20
    assert "lm_head.weight" not in load_file(exported / "model.safetensors")  # tied
    assert str(exported.parents[1]) not in "".join(text.decode(errors="ignore") for text in contents(exported).values())


def test_export_import_export_gives_the_same_bytes(exported: Path, imported: Path, tmp_path: Path) -> None:
    export_run(ExportRequest(imported, tmp_path / "again"))
    assert contents(tmp_path / "again") == contents(exported)


def test_the_same_with_bfloat16_in_several_files(trained: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    export_run(ExportRequest(trained, first, dtype="bfloat16", max_shard_size="20KB"))
    assert (first / "model.safetensors.index.json").is_file()
    assert {x.dtype for path in first.glob("*.safetensors") for x in load_file(path).values()} == {torch.bfloat16}
    run = import_folder(ImportRequest(first, tmp_path / "run"))
    export_run(ExportRequest(run, second, max_shard_size="20KB"))
    assert contents(first) == contents(second)
    ours, theirs = restore_model(trained, CPU).model, restore_model(run, CPU).model
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one.bfloat16().float(), other)


def test_an_imported_run_is_evaluated_as_the_first_one(trained: Path, imported: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(imported, run)
    settings = EvaluationSettings(lengths=(16, 32), sequences=2)
    data = load([trained / "settings.yaml"]).data
    found = [evaluate_all(each, data, settings).extrapolations for each in (run, trained)]
    assert [one.perplexity() for one in found[0].values()] == [one.perplexity() for one in found[1].values()]


def test_an_imported_run_is_trained_further(trained: Path, imported: Path, corpus: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(imported, run_dir)
    more = [f"run_dir={run_dir}", f"data.prefix={corpus}", "data.split=60,40", "training.steps=3"]
    run = load(
        [imported / "settings.yaml"], [*more, "training.optimizer.learning_rate=1e-30", "training.sequence_length=24"]
    )
    assert train(run, dump_yaml(run), Silent()).step == 3
    before, after = restore_model(trained, CPU), restore_model(run_dir, CPU)
    assert after.step == 3
    for one, other in zip(before.model.parameters(), after.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)  # as small a rate leaves them
    other = load([imported / "settings.yaml"], [*more, "positions.minimum=0.02", f"run_dir={tmp_path / 'other'}"])
    shutil.copytree(imported, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"positions.minimum is 0.01 there and 0.02 here"):
        train(other, dump_yaml(other), Silent())


def test_a_step_can_be_chosen(corpus: Path, tmp_path: Path) -> None:
    model = make_model(make_architecture(*CASES["learned"]))
    run = save_run(model, tmp_path / "run", corpus, steps=(2, 5))
    assert export_run(ExportRequest(run, tmp_path / "newest")).step == 5
    assert export_run(ExportRequest(run, tmp_path / "older", step=2)).step == 2
    assert read_record(tmp_path / "older").step == 2
    with pytest.raises(ExportError, match=r"has no checkpoint of step 3; there are 2, 5"):
        export_run(ExportRequest(run, tmp_path / "none", step=3))
    weights = next((run / "checkpoints/step-00000002").glob("model*"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"is not exported: .* bytes instead of"):
        export_run(ExportRequest(run, tmp_path / "none", step=2))
    assert not (tmp_path / "none").exists()


def test_a_folder_that_holds_something_is_kept(trained: Path, exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "diary.txt").write_text("dear")
    with pytest.raises(ExportError, match=r"mine is not empty: .* --overwrite"):
        export_run(ExportRequest(trained, folder))
    assert contents(folder) == {"diary.txt": b"dear"}
    export_run(ExportRequest(trained, folder, overwrite=True, license="apache-2.0"))
    assert contents(folder) == contents(exported)
    assert names(tmp_path) == ["mine"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run, folder: folder.write_text("x"), "is there and is no folder"),
        (lambda run, folder: (run / "settings.yaml").unlink(), "is no run folder: it has no settings.yaml"),
        (lambda run, folder: shutil.rmtree(run / "checkpoints"), "has no valid checkpoint"),
        (lambda run, folder: (run / "settings.yaml").write_text("model: 3"), "model"),
    ],
)
def test_nothing_is_written_after_a_mistake(
    trained: Path, tmp_path: Path, change: Callable[[Path, Path], object], message: str
) -> None:
    run, folder = tmp_path / "run", tmp_path / "hf"
    shutil.copytree(trained, run)
    change(run, folder)
    before = names(tmp_path)
    with pytest.raises(MegadapeError, match=message):
        export_run(ExportRequest(run, folder))
    assert names(tmp_path) == before


def test_a_run_is_not_replaced_by_its_own_export(trained: Path) -> None:
    before = names(trained)
    with pytest.raises(ExportError, match="which would be replaced"):
        export_run(ExportRequest(trained, trained, overwrite=True))
    with pytest.raises(ExportError, match="which would be replaced"):
        export_run(ExportRequest(trained, trained.parent, overwrite=True))
    assert names(trained) == before


def test_other_data_than_the_run_was_trained_on_is_found_out(trained: Path, tmp_path: Path) -> None:
    from megadape.data import preprocess_files

    (tmp_path / "other.txt").write_text("something else")
    preprocess_files([tmp_path / "other.txt"], tmp_path / "other")
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    text = dump_yaml(load([run / "settings.yaml"], [f"data.prefix={tmp_path / 'other'}"]))
    (run / "settings.yaml").write_text(text)
    with pytest.raises(MegadapeError, match=r"is not the dataset that .* was trained on"):
        export_run(ExportRequest(run, tmp_path / "hf"))


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")
    (tmp_path / ".folder.partial-elsewhere-1").mkdir()  # another host's is left alone
    with pytest.raises(ZeroDivisionError), staged(folder) as staging:
        (staging / "new").write_text(f"{1 / 0}")
    assert contents(folder) == {"old": b"old"}
    assert names(tmp_path) == [".folder.partial-elsewhere-1", "folder"]


def _edit(name: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    def work(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return work


def _flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no record": (lambda folder: (folder / "megadape.json").unlink(), "has no megadape.json"),
    "half a record": (lambda folder: (folder / "megadape.json").write_text('{"format"'), "megadape.json is damaged"),
    "another format": (_edit("megadape.json", lambda one: one.update(version=9)), "version"),
    "no such encoding": (
        _edit("megadape.json", lambda one: one["settings"]["positions"].update(kind="x")),
        "megadape.json is damaged",
    ),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "config.json cannot be read"),
    "another family": (_edit("config.json", lambda one: one.update(model_type="gpt2")), "'gpt2' model"),
    "two stories": (
        _edit("config.json", lambda one: one.update(hidden_size=64)),
        "hidden_size is 64 in config.json and 32 in megadape.json",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a flipped bit": (_flip, r"is not the file that was exported \(its SHA-256 differs\): .*--changed"),
    "a file outside": (
        _edit("megadape.json", lambda one: one["tokenizer"]["files"].update(model="../../etc/passwd")),
        "not a plain name",
    ),
    "another tokenizer": (_edit("megadape.json", lambda one: one["tokenizer"].update(digest="0")), "is not the one"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_refused(exported: Path, tmp_path: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    folder = tmp_path / "hf"
    shutil.copytree(exported, folder)
    change(folder)
    with pytest.raises(MegadapeError, match=message):
        import_folder(ImportRequest(folder, tmp_path / "run"))
    assert names(tmp_path) == ["hf"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("model.norm.weight"), r"lacks the tensor 'model.norm.weight'"),
        (lambda x: x.update(more=torch.zeros(1)), "has a tensor 'more' that its model does not have"),
        (lambda x: x.update({"model.norm.weight": torch.zeros(3)}), r"model.norm.weight is torch.float32 \[3\]"),
        (lambda x: x.update({"model.norm.weight": torch.zeros(32, dtype=torch.int32)}), "is torch.int32"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    exported: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(exported, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ExportError, match=message):
        import_folder(ImportRequest(folder, tmp_path / "run", changed=True))
    (folder / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(MegadapeError, match="cannot be read"):
        import_folder(ImportRequest(folder, tmp_path / "run", changed=True))
    assert names(tmp_path) == ["hf"]


def test_what_transformers_changed_and_saved_is_imported(exported: Path, tmp_path: Path) -> None:
    """Fine-tuned elsewhere: saved by transformers, with our record and nothing else put beside it."""
    from megadape.export.check import load_exported

    model, folder = load_exported(exported), tmp_path / "tuned"
    with torch.no_grad():
        model.model.norm.weight += 0.5
    model.save_pretrained(folder)
    shutil.copy(exported / "megadape.json", folder)
    run = import_folder(ImportRequest(folder, tmp_path / "run", changed=True))
    restored = restore_model(run, CPU).model
    assert torch.equal(restored.norm.weight, model.model.norm.weight)
    export_run(ExportRequest(run, tmp_path / "again"))
    card = (tmp_path / "again/README.md").read_text()
    assert "**The weights were changed after they were exported" in card
    assert "None was made before the export." in card


def test_importing_executes_nothing(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(exported, folder)
    for path in folder.glob("*.py"):
        path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    import_folder(ImportRequest(folder, tmp_path / "run"))
    assert names(tmp_path) == ["hf", "run"]


def test_the_commands(trained: Path, tmp_path: Path) -> None:
    def command(*words: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, [str(word) for word in words])
        return done.exit_code, done.output

    folder, run = tmp_path / "hf", tmp_path / "run"
    assert command("export", trained, "--to", "hf", folder, "--dtype", "bfloat16")[0] == 0
    assert command("import", folder, run) == (0, f"written: {run}\n")
    for words, message in (
        (("export", trained, "--to", "hf", folder), "is not empty"),
        (("export", tmp_path / "none", tmp_path / "x"), "is no run folder"),
        (("export", trained, tmp_path / "x", "--license", "mine\nyours"), "is no identifier of a license"),
        (("import", tmp_path / "none", tmp_path / "x"), "does not exist"),
        (("import", folder, run), "is not empty"),
        (("import", trained, tmp_path / "x"), "has no megadape.json"),
    ):
        code, output = command(*words)
        assert code == 2
        assert message in output
    assert command("export", trained, "--to", "onnx", tmp_path / "x")[0] == 2
    assert names(tmp_path) == ["hf", "run"]


def test_a_blend_is_told_dataset_by_dataset(corpus: Path, tmp_path: Path) -> None:
    architecture = make_architecture({"kind": "alibi"}, dape("concat_residual"))
    run = save_run(make_model(architecture), tmp_path / "run", corpus)
    blend = f"[{{prefix: {corpus}, weight: 3, name: code}}, {{prefix: {corpus}, weight: 1, name: more}}]"
    settings = run_settings(architecture, run, corpus)
    settings = load([run / "settings.yaml"], ["data.prefix=null", f"data.blend={blend}", f"seed={settings.seed}"])
    (run / "settings.yaml").write_text(dump_yaml(settings))
    export_run(ExportRequest(run, tmp_path / "hf"))
    assert [(one.name, one.weight) for one in read_record(tmp_path / "hf").data] == [("code", 0.75), ("more", 0.25)]
