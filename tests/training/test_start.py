"""What a start of a run costs: torch's compiler is not loaded by those that do not use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from megadape.adamw import AdamW

RATE, BETAS, EPS = 1e-2, (0.9, 0.95), 1e-8
ROOT = Path(__file__).parents[2]

TRAIN = """
import sys

sys.argv[0] = "megadape"
from megadape.cli import app

app(standalone_mode=False)
print("loaded:", sorted({name.partition(".")[0] for name in sys.modules} & {"sympy", "triton"}), end=" ")
print("torch._dynamo" in sys.modules)
"""


def test_a_run_starts_without_torchs_compiler(tmp_path: Path, corpus: Path) -> None:
    """Two seconds of every rank's start; evaluation builds its model by the same means."""
    tiny = ("model.num_layers=1", "model.hidden_size=16", "model.num_heads=2", "training.sequence_length=16")
    batch = ("training.steps=2", "training.global_batch_size=2", "training.micro_batch_size=1", "checkpoint.keep=1")
    settings = (*tiny, *batch, f"data.prefix={corpus}", f"run_dir={tmp_path / 'run'}")
    (tmp_path / "none.yaml").write_text("{}\n")
    options = [word for setting in settings for word in ("--set", setting)]
    train = ["train", str(tmp_path / "none.yaml"), str(ROOT / "configs/positions/dape_kerple.yaml"), *options]
    evaluate = ["evaluate", str(tmp_path / "run"), "--lengths", "16", "--sequences", "2", "--split", "train"]
    for words in (train, evaluate):
        done = subprocess.run([sys.executable, "-c", TRAIN, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("loaded: [] False\n"), done.stdout[-300:]
    assert (tmp_path / "run/evaluation").exists()


def test_our_adamw_is_torchs_bit_for_bit() -> None:
    """Also with a rate that changes, groups of different decay, a missing gradient, and a state that was saved."""
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(5, 7, generator=generator), torch.randn(11, generator=generator), torch.randn(3)]
    ours, theirs = ([torch.nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))

    def groups(members: list[torch.nn.Parameter]) -> list[dict[str, object]]:
        return [{"params": members[:1], "weight_decay": 0.1}, {"params": members[1:], "weight_decay": 0.0}]

    options = {"lr": RATE, "betas": BETAS, "eps": EPS, "fused": True}
    own = AdamW(groups(ours), **options)
    other = torch.optim.AdamW(groups(theirs), **options)
    for step in range(6):
        for mine, its in zip(ours[:2], theirs[:2], strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            its.grad = mine.grad.clone()
        for optimizer in (own, other):
            for group in optimizer.param_groups:
                group["lr"] = RATE / (step + 1)
            optimizer.step()
            optimizer.zero_grad()
        if step == 3:
            again = AdamW(groups(ours), **options)
            again.load_state_dict(own.state_dict())
            own = again
    for mine, its in zip(ours, theirs, strict=True):
        assert torch.equal(mine, its)
        assert mine.grad is None
    assert not torch.equal(ours[0], start[0])
    assert torch.equal(ours[2], start[2])
