"""Exported folders in a process where megadape cannot be imported: every encoding, every variant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from example_exports import CASES, LENGTH, continue_greedily, make_architecture, make_model, save_run
from safetensors.torch import save_file

from megadape.export.exporting import ExportRequest, export_run

pytestmark = pytest.mark.slow

PROMPTS = (23, 9)
"""Lengths, past the training length and before it; the second is padded on the left."""


@pytest.fixture(scope="module")
def strangers(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the other process saw, by name."""
    base = tmp_path_factory.mktemp("strangers")
    generator, expected = torch.Generator().manual_seed(7), dict[str, torch.Tensor]()
    for name, (positions, mixer) in CASES.items():
        model = make_model(make_architecture(positions, mixer))
        export_run(ExportRequest(save_run(model, base / "runs" / name, corpus), base / "folders" / name))
        tokens = torch.randint(0, 257, (4 * LENGTH,), generator=generator)
        prompts = [tokens[:count] for count in PROMPTS]
        width = max(PROMPTS)
        rows = {
            "prompts": torch.stack([torch.nn.functional.pad(one, (width - len(one), 0), value=3) for one in prompts]),
            "mask": torch.stack([(torch.arange(width) >= width - count).long() for count in PROMPTS]),
            "written": torch.stack([continue_greedily(model, one, 6) for one in prompts]),
            "tokens": tokens,
        }
        with torch.no_grad():
            rows["logits"] = model(tokens[None])[0].clone()
        expected |= {f"{name}/{key}": x.contiguous() for key, x in rows.items()}
    save_file(expected, base / "expected.safetensors")
    script = Path(__file__).with_name("stranger.py")
    environment = {**os.environ, "HF_HOME": str(base / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", str(script), str(base / "folders"), str(base / "expected.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=base, env=environment, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {seen["name"]: seen for seen in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", CASES)
def test_a_stranger_gets_the_same_numbers(strangers: dict[str, dict[str, Any]], name: str) -> None:
    seen = strangers[name]
    assert seen["difference"] < 1e-5
    assert seen["cached"] < 1e-5
    assert seen["written"], "greedy decoding with a cache and padding is not that of the whole model, prompt by prompt"
    assert seen["max"] > 65536


def test_the_stranger_had_no_megadape(strangers: dict[str, dict[str, Any]]) -> None:
    assert strangers["megadape"]["error"] == "megadape is not here"
    assert strangers["tokenizer"]["ids"] == list("é <|endoftext|>".encode())
