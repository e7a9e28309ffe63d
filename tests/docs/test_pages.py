"""The pages as Sphinx builds them, and what they refer to: links, files, settings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import BUILT, DOCS, PAGES, REPORTS, ROOT, blocks, inline
from pydantic import BaseModel

from megadape.config.reference import describe_keys
from megadape.config.run import RunSettings
from megadape.slurm.site import SiteSettings
from megadape.studies.che.settings import CheSettings
from megadape.studies.settings import StudySettings

ROOTS: tuple[type[BaseModel], ...] = (RunSettings, StudySettings, CheSettings, SiteSettings)
OURS = ("megadape/", "configs/", "tools/", "slurm/", "tests/", "docs/")
"""What a path of the repository begins with."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages; any warning is an error."""
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(out / "trees")]
    done = subprocess.run([*command, str(DOCS), str(out / "html")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.slow
def test_the_pages_build_without_a_warning(built: Path) -> None:
    for page in BUILT:
        assert (built / page.relative_to(DOCS).with_suffix(".html")).is_file()


@pytest.mark.slow
def test_the_references_are_complete(built: Path) -> None:
    settings = (built / "reference/settings.html").read_text()
    for root in ROOTS:
        for section in describe_keys(root):
            missing = [key.path for key in section.keys if f">{key.path}<" not in settings]
            assert not missing, f"{root.__name__}: {missing}"
    commands = re.sub(r"<[^>]+>", "", (built / "reference/commands.html").read_text())
    for name in ("megadape train", "megadape data shuffle", "megadape evaluate heads", "megadape slurm submit"):
        assert name in commands
    assert "--stop-after-steps" in commands
    assert "slurm verdict" not in commands, "hidden commands are for scripts"


@pytest.mark.slow
def test_the_pages_load_nothing_from_elsewhere(built: Path) -> None:
    for page in built.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"(https?:[^\"]+)\"", page.read_text())
        assert not loaded, f"{page.name} loads {loaded}"


@pytest.mark.parametrize("root", ROOTS)
def test_every_setting_has_a_meaning(root: type[BaseModel]) -> None:
    sections = list(describe_keys(root))
    silent = [key.path for section in sections for key in section.keys if not key.meaning or not key.allowed]
    assert not silent
    assert sum(len(section.keys) for section in sections) > 15


def test_sections_of_every_kind_and_depth() -> None:
    found = {(section.path, section.kind) for section in describe_keys(RunSettings)}
    expected = {
        ("", None),
        ("training.optimizer", None),
        ("positions", "fire"),
        ("mixer", "dape"),
        ("data.blend.N", None),
    }
    assert expected <= found
    keys = {key.path: key for section in describe_keys(RunSettings) for key in section.keys}
    assert keys["training.precision"].allowed == "one of fp32, bf16, fp16"
    assert keys["training.steps"].required
    assert keys["training.steps"].default is None
    assert keys["evaluation.lengths"].default == "[128, 256, 512, 1024, 2048, 4096, 8192]"
    assert keys["positions.kind"].default == "rope"
    assert keys["parallel"].default is None, "its keys have their own"


@pytest.mark.parametrize("page", [*PAGES, *REPORTS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for kind, attribute in (("link_open", "href"), ("image", "src")):
        for token in inline(page, kind):
            target = str(token.attrs[attribute])
            if not re.match(r"https?:|mailto:|#", target):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def mentioned(page: Path) -> Iterator[str]:
    """Paths of the repository in the code of a page."""
    for token in inline(page, "code_inline"):
        yield from (word for word in token.content.split() if word.startswith(OURS))
    for block in blocks(page):
        if not block.caption:
            yield from re.findall(r"(?<![\w./-])(?:configs|tools|slurm)/[\w./-]+\.(?:yaml|py|sbatch)", block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    made = {block.caption for block in blocks(page)}
    for path in mentioned(page):
        # a name in capitals is the reader's
        if re.search(r"[A-Z]{3,}|[*{]", path) or path in made:
            continue
        assert (ROOT / path.rstrip("/,:;")).exists(), f"{page.name}: {path}"


def test_paths_are_found() -> None:
    named = {path for page in PAGES for path in mentioned(page)}
    assert {"configs/models/demo.yaml", "megadape/attention/dispatch.py", "tools/train_tokenizer.py"} <= named
