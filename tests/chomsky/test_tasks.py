"""The 15 tasks: every generator against its oracle, the oracles against other ways to the same answer."""

from __future__ import annotations

import ast
from itertools import product
from math import isqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megadape.chomsky import TASKS, Sample, TaskOptions, build_task
from megadape.chomsky.oracles import Parser, solve
from megadape.errors import ConfigurationError

SAMPLES = 8


def draw(task: str, length: int, seed: int, batch: int = SAMPLES, options: TaskOptions | None = None) -> Sample:
    return build_task(task, options).sample(batch, length, torch.Generator().manual_seed(seed))


def scored(sample: Sample, index: int) -> list[int]:
    targets = sample.targets[index]
    return (targets if sample.mask is None else targets[sample.mask[index]]).tolist()


def check_against_oracle(task: str, length: int, seed: int, options: TaskOptions | None = None) -> None:
    made = build_task(task)
    sample = draw(task, length, seed, options=options)
    inputs, outputs = made.input_length(length), made.output_length(made.input_length(length))
    assert sample.inputs.shape == (SAMPLES, inputs)
    assert sample.targets.shape == (SAMPLES, outputs)
    assert made.total_length(length) == inputs + outputs
    assert 0 <= int(sample.inputs.min()) <= int(sample.inputs.max()) < len(made.alphabet)
    assert 0 <= int(sample.targets.min()) <= int(sample.targets.max()) < len(made.answers)
    if sample.mask is not None:  # scored from the start, without gaps
        assert bool((sample.mask.long().diff(dim=1) <= 0).all())
        assert bool(sample.mask[:, 0].all())
    for index in range(SAMPLES):
        assert scored(sample, index) == solve(task, sample.inputs[index].tolist(), options)


@pytest.mark.parametrize("length", range(1, 13))
@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_answers_are_those_of_the_definition(task: str, length: int, seed: int) -> None:
    check_against_oracle(task, length, seed)


@pytest.mark.parametrize("length", [40, 41, 500])
@pytest.mark.parametrize("task", TASKS)
def test_answers_at_the_lengths_of_the_experiment(task: str, length: int) -> None:
    check_against_oracle(task, length, seed=length)


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_odds_first_in_the_benchmarks_order(length: int, seed: int) -> None:
    options = TaskOptions(odds_first="benchmark")
    check_against_oracle("odds_first", length, seed, options)
    sample = draw("odds_first", length, seed, options=options)
    assert torch.equal(sample.targets[:, : length // 2], sample.inputs[:, 1::2])


@pytest.mark.parametrize(
    ("task", "symbols", "answers", "outputs"),
    [
        ("even_pairs", 2, 2, 1),
        ("modular_arithmetic", 9, 5, 1),
        ("parity_check", 2, 2, 1),
        ("cycle_navigation", 3, 5, 1),
        ("stack_manipulation", 5, 3, 22),
        ("reverse_string", 2, 2, 21),
        ("modular_arithmetic_brackets", 11, 5, 1),
        ("solve_equation", 11, 5, 1),
        ("duplicate_string", 2, 2, 42),
        ("missing_duplicate_string", 4, 2, 1),
        ("odds_first", 2, 2, 21),
        ("binary_addition", 3, 3, 22),
        ("binary_multiplication", 3, 3, 21),
        ("compute_sqrt", 2, 2, 11),
        ("bucket_sort", 5, 5, 21),
    ],
)
def test_sizes_of_the_published_table(task: str, symbols: int, answers: int, outputs: int) -> None:
    made = build_task(task)
    assert (len(made.alphabet), len(made.answers), made.output_length(21)) == (symbols, answers, outputs)


@pytest.mark.parametrize(
    ("task", "asked", "taken"),
    [
        ("modular_arithmetic", 2, 1),
        ("modular_arithmetic", 40, 39),
        ("modular_arithmetic", 41, 41),
        ("solve_equation", 1, 3),
        ("missing_duplicate_string", 1, 2),
        ("missing_duplicate_string", 7, 7),
        ("binary_addition", 2, 3),
        ("binary_multiplication", 1, 3),
        ("stack_manipulation", 1, 1),
        ("modular_arithmetic_brackets", 2, 2),
    ],
)
def test_a_length_that_a_task_lacks_is_taken_as_the_nearest(task: str, asked: int, taken: int) -> None:
    assert build_task(task).input_length(asked) == taken
    assert draw(task, asked, seed=0).inputs.shape[1] == taken


@pytest.mark.parametrize("task", TASKS)
def test_the_generator_alone_decides_what_is_drawn(task: str) -> None:
    first, again, other = (draw(task, 30, seed) for seed in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, other.inputs)


@pytest.mark.parametrize("task", TASKS)
def test_every_symbol_occurs_and_answers_are_as_common_as_chance_says(task: str) -> None:
    made, sample = build_task(task), draw(task, 31, seed=5, batch=4000)
    unused = {"modular_arithmetic", "modular_arithmetic_brackets"}  # their alphabets end with a symbol never drawn
    kinds = len(made.alphabet) - (task in unused)
    assert sample.inputs.unique().tolist() == list(range(kinds))
    targets = sample.targets if sample.mask is None else sample.targets[sample.mask]
    counts = torch.bincount(targets.flatten(), minlength=len(made.answers)).double()
    carrying = counts[: made.choices] / counts[: made.choices].sum()
    # products make 0 commoner than other digits, and highest bits 1
    slack = 0.12 if task in {"modular_arithmetic_brackets", "compute_sqrt", "binary_multiplication"} else 0.05
    assert float((carrying - made.chance).abs().max()) < slack


def test_what_is_drawn_reaches_everywhere() -> None:
    places = (draw("binary_addition", 9, 3, batch=500).inputs == 2).nonzero()[:, 1]
    assert places.unique().tolist() == list(range(1, 8))  # both numbers have a digit at least
    masked = (draw("missing_duplicate_string", 9, 3, batch=500).inputs == 2).nonzero()[:, 1]
    assert masked.unique().tolist() == list(range(8))
    stacks = (draw("stack_manipulation", 9, 3, batch=500).inputs < 2).sum(1)
    assert stacks.unique().tolist() == list(range(1, 9))
    unknown = (draw("solve_equation", 9, 3, batch=500).inputs == 9).sum(1)
    assert unknown.unique().tolist() == [1]


def value_of(node: ast.expr) -> int:
    """Python's own grammar, without evaluating anything."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return node.value
    if isinstance(node, ast.UnaryOp):
        return -value_of(node.operand)
    assert isinstance(node, ast.BinOp)
    left, right = value_of(node.left), value_of(node.right)
    return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[type(node.op)]


@pytest.mark.parametrize("task", ["modular_arithmetic", "modular_arithmetic_brackets"])
@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_the_parser_reads_expressions_as_python_does(task: str, length: int, seed: int) -> None:
    for ids in draw(task, length, seed, batch=2).inputs.tolist():
        text = [build_task(task).alphabet[number] for number in ids]
        assert Parser(text).value() == value_of(ast.parse("".join(text), mode="eval").body)


@pytest.mark.parametrize("length", range(3, 9))
def test_the_oracles_of_binary_numbers_on_every_string(length: int) -> None:
    for bits in product((0, 1), repeat=length):
        assert read(solve("compute_sqrt", bits)[::-1]) == isqrt(read(bits[::-1]))
        for cut in range(1, length - 1):
            string = (*bits[:cut], 2, *bits[cut + 1 :])
            first, second = read(bits[:cut]), read(bits[cut + 1 :])
            for task, result in (("binary_addition", first + second), ("binary_multiplication", first * second)):
                *answer, end = solve(task, string)
                assert (read(answer), end) == (result, 2)
                assert len(answer) == max(1, result.bit_length())


def read(bits: tuple[int, ...] | list[int] | Tensor) -> int:
    """Lowest bit first."""
    return sum(int(bit) << place for place, bit in enumerate(bits))


def test_a_stack_step_by_step() -> None:
    # 1 0 | POP POP POP PUSH1 PUSH0 PUSH1 POP: the third POP finds nothing
    assert solve("stack_manipulation", [1, 0, 2, 2, 2, 4, 3, 4, 2]) == [0, 1, 2]
    assert solve("stack_manipulation", [1, 2, 2]) == [2]


def test_an_unknown_task_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match="unknown task 'parity'; known: even_pairs, "):
        build_task("parity")
