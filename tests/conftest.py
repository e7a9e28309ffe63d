"""Settings and fixtures shared by all tests."""

import os
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# tests never assert on time
settings.register_profile("megadape", deadline=None)
settings.load_profile("megadape")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of a small dataset of real text (standard-library sources) in bytes."""
    from megadape.data import preprocess_files

    library = Path(sysconfig.get_paths()["stdlib"])
    prefix = tmp_path_factory.mktemp("corpus") / "text"
    files = [library / name for name in ("ast.py", "calendar.py", "csv.py", "glob.py", "shlex.py", "statistics.py")]
    preprocess_files(files, prefix, tokenizer="byte", append_eod=True, text_suffixes=(".py",))
    return prefix


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many trials were made of what."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for key, value in report.user_properties:
            if key == "trials":
                number, _, what = str(value).partition(" ")
                counts[what] += int(number)
    for what, number in sorted(counts.items()):
        terminalreporter.write_line(f"trials: {number} {what}")
