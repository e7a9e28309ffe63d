"""Every task by its name, in the order of the paper's table.

To add one: write its class, and enter it here and its solution in ``oracles``.
"""

from __future__ import annotations

from megadape.chomsky.arithmetic import BinaryAddition, BinaryMultiplication, ComputeSqrt
from megadape.chomsky.context_free import ModularArithmeticBrackets, ReverseString, SolveEquation, StackManipulation
from megadape.chomsky.context_sensitive import BucketSort, DuplicateString, MissingDuplicateString, OddsFirst
from megadape.chomsky.regular import CycleNavigation, EvenPairs, ModularArithmetic, ParityCheck
from megadape.chomsky.task import Task, TaskOptions
from megadape.errors import ConfigurationError

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        EvenPairs,
        ModularArithmetic,
        ParityCheck,
        CycleNavigation,
        StackManipulation,
        ReverseString,
        ModularArithmeticBrackets,
        SolveEquation,
        DuplicateString,
        MissingDuplicateString,
        OddsFirst,
        BinaryAddition,
        BinaryMultiplication,
        ComputeSqrt,
        BucketSort,
    )
}
"""Name -> class."""


def build_task(name: str, options: TaskOptions | None = None) -> Task:
    """Build a task by name; ``ConfigurationError`` for a name that is unknown."""
    if name not in TASKS:
        raise ConfigurationError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name](options)
