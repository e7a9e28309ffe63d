"""The triton backend without a GPU: what it refuses, what its kernels take of a processor, and how work is cut.

That it computes what the reference computes is tested in triton_interpreted.py, in a process of its own: Triton decides
when it is imported whether it interprets.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megadape.attention import DapeMixer, choose, dape_attention, make_request
from megadape.attention.gpu import Triton
from megadape.attention.gpu.backend import interpreted
from megadape.attention.gpu.chunks import Budget, cut
from megadape.errors import AttentionError
from megadape.positions import build


@pytest.mark.slow
def test_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    cases = Path(__file__).with_name("triton_interpreted.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(cases), "-q", "-p", "no:cacheprovider"],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(interpreted(), reason="Triton interprets here and compiles nothing")
@pytest.mark.parametrize(("heads", "hidden", "head_dim"), [(12, 32, 64), (16, 32, 64)])
def test_no_kernel_spills_on_a_hopper(heads: int, hidden: int, head_dim: int) -> None:
    pytest.importorskip("triton")
    from megadape.attention.gpu.resources import measure

    usages = list(measure(heads, hidden, head_dim))
    assert len(usages) == 14
    for usage in usages:
        # choose_tiles (scene.py) says why
        assert usage.stack == 0 or usage.kernel == "mix of FIRE, backward", usage
        assert 0 < usage.registers <= 255, usage
        assert usage.shared <= 227 * 1024, usage


def test_importing_megadape_imports_no_triton() -> None:
    code = "import sys, megadape.attention; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@given(
    sizes=st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(0, 60), st.integers(0, 60)),
    causal=st.booleans(),
    budget=st.builds(Budget, st.integers(1, 20_000), st.integers(1, 20)),
)
def test_chunks_hold_every_row_once_and_fit(sizes: tuple[int, int, int, int], causal: bool, budget: Budget) -> None:
    batch, heads, queries, keys = sizes
    lead, seen = keys - queries, torch.zeros(batch, queries, dtype=torch.int)
    for chunk in cut(batch, heads, queries, keys, causal=causal, budget=budget):
        rows = slice(chunk.first_row, chunk.first_row + chunk.rows)
        seen[chunk.first_sequence : chunk.first_sequence + chunk.sequences, rows] += 1
        assert chunk.rows > 0 < chunk.sequences
        assert chunk.keys <= chunk.width < chunk.keys + 16
        assert chunk.keys >= (min(keys, lead + rows.stop) if causal else keys)
        fewest = chunk.rows <= budget.rows and chunk.sequences == 1
        assert chunk.pairs * heads <= budget.numbers or fewest
    blind = max(0, -lead) if causal else 0
    assert (seen[:, blind:] == (keys > 0)).all()
    assert not seen[:, :blind].any()


@pytest.mark.parametrize("length", [512, 8192, 131072])
def test_a_chunk_grows_with_the_length_and_not_with_its_square(length: int) -> None:
    chunks = list(cut(1, 12, length, length, causal=True, budget=Budget()))
    assert max(chunk.pairs for chunk in chunks) * 12 <= max(32 << 20, 128 * 12 * length)
    assert sum(chunk.rows for chunk in chunks) == length


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dropout": 0.5}, "drops no attention weights"),
        ({"bias": torch.zeros(2, 5, 5)}, "biases of the distance alone"),
        ({"query_positions": torch.tensor([0, 2, 4, 6, 8])}, "consecutive positions"),
        ({"mixer": DapeMixer(2, 65, with_bias=False)}, "up to 64 hidden units"),
        ({"mixer": DapeMixer(2, with_bias=False).double()}, "mixers in float32"),
        ({"mixer": DapeMixer(33, with_bias=False), "q": (1, 33, 5, 32)}, "up to 32 heads, not 33"),
        ({"q": (1, 2, 5, 144)}, "head dimensions up to 128"),
        ({"dtype": torch.float64}, "not in float64"),
    ],
)
def test_what_it_cannot_do_is_said(changes: dict, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # it would compute on a CPU then
    q = torch.zeros(changes.pop("q", (1, 2, 5, 32)), dtype=changes.pop("dtype", torch.float32))
    with pytest.raises(AttentionError, match=f"'triton' cannot be used: it .*{said}"):
        dape_attention(q, q, q, backend="triton", **changes)


def test_on_a_cpu_it_says_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    q = torch.zeros(1, 2, 5, 32)
    request = make_request(q, q, q, bias=build("alibi", 2))
    assert "runs on NVIDIA GPUs, not on cpu" in str(Triton().refuses(request))
    assert choose(request).name != "triton"


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megadape.attention.gpu.backend._installed", lambda: False)
    q = torch.zeros(1, 2, 5, 32)
    assert "Triton, which is not installed" in str(Triton().refuses(make_request(q, q, q)))
