"""Study files: the grid that they make, and the mistakes that they can hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from megadape.errors import ConfigurationError
from megadape.studies.batch import choose_named
from megadape.studies.grid import read_study

ROOT = Path(__file__).parents[2]
STUDIES = [path for path in sorted((ROOT / "configs/studies").glob("*.yaml")) if not path.name.startswith("che")]

STUDY = """
name: tiny
folder: {folder}
text: {{tokenizer: byte}}
base:
  files: [base.yaml]
  set: {{training: {{steps: 7}}}}
methods:
  rope: {{set: {{positions: {{kind: rope, base: 500}}}}}}
  dape-kerple: {{set: {{positions: {{kind: kerple_log}}, mixer: {{kind: dape, hidden: 4}}}}}}
sizes:
  narrow: {{}}
  wide: {{set: {{model: {{hidden_size: 64}}}}}}
training_lengths: [32, 64]
seeds: [3, 1]
"""

BASE = """
model: {num_layers: 1, hidden_size: 32, num_heads: 4}
training: {steps: 3, sequence_length: 16, global_batch_size: 2, micro_batch_size: 2}
"""


def write(folder: Path, study: str = STUDY) -> Path:
    (folder / "base.yaml").write_text(BASE)
    file = folder / "study.yaml"
    file.write_text(study.format(folder=folder / "out"))
    return file


def test_a_study_is_every_method_at_every_size_length_and_seed_and_layers_lie_in_this_order(tmp_path: Path) -> None:
    study = read_study(write(tmp_path))
    names = [cell.name for cell in study.cells]
    assert len(set(names)) == len(names) == 16
    assert names[:3] == ["narrow-32/rope/seed-3", "narrow-32/dape-kerple/seed-3", "narrow-64/rope/seed-3"]
    assert all(name.endswith("seed-1") for name in names[8:])
    for cell in study.cells:
        run = cell.run
        assert run.run_dir == tmp_path / "out" / "runs" / cell.name
        assert (run.seed, run.training.sequence_length) == (cell.seed, cell.training_length)
        assert run.model.hidden_size == {"narrow": 32, "wide": 64}[cell.size]
        assert run.training.steps == 7
        assert run.data.prefix == tmp_path / "out" / "data" / "text"
        assert (run.mixer.kind == "dape") == (cell.method == "dape-kerple")
    assert study.settings.compared_with == "dape-kerple"


def test_runs_are_chosen_by_name_or_by_its_beginning(tmp_path: Path) -> None:
    study = read_study(write(tmp_path))
    assert choose_named(study.cells, [], study.file) == study.cells
    assert [cell.name for cell in choose_named(study.cells, ["wide-64/rope"], study.file)] == [
        "wide-64/rope/seed-3",
        "wide-64/rope/seed-1",
    ]
    both = choose_named(study.cells, ["wide-64/rope/seed-1", "narrow-32/"], study.file)
    assert [cell.name for cell in both][-1] == "wide-64/rope/seed-1"
    assert len(both) == 5
    with pytest.raises(ConfigurationError, match="has no run 'wide-6'; its runs are named as narrow-32/rope/seed-3"):
        choose_named(study.cells, ["wide-6"], study.file)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("steps: 7", "stepz: 7", r"base.set\): training.stepz: unknown key; did you mean training.steps"),
        ("base: 500", "bse: 500", r"method rope: .*methods.rope.set\): positions.bse: unknown key"),
        ("seeds: [3, 1]", "seeds: [3, 3]", "seeds names a value twice: 3, 3"),
        ("rope: {{", "../rope: {{", "'../rope' cannot name a folder"),
        ("[base.yaml]", "[bas.yaml]", "there is no such settings file; did you mean .*base.yaml"),
        ("seeds: [3, 1]", "seeds: [3]\nreference: rop", "reference 'rop' is none of the methods: rope, dape-kerple"),
        (
            "  wide: {{set: {{model: {{hidden_size: 64}}}}}}",
            "  wide: {{set: {{model: {{hidden_size: 66}}}}}}",
            "size wide",
        ),
        ("text: {{tokenizer: byte}}\n", "", "data"),
    ],
)
def test_mistakes_are_told_with_their_place_before_anything_runs(
    before: str, after: str, said: str, tmp_path: Path
) -> None:
    assert before in STUDY
    with pytest.raises(ConfigurationError, match=said):
        read_study(write(tmp_path, STUDY.replace(before, after)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", STUDIES, ids=lambda path: path.stem)
def test_the_studies_that_come_along_are_sound(file: Path) -> None:
    study = read_study(file)
    assert len(study.settings.seeds) >= 6, "fewer cannot show a difference below 0.05"
    for method in study.settings.methods:
        assert ("dape" in method) == any(c.run.mixer.kind != "none" for c in study.cells if c.method == method)
