"""Builds the native attention kernels beside their Python files; everything else stands in pyproject.toml.

The kernels are a plain shared library without Python or torch in it, so the system's C++ compiler (``CXX``, else c++,
g++ or clang++) is called directly. Without one, or should it fail, the package installs without the library and says
so: ``megadape.attention`` then uses its other backends.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("megadape/attention/native/kernel")
LIBRARY = "megadape.attention.native._kernels"
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-ffp-contract=fast", "-fvisibility=hidden"]

AVX512 = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"]
X86_SOURCES = {
    "kernel_avx2.cpp": ["-mavx2", "-mfma"],
    "kernel_avx512.cpp": AVX512,
    "kernel_avx512bf16.cpp": [*AVX512, "-mavx512bf16"],
}
SOURCES: dict[str, list[str]] = {
    "dispatch.cpp": [],
    "kernel_portable.cpp": [],
    **(X86_SOURCES if platform.machine() in ("x86_64", "AMD64") else {}),
}
"""Every source with the flags of the instruction set that it is for."""


def find_compiler() -> list[str] | None:
    """The command of a C++ compiler."""
    wanted = shlex.split(os.environ.get("CXX", ""))
    candidates = [wanted] if wanted else [["c++"], ["g++"], ["clang++"]]
    return next((command for command in candidates if shutil.which(command[0])), None)


def openmp_flags(compiler: list[str], flags: list[str]) -> list[str]:
    """``-fopenmp`` where the compiler can build with it; the kernels then run on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n")
        command = [*compiler, *flags, "-fopenmp", "-shared", str(source), "-o", str(source.with_suffix(".so"))]
        return ["-fopenmp"] if subprocess.run(command, capture_output=True).returncode == 0 else []


class BuildKernels(build_ext):
    """Compiles each source for its instruction set and links them into one library."""

    def get_ext_filename(self, fullname: str) -> str:
        """Without the Python version in the name: the library does not depend on it."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Build the library, or note why there is none."""
        compiler = find_compiler()
        if compiler is None:
            logging.warning("note: no C++ compiler; installing without the native attention kernels")
            return
        try:
            self._build(compiler, Path(self.get_ext_fullpath(ext.name)))
        except subprocess.CalledProcessError as error:
            logging.warning(
                "note: installing without the native attention kernels, the compiler failed:\n%s", error.stderr
            )

    def _build(self, compiler: list[str], target: Path) -> None:
        flags = [*FLAGS, *shlex.split(os.environ.get("CXXFLAGS", ""))]
        flags += openmp_flags(compiler, flags)
        objects = Path(self.build_temp, "kernels")
        for folder in (objects, target.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for source, isa_flags in SOURCES.items():
            self._call([*compiler, *flags, *isa_flags, "-c", str(KERNELS / source), "-o", str(objects / source) + ".o"])
        built = [str(objects / source) + ".o" for source in SOURCES]
        self._call([*compiler, *flags, "-shared", *built, "-o", str(target)])

    @staticmethod
    def _call(command: list[str]) -> None:
        logging.info("%s", shlex.join(command))
        subprocess.run(command, check=True, capture_output=True, text=True)


setup(
    ext_modules=[
        Extension(
            LIBRARY,
            sources=[str(KERNELS / source) for source in SOURCES],
            depends=sorted(str(path) for path in KERNELS.glob("*.h")),
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
