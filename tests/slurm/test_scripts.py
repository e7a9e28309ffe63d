"""The scripts: what is rendered can be read by bash, Slurm and people, whatever a site's values are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from megadape.config import load
from megadape.errors import SlurmError
from megadape.slurm.lint import lint
from megadape.slurm.script import SINGLE, Job, choose_job, format_limit, read_script, render
from megadape.slurm.site import SiteSettings

ROOT = Path(__file__).parents[2]
FULL: dict[str, Any] = {
    "account": "acct",
    "partition": "gpu,long",
    "qos": "high",
    "reservation": "res",
    "constraint": "h100&ib",
    "exclude": "n[1-2],m3",
    "gpu_type": "h100",
    "memory": "500G",
    "log": "%x-%j.log",
    "python": "/venv/bin/python",
    "modules": ["cuda/12.4"],
    "environment": {"NCCL_DEBUG": "WARN"},
    "container": {"image": "/images/a.sqsh", "mounts": ["/data:/data:ro"]},
}
SITES = [SiteSettings(), SiteSettings.model_validate(FULL)]
SITES += [
    SiteSettings.model_validate(FULL | {"container": {"image": "a.sif", "mounts": ["/d"], "runtime": "apptainer"}}),
    SiteSettings(launcher="torchrun", exclusive=True),
    *(load([file], root=SiteSettings) for file in sorted((ROOT / "configs/clusters").glob("*.yaml"))),
]


def jobs() -> list[Job]:
    words = ("configs/models/demo.yaml", "--set", "run_dir=runs/it's $HOME `x`", "--set", 'data.split="90,10"')
    return [job for name in SINGLE for job in (choose_job(name), Job(name, words=words, single=SINGLE[name]))]


@pytest.mark.parametrize("name", SINGLE)
def test_scripts_in_the_repository_are_those_that_the_default_settings_make(name: str) -> None:
    assert read_script(name) == (ROOT / "slurm" / f"{name}.sbatch").read_text() == render(choose_job(name), SITES[0])


def test_scripts_that_share_a_part_share_it_to_the_letter() -> None:
    for part in ("before", "run"):
        pattern = re.compile(rf"# >>> {part}\n.*# <<< {part}\n", re.DOTALL)
        found = [pattern.search(read_script(name)) for name in ("pretrain", "study")]
        assert found[0] is not None
        assert found[1] is not None
        assert found[0][0] == found[1][0]


@pytest.mark.parametrize("site", SITES)
def test_what_is_rendered_passes_bash_and_the_lint(site: SiteSettings) -> None:
    for job in jobs():
        script = render(job, site)
        assert lint(script, Path("/tmp")) == []
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck")
def test_what_is_rendered_passes_shellcheck(tmp_path: Path) -> None:
    files = [ROOT / "tests/slurm/cluster.sh", ROOT / ".ci/run"]
    for index, (site, job) in enumerate((site, job) for site in SITES for job in jobs()):
        files.append(tmp_path / f"{index}.sbatch")
        files[-1].write_text(render(job, site))
    done = subprocess.run(
        ["shellcheck", "--severity=warning", *map(str, files)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_words_reach_the_command_as_they_were_typed() -> None:
    for job in jobs():
        if job.words:
            block = render(job, SITES[1]).partition("# >>> site\n")[2].partition("# <<< site\n")[0]
            done = subprocess.run(
                ["bash", "-c", block + "printf '%s\\0' \"$@\""], capture_output=True, text=True, check=True
            )
            assert done.stdout.split("\0")[:-1] == list(job.words)


def test_a_word_with_a_line_break_is_refused() -> None:
    with pytest.raises(SlurmError, match="control character"):
        render(Job(words=("a\n#SBATCH --account=other",)), SITES[0])


def paths(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every text in nested values."""
    if isinstance(values, str):
        return [path]
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [found for key, value in items for found in paths(value, (*path, key))]


def replaced(values: Any, path: tuple[Any, ...], text: str) -> Any:
    if not path:
        return text
    items = values.items() if isinstance(values, dict) else enumerate(values)
    new = {key: replaced(value, path[1:], text) if key == path[0] else value for key, value in items}
    return new if isinstance(values, dict) else list(new.values())


def at(values: Any, path: tuple[Any, ...]) -> str:
    for key in path:
        values = values[key]
    return str(values)


evil = st.sampled_from(
    ["\n", "\r", "'", '"', "`", "$", "\\", "\0", ";", " ", "\t", "\x1b", "\u2028", "\n#SBATCH --x=1"]
)


@example(path=("exclude",), character="\n", place=0.0)
@example(path=("exclude",), character="\n", place=1.0)
@given(path=st.sampled_from(paths(FULL)), character=evil, place=st.floats(0, 1))
def test_no_value_can_hold_a_quote_or_a_line_break(path: tuple[Any, ...], character: str, place: float) -> None:
    text = at(FULL, path)
    cut = round(place * len(text))
    with pytest.raises(ValidationError):
        SiteSettings.model_validate(replaced(FULL, path, text[:cut] + character + text[cut:]))


@given(name=st.sampled_from(["A\nB", "A B", "A'", 'A"', "1A", "A=1", "$(x)", "", "WANDB_API_KEY", "HF_TOKEN"]))
def test_no_variable_can_be_a_command_or_a_secret(name: str) -> None:
    with pytest.raises(ValidationError):
        SiteSettings(environment={name: "x"})


@given(path=st.sampled_from(paths(FULL)), text=st.text(max_size=12))
def test_whatever_text_is_taken_stays_one_value(path: tuple[Any, ...], text: str) -> None:
    try:
        site = SiteSettings.model_validate(replaced(FULL, path, text))
    except ValidationError:
        return
    plain, changed = (render(Job(), each).splitlines() for each in (SITES[1], site))
    assert len(plain) == len(changed)
    assert sum(one != other for one, other in zip(plain, changed, strict=True)) <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("#SBATCH --requeue\n", ""), "--requeue"),
        (("#SBATCH --open-mode=append\n", ""), "--open-mode"),
        (("B:USR1", "USR1"), "--signal"),
        (("#SBATCH --requeue", "# SBATCH --requeue"), "is no directive"),
        (("#SBATCH --requeue", "#SBATCH requeue"), "is no directive"),
        (("#SBATCH --nodes=1", "true\n#SBATCH --nodes=1"), "below a command"),
        (("#SBATCH --nodes=1", "#SBATCH --nodes=1\n#SBATCH -N 2"), "given twice"),
        (("%x-%j.log", "/no/such/folder/%j.log"), "no folder /no/such/folder"),
        (("#!/usr/bin/env bash\n", ""), "line 1"),
        (("\n", "\r\n"), "carriage returns"),
    ],
)
def test_what_sbatch_would_not_notice_is_found(change: tuple[str, str], said: str) -> None:
    assert any(said in problem for problem in lint(read_script("pretrain").replace(*change), Path("/tmp")))


@pytest.mark.parametrize(("seconds", "text"), [(60, "0-00:01:00"), (61, "0-00:02:00"), (90000, "1-01:00:00")])
def test_limits_are_written_in_whole_minutes(seconds: float, text: str) -> None:
    assert format_limit(seconds) == text
