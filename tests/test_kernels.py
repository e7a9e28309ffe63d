"""Kernels are those that were asked for, or an error that says what is missing; the same numbers as torch's."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from megadape.errors import ConfigurationError
from megadape.kernels import STALE_SECONDS, KernelSettings, choose_kernels

CPU, GPU = torch.device("cpu"), torch.device("cuda")

UNRELATED = {"apex/__init__.py": "from pyramid.session import UnencryptedCookieSessionFactoryConfig\n"}

UNBUILT = {
    "apex/__init__.py": "",
    "apex/optimizers/__init__.py": "import torch\nclass FusedAdam(torch.optim.AdamW): ...\n",
    "apex/normalization/__init__.py": "",
    "apex/normalization/fused_layer_norm.py": """
import importlib
import torch

class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, shape, eps):
        kernel = importlib.import_module("fused_layer_norm_cuda")
        y, mean, inverse = kernel.forward_affine(x.contiguous(), shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.shape = shape
        return y

    @staticmethod
    def backward(ctx, grad):
        kernel = importlib.import_module("fused_layer_norm_cuda")
        x, weight, bias, mean, inverse = ctx.saved_tensors
        return *kernel.backward_affine(grad.contiguous(), mean, inverse, x, ctx.shape, weight, bias), None, None

def fused_layer_norm_affine(input, weight, bias, normalized_shape, eps=1e-6, memory_efficient=False):
    return _Function.apply(input, weight, bias, normalized_shape, eps)
""",
}

BUILT = UNBUILT | {
    "amp_C.py": "def multi_tensor_adam(): ...\n",
    "apex/optimizers/__init__.py": """
import amp_C
import torch

class FusedAdam(torch.optim.AdamW):
    def __init__(self, params, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=True,
                 weight_decay=0.0, amsgrad=False):
        assert adam_w_mode and bias_correction and not amsgrad
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
""",
    "fused_layer_norm_cuda.py": """
import torch

def forward_affine(x, shape, weight, bias, eps):
    return torch.native_layer_norm(x, shape, weight, bias, eps)

def backward_affine(grad, mean, inverse, x, shape, weight, bias):
    return torch.ops.aten.native_layer_norm_backward(grad, x, shape, mean, inverse, weight, bias, [True] * 3)
""",
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages that are imported first, and forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "amp_C", "fused_layer_norm_cuda")]:
        del sys.modules[name]


def install(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    importlib.invalidate_caches()


def updated(kernels_settings: KernelSettings, device: torch.device) -> list[torch.Tensor]:
    """Two parameters, one without decay, after three updates."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(7, 5, generator=generator)) for _ in range(2)]
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(parameters, (0.1, 0.0), strict=True)]
    optimizer = choose_kernels(kernels_settings, device).optimizer(groups, 1e-2, (0.9, 0.95), 1e-8)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn(7, 5, generator=generator)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def normalised(kernels_settings: KernelSettings, device: torch.device) -> list[torch.Tensor]:
    """A layer norm and its three gradients."""
    generator = torch.Generator().manual_seed(1)
    x, weight, bias, grad = (torch.randn(s, generator=generator) for s in ((3, 4, 8), (8,), (8,), (3, 4, 8)))
    leaves = [each.requires_grad_() for each in (x, weight, bias)]
    y = choose_kernels(kernels_settings, device).layer_norm(x, weight.shape, weight, bias, 1e-5)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def test_torch_is_the_default() -> None:
    kernels = choose_kernels(KernelSettings(), CPU)
    assert kernels.names == {"layer_norm": "torch", "optimizer": "torch"}
    assert kernels.layer_norm is functional.layer_norm
    optimizer = kernels.optimizer([{"params": [torch.nn.Parameter(torch.ones(2))]}], 1e-3, (0.9, 0.95), 1e-8)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["fused"] is True


def test_auto_on_a_cpu_is_torch_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "megadape.kernels"):
        kernels = choose_kernels(KernelSettings(layer_norm="auto", optimizer="auto"), CPU)
    assert kernels.names == {"layer_norm": "torch", "optimizer": "torch"}
    assert "layer norm of torch, optimizer of torch" in caplog.text


def test_apex_on_a_cpu_is_refused(packages: Path) -> None:
    install(packages, BUILT)
    with pytest.raises(ConfigurationError, match=r"kernels\.layer_norm: apex .* NVIDIA GPUs and this is cpu"):
        choose_kernels(KernelSettings(layer_norm="apex"), CPU)


def test_apex_that_is_not_installed_is_refused_with_where_to_get_it() -> None:
    with pytest.raises(ConfigurationError, match=r"apex\.optimizers\.FusedAdam and no package .* not on PyPI"):
        choose_kernels(KernelSettings(optimizer="apex"), GPU)


@pytest.mark.parametrize("setting", ["layer_norm", "optimizer"])
def test_the_unrelated_apex_is_refused_and_auto_passes_it_over(packages: Path, setting: str) -> None:
    install(packages, UNRELATED)
    with pytest.raises(ConfigurationError, match=rf"kernels\.{setting}: .*{packages}/apex is another one.*uninstall"):
        choose_kernels(KernelSettings.model_validate({setting: "apex"}), GPU)
    assert choose_kernels(KernelSettings.model_validate({setting: "auto"}), GPU).names[setting] == "torch"


@pytest.mark.parametrize(("setting", "extension"), [("layer_norm", "fused_layer_norm_cuda"), ("optimizer", "amp_C")])
def test_apex_without_its_extensions_is_refused(packages: Path, setting: str, extension: str) -> None:
    install(packages, UNBUILT)
    with pytest.raises(
        ConfigurationError, match=f"with its extension {extension} is not .*C\\+\\+ and CUDA extensions"
    ):
        choose_kernels(KernelSettings.model_validate({setting: "apex"}), GPU)


@pytest.mark.parametrize("choice", ["apex", "auto"])
def test_apex_computes_what_torch_does(packages: Path, choice: str) -> None:
    install(packages, BUILT)
    apex = KernelSettings.model_validate({"layer_norm": choice, "optimizer": choice})
    assert choose_kernels(apex, GPU).names == {"layer_norm": "apex", "optimizer": "apex"}
    torch.testing.assert_close(normalised(apex, GPU), normalised(KernelSettings(), CPU))
    torch.testing.assert_close(updated(apex, GPU), updated(KernelSettings(), CPU))


def test_an_offloaded_optimizer_is_chosen_for_the_cpu(packages: Path) -> None:
    install(packages, BUILT)
    kernels = choose_kernels(KernelSettings(layer_norm="auto", optimizer="auto"), GPU, update_device=CPU)
    assert kernels.names == {"layer_norm": "apex", "optimizer": "torch"}


def test_deepspeed_has_no_layer_norm_to_train_with() -> None:
    with pytest.raises(ConfigurationError, match="inference alone"):
        choose_kernels(KernelSettings(layer_norm="deepspeed"), CPU)


def test_deepspeed_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"compiles its cpu_adam .*g\+\+ and ninja is not there"):
        choose_kernels(KernelSettings(optimizer="deepspeed"), CPU)


def test_the_lock_of_a_killed_compile_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    long_ago = time.time() - STALE_SECONDS - 60
    os.utime(lock, (long_ago, long_ago))
    with pytest.raises(ConfigurationError, match=rf"killed and left {lock}.*delete it"):
        choose_kernels(KernelSettings(optimizer="deepspeed"), CPU)


def test_a_compile_that_goes_on_is_waited_for_with_a_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    folder = tmp_path / "cpu_adam"
    folder.mkdir()
    lock = folder / "lock"
    lock.touch()
    long_ago = time.time() - STALE_SECONDS - 60
    os.utime(lock, (long_ago, long_ago))
    (folder / "cpu_adam.o").touch()  # something was written just now
    assert choose_kernels(KernelSettings(optimizer="deepspeed"), CPU).optimizer_name == "deepspeed"
    assert f"delete {lock}" in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_deepspeeds_optimizer_updates_as_torchs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compiles it, without optimisation: half a minute instead of more than one."""
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\nexec {shutil.which("g++")} "$@" -O0 -g0\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    torch.testing.assert_close(
        updated(KernelSettings(optimizer="deepspeed"), CPU), updated(KernelSettings(), CPU), rtol=1e-6, atol=1e-6
    )
