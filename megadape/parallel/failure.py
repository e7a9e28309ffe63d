"""When one rank fails, all end, and what happened first is not buried under what followed.

Whoever waits for a rank that is gone ends, too: over gloo as soon as its process is, over NCCL, or where a rank hangs
instead of failing, after the mesh's time-out. Only the first rank knows anything worth reading. The others say one
sentence, a moment later: a launcher that ends all ranks at the first exit code then takes the right one for the cause,
and its traceback is written. A rank that hangs is left to the launcher: torchrun ends it, so does
``srun --kill-on-bad-exit=1``.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

from torch import distributed as dist

from megadape.errors import MegadapeError, RankLostError

GRACE = 2.0
"""Seconds that a rank waits before it ends because another one did."""


class Symptom(NamedTuple):
    """What torch says when another rank is gone or silent, and what is said of it."""

    pattern: re.Pattern[str]
    words: str
    """Names groups of the pattern; ``ms`` becomes ``seconds``."""


def _symptom(pattern: str, words: str) -> Symptom:
    return Symptom(re.compile(pattern, re.DOTALL | re.IGNORECASE), words)


CLOSED, SILENT = "its connection was closed", "it did not answer within {seconds:g} s"

IN_A_COLLECTIVE = (
    _symptom(r"gloo.*timed out waiting (?P<ms>\d+)\s*ms", SILENT),
    _symptom(r"gloo.*(?:connection closed|connection reset|broken pipe|pair is not connected)", CLOSED),
    _symptom(r"gloo.*time-?out", "it did not answer in time"),
    _symptom(r"NCCL.*(?:remote process exited|remote error|connection closed|communicator was aborted)", CLOSED),
    _symptom(r"(?:NCCL|watchdog).*(?:timed out|timeout)", "it did not answer in time"),
)
"""gloo and NCCL raise errors of no kind of their own: their name is looked for."""

WHILE_JOINING = (
    _symptom(r"(?P<joined>\d+)/(?P<all>\d+) clients joined", "{joined} of {all} ranks came"),
    _symptom(
        r"client socket has timed out after (?P<ms>\d+)\s*ms.*connect to \((?P<host>[^)]*)\)",
        "nobody answered at {host} within {seconds:g} s",
    ),
    _symptom(r"wait timeout after (?P<ms>\d+)\s*ms", SILENT),
    _symptom(r"failed|broken pipe|connection (?:closed|reset|refused)", CLOSED),
)
"""The store, through which ranks find one another, raises errors of its own kind."""


def explain_lost_peer(error: BaseException) -> str | None:
    """How an error shows that another rank is gone or silent; None where it shows no such thing."""
    cause: BaseException | None = error
    while cause is not None:
        # a connection that has nothing to do with ranks (an upload) raises an OSError
        if isinstance(cause, RuntimeError):
            own_kind = isinstance(cause, dist.DistError)
            for pattern, words in IN_A_COLLECTIVE + WHILE_JOINING * own_kind:
                if match := pattern.search(str(cause)):
                    values = match.groupdict()
                    return words.format(**values, seconds=int(values.get("ms", 0)) / 1000)
        cause = cause.__cause__
    return None


@contextlib.contextmanager
def ending_together(rank: int, world: int) -> Iterator[None]:
    """Around all that a rank does with others: if it fails, so do they, and each says what it knows.

    An error of this rank's own goes on, with the rank in its message (a user's mistake) or in a note below its
    traceback (anything else). No group is left open.

    Raises:
        RankLostError: this rank ends because another one is gone or silent.
    """
    try:
        yield
    except SystemExit:  # agreed on by all ranks
        if dist.is_initialized():
            dist.destroy_process_group()
        raise
    except BaseException as error:
        close_connections()
        if world == 1:
            raise
        lost = explain_lost_peer(error)
        if lost is not None:
            time.sleep(GRACE)
            raise RankLostError(
                f"rank {rank} stops: another rank is gone or silent ({lost}); look for the first error above, or for a "
                "rank that was killed or hangs"
            ) from None
        if isinstance(error, MegadapeError):
            raise type(error)(f"rank {rank}: {error}") from error
        error.add_note(f"This was rank {rank} of {world}; the others end because it did.")
        raise


def close_connections() -> None:
    """Leave all groups at once, without waiting for what they still do."""
    if dist.is_initialized():
        # a farewell (destroy_process_group) would wait, over NCCL, for collectives that will never end
        dist.distributed_c10d._abort_process_group()
