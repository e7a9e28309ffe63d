"""Settings and fixtures shared by all tests."""

import fcntl
import os
import signal
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.append(str(Path(__file__).parent))  # modules that tests of several rooms share

os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# tests never assert on time
settings.register_profile("megadape", deadline=None)
settings.load_profile("megadape")


# only a power cut would show whether files are flushed, and waiting for the disk thousands of times takes minutes;
# processes that tests start flush for real
os.fsync = lambda fd: None  # type: ignore[assignment]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of a small dataset of real text (standard-library sources) in bytes."""
    from megadape.data import preprocess_files

    library = Path(sysconfig.get_paths()["stdlib"])
    prefix = tmp_path_factory.mktemp("corpus") / "text"
    files = [library / name for name in ("ast.py", "calendar.py", "csv.py", "glob.py", "shlex.py", "statistics.py")]
    preprocess_files(files, prefix, tokenizer="byte", append_eod=True, text_suffixes=(".py",))
    return prefix


@pytest.fixture
def all_cores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No other test that asks for this runs meanwhile: worlds of four ranks that share two cores with each other wait
    for one another at every collective."""
    with (tmp_path_factory.getbasetemp().parent / "all-cores.lock").open("w") as file:  # the parent is the workers'
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that want all cores come first: one worker makes them one after the other, and none waits for another. Then
    the slow ones, lest the last of them be left to one worker while the other has nothing to do."""
    items.sort(key=lambda item: ("all_cores" not in getattr(item, "fixturenames", ()), not is_slow(item)))


def is_slow(item: pytest.Item) -> bool:
    """Whether it is marked so."""
    return item.get_closest_marker("slow") is not None


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
