"""Lists of nodes, read as scontrol reads them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slurm_cluster import Cluster

from megadape.errors import SlurmError
from megadape.slurm.hosts import expand_hosts


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("gpu-a[001-003,007],b[1-2]", "gpu-a001 gpu-a002 gpu-a003 gpu-a007 b1 b2"),
        ("r[1-2]n[09-10]", "r1n09 r1n10 r2n09 r2n10"),
        ("login.site-1", "login.site-1"),
        ("b,a,b", "b a b"),
    ],
)
def test_ranges_are_written_out(text: str, hosts: str) -> None:
    assert " ".join(expand_hosts(text)) == hosts


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "a[",
        "a[]",
        "a]",
        "a[1-]",
        "a[x]",
        "a[3-1]",
        "a b",
        "a\nb",
        "a;b",
        "a[1-2]x",
        "a[0-99999999]",
        "$a",
        "-a",
    ],
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(SlurmError):
        expand_hosts(text)


numbers = st.integers(0, 120).flatmap(lambda n: st.integers(0, 4).map(lambda width: f"{n:0{width}d}"))
ranges = numbers | st.tuples(numbers, numbers).map("-".join)
brackets = st.lists(ranges, min_size=1, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
names = st.from_regex(r"[a-z][a-z0-9.-]{0,3}", fullmatch=True)
items = names | st.lists(st.tuples(names, brackets).map("".join), min_size=1, max_size=2).map("".join)
lists = st.lists(items, min_size=1, max_size=3).map(",".join)
broken = st.text("ab01[],-", max_size=12)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(lists | broken, min_size=25, max_size=25))
def test_any_list_means_what_scontrol_takes_it_for(cluster: Cluster, texts: list[str]) -> None:
    script = 'for list in "$@"; do scontrol show hostnames "$list" 2>/dev/null | tr "\\n" " "; echo; done'
    said = cluster.login("bash", "-c", script, "each", *texts).stdout.split("\n")
    for text, line in zip(texts, said, strict=False):
        try:
            own = list(expand_hosts(text))
        except SlurmError:
            # stricter than scontrol, which takes an empty bracket or a stray comma for nothing at all
            continue
        assert own == line.split(), text


def test_without_slurm_the_command_prints_them(capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "megadape", "slurm", "hosts", "n[08-10]"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["n08", "n09", "n10"]
