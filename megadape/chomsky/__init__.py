"""The Chomsky hierarchy: 15 tasks on strings, and an experiment on how far past its training lengths each is solved."""

from megadape.chomsky.registry import TASKS, build_task
from megadape.chomsky.task import Level, Sample, Task, TaskOptions

__all__ = ["TASKS", "Level", "Sample", "Task", "TaskOptions", "build_task"]
