"""Python and what is installed beside megadape: versions, imports, packages of a name that is not theirs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megadape.doctor.base import Finding, Subject, bad, fine, first_line, warn

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OPTIONAL = {
    "wandb": "logging.wandb_project",
    "tensorboard": "logging.tensorboard",
    "pyarrow": "parquet input",
    "datasets": "hf: input",
    "transformers": "Hugging Face folders",
}
"""Package -> what needs it."""

OWN_CHECKS = ("torch", "deepspeed")
"""Imported, not only looked up: see below."""


def look_at_python(subject: Subject) -> Iterator[Finding]:
    """Which interpreter, on what."""
    yield fine("python", f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}")


def look_at_packages(subject: Subject) -> Iterator[Finding]:
    """Whether what megadape requires is there, in versions that it works with."""
    try:
        needed = requirements()
    except metadata.PackageNotFoundError:
        yield warn("packages", "megadape runs from a folder and is not installed", pip("-e", "."))
        return
    there = []
    for name, requirement in needed.items():
        version = installed(name)
        if version is None:
            yield bad("packages", f"{name} is not installed", pip(str(requirement)))
        elif not requirement.specifier.contains(version, prereleases=True):
            yield bad("packages", f"{name} is {version}, but megadape works with {requirement}", pip(str(requirement)))
        else:
            there.append(f"{name} {version}")
    yield fine("packages", ", ".join([f"megadape {installed('megadape')}", *there]))


def look_at_optional_packages(subject: Subject) -> Iterator[Finding]:
    """What some features want, and works without."""
    there = {name: installed(name) for name in OPTIONAL}
    words = [f"{name} {version}" for name, version in there.items() if version]
    words += [f"no {name} ({OPTIONAL[name]})" for name, version in there.items() if version is None]
    yield fine("optional packages", ", ".join(words))


def look_at_torch(subject: Subject) -> Iterator[Finding]:
    """Whether torch starts and computes."""
    torch, finding = import_package("torch")
    if finding is not None:
        yield finding
        return
    product = torch.eye(2) @ torch.ones(2)
    assert product.tolist() == [1.0, 1.0], f"a product of ones with the identity is {product.tolist()}"
    device = f"CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs"
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.version.cuda else None
    words = [f"{torch.__version__} ({device}{f', NCCL {nccl}' if nccl else ''})"]
    if not torch.distributed.is_available():
        yield bad("torch", f"{words[0]}, without torch.distributed", reinstall("torch"))
        return
    yield fine("torch", words[0])


def look_at_deepspeed(subject: Subject) -> Iterator[Finding]:
    """Whether DeepSpeed starts, and has what is called."""
    if platform.system() != "Linux":
        yield fine("deepspeed", f"not for {platform.system()}: training.engine: torch is there")
        return
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if Path("/dev/nvidiactl").exists() else "cpu")
    deepspeed, finding = import_package("deepspeed")
    if finding is not None:
        yield finding
        return
    absent = [name for name in ("initialize", "init_distributed", "ops") if not hasattr(deepspeed, name)]
    if absent:
        yield bad("deepspeed", f"{deepspeed.__file__} has no {', '.join(absent)}", remedy_for("deepspeed"))
        return
    yield fine("deepspeed", f"{deepspeed.__version__}")


def look_at_apex(subject: Subject) -> Iterator[Finding]:
    """Whether a package apex is NVIDIA's, with the kernels for which one has it."""
    if importlib.util.find_spec("apex") is None:
        yield fine("apex", "not installed, and not needed: kernels of torch are used")
        return
    from megadape.kernels import APEX_PARTS, find_apex

    for part in APEX_PARTS:
        lack = find_apex(*part)
        if lack is not None:
            yield bad("apex", lack.seen, lack.remedy)
            return
    yield fine("apex", "NVIDIA's, with its fused layer norm and Adam")


def import_package(name: str) -> tuple[Any, Finding | None]:
    """The module; or, should it not start, what is said of it."""
    try:
        return importlib.import_module(name), None
    except (Exception, SystemExit) as error:
        spec = _spec(name)
        where = f" ({spec})" if spec else ""
        return None, bad(name, f"cannot be imported{where}: {first_line(error)}", remedy_for(name))


def remedy_for(name: str) -> str:
    """What mends a package that is there and does not work."""
    found, own = _spec(name), _installed_at(name)
    if found is not None and own is not None and not own.samefile(found):
        return f"it hides the installed one, {own}: take {found.parent.parent} off PYTHONPATH, or remove it there"
    return reinstall(name)


def reinstall(name: str) -> str:
    """The command that puts a package in its place anew."""
    try:
        wanted = str(requirements().get(name, name))
    except metadata.PackageNotFoundError:
        wanted = name
    return pip("--force-reinstall", "--no-deps", wanted)


def pip(*words: str) -> str:
    """A pip command of this interpreter."""
    return shlex.join([sys.executable, "-m", "pip", "install", *words])


def requirements() -> dict[str, Requirement]:
    """What megadape requires here: name -> requirement, without the marker."""
    from packaging.requirements import Requirement

    found = {}
    for line in metadata.requires("megadape") or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            found[requirement.name] = requirement
    return found


def installed(name: str) -> str | None:
    """Its version; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _spec(name: str) -> Path | None:
    """The file that an import of it reads."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _installed_at(name: str) -> Path | None:
    """The file that pip put there."""
    try:
        path = Path(str(metadata.distribution(name).locate_file(f"{name}/__init__.py")))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None
