"""What compiles: the native attention kernels when megadape is installed, DeepSpeed's optimizers at first use."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from megadape.doctor.base import Finding, Subject, bad, fine, first_line, warn
from megadape.doctor.packages import pip

CANDIDATES = ("c++", "g++", "clang++")

SOURCE = "#include <vector>\n{include}int size() {{ return static_cast<int>(std::vector<int>(3).size()); }}\n"

INSTALL = {
    "debian": "apt-get install g++",
    "fedora": "dnf install gcc-c++",
    "rhel": "dnf install gcc-c++",
    "suse": "zypper install gcc-c++",
    "alpine": "apk add g++",
    "arch": "pacman -S gcc",
}
"""Family of the system -> what installs a compiler."""


def look_at_compiler(subject: Subject) -> Iterator[Finding]:
    """Whether a C++ compiler is there and compiles, with OpenMP."""
    wanted = shlex.split(os.environ.get("CXX", ""))
    commands = [wanted] if wanted else [[name] for name in CANDIDATES]
    command = next((command for command in commands if shutil.which(command[0])), None)
    if command is None:
        names = ", ".join(each[0] for each in commands)
        seen = f"no C++ compiler on PATH (looked for {names}): the native kernels and DeepSpeed's optimizers need one"
        yield bad("compiler", seen, compiler_remedy())
        return
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    words = f"{shlex.join(command)}: {version.splitlines()[0] if version else 'of no version'}"
    error = compile_with(command)
    if error is not None:
        yield bad("compiler", f"{words}; it does not compile a C++17 library: {error}", compiler_remedy())
    elif compile_with(command, openmp=True) is not None:
        yield warn("compiler", f"{words}, without OpenMP: kernels use one thread", compiler_remedy())
    else:
        yield fine("compiler", words)


def look_at_ninja(subject: Subject) -> Iterator[Finding]:
    """Whether ninja, without which torch compiles no extension, is there."""
    if (found := shutil.which("ninja")) is not None:
        yield fine("ninja", found)
        return
    beside = Path(sys.executable).with_name("ninja")
    remedy = f"export PATH={shlex.quote(str(beside.parent))}:$PATH" if beside.exists() else pip("ninja")
    yield warn("ninja", "not on PATH: kernels.optimizer: deepspeed and optimizer offload cannot compile", remedy)


def look_at_extensions(subject: Subject) -> Iterator[Finding]:
    """Whether a compile that was killed has left a lock, for which every later one waits for ever."""
    from torch.utils.cpp_extension import get_default_build_root

    from megadape.kernels import STALE_SECONDS

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in sorted(root.glob("**/lock")):
        idle = time.time() - max(file.stat().st_mtime for file in lock.parent.iterdir())
        if idle > STALE_SECONDS:
            seen = f"a compile was killed and left {lock}: whoever needs this extension waits for ever"
            yield bad("compiled extensions", seen, f"rm {shlex.quote(str(lock))}")
            return
        remedy = f"wait for it; should nobody compile, rm {shlex.quote(str(lock))}"
        yield warn("compiled extensions", f"somebody compiles in {lock.parent}", remedy)
        return
    names = sorted({path.stem for path in root.glob("**/*.so")})
    yield fine("compiled extensions", f"{', '.join(names) or 'none'} in {root}")


def compile_with(command: list[str], *, openmp: bool = False) -> str | None:
    """Compile a few lines to a shared library; None, or what the compiler says."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(SOURCE.format(include="#include <omp.h>\n" if openmp else ""))
        flags = ["-std=c++17", "-fPIC", "-shared", *(["-fopenmp"] if openmp else [])]
        line = [*command, *flags, str(source), "-o", str(source.with_suffix(".so"))]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else first_line(done.stderr or f"exit code {done.returncode}")


def compiler_remedy() -> str:
    """How a compiler is had on this system, and what then builds the kernels."""
    install = next((command for family, command in INSTALL.items() if family in _families()), "install g++")
    return f"{install} (on a cluster: module load gcc), then install megadape again for its native kernels"


def _families() -> str:
    try:
        lines = Path("/etc/os-release").read_text().lower().splitlines()
    except OSError:
        return ""
    return " ".join(line for line in lines if line.startswith(("id=", "id_like=")))
