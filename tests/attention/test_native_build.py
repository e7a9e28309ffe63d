"""The package's own build of the native kernels."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(target: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={target}", f"--build-temp={target / 'temp'}"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"CXX": compiler}, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("compiler", "note"), [("no-such-compiler", "no C++ compiler"), ("false", "the compiler failed")]
)
def test_without_a_working_compiler_the_build_goes_on_and_says_so(tmp_path: Path, compiler: str, note: str) -> None:
    done = build(tmp_path, compiler)
    assert done.returncode == 0, done.stderr
    assert note in done.stdout + done.stderr
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_the_build_makes_one_library(tmp_path: Path) -> None:
    done = build(tmp_path, "c++")
    assert done.returncode == 0, done.stderr
    (library,) = tmp_path.rglob("*.so")
    assert library.relative_to(tmp_path) == Path("megadape/attention/native/_kernels.so")
