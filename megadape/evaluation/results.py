"""What evaluations find: plain values, written as JSON beside a run and read back by studies. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megadape.errors import EvaluationError
from megadape.evaluation.output import write_table, write_whole


@dataclass(frozen=True)
class LengthResult:
    """What was measured at one length."""

    length: int
    loss: float
    """Mean over the scored tokens, nats."""
    perplexity: float
    bits_per_byte: float
    tokens: int
    """Scored."""
    sequences: int
    seconds: float
    sequence_losses: tuple[float, ...]
    """Mean loss of each sequence, in the order of the text: what paired statistics need."""


@dataclass(frozen=True)
class Extrapolation:
    """A model's results at all lengths."""

    mode: str
    training_length: int
    results: tuple[LengthResult, ...]

    def perplexity(self) -> dict[int, float]:
        """Length -> perplexity."""
        return {result.length: result.perplexity for result in self.results}

    def bits_per_byte(self) -> dict[int, float]:
        """Length -> bits a byte of the scored text."""
        return {result.length: result.bits_per_byte for result in self.results}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Extrapolation:
        """From what ``asdict`` gave."""
        results = [
            LengthResult(**{**row, "sequence_losses": tuple(row["sequence_losses"])}) for row in content["results"]
        ]
        return cls(content["mode"], content["training_length"], tuple(results))


@dataclass(frozen=True)
class PositionLosses:
    """Mean loss of the predictions at each stretch of positions, over sequences of one length fed whole."""

    length: int
    edges: tuple[int, ...]
    """[n + 1] increasing, from 0 to length: stretch i holds the positions edges[i] .. edges[i + 1] - 1; position p is
    the prediction made after p + 1 tokens were read."""
    losses: tuple[float, ...]
    """[n], nats a token."""
    sequences: int

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PositionLosses:
        """From what ``asdict`` gave."""
        return cls(content["length"], tuple(content["edges"]), tuple(content["losses"]), content["sequences"])


@dataclass(frozen=True)
class PasskeyPlace:
    """How well a key is retrieved from one depth of texts of one length."""

    length: int
    """Tokens fed."""
    depth: float
    """Where the key stands, as a share of the text: 0 its beginning, 1 its end."""
    trials: int
    likelihood: float
    """Share of trials in which the right key is the likeliest of the candidates; chance is 1 / candidates."""
    exact: float
    """Share of trials in which greedy decoding writes the key, sign for sign."""
    key_loss: float
    """Mean loss of the key's own tokens, nats."""


@dataclass(frozen=True)
class Passkey:
    """Passkey retrieval at all lengths and depths."""

    training_length: int
    candidates: int
    """Keys that the right one is compared with, itself among them."""
    places: tuple[PasskeyPlace, ...]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Passkey:
        """From what ``asdict`` gave."""
        places = tuple(PasskeyPlace(**place) for place in content["places"])
        return cls(content["training_length"], content["candidates"], places)


def write_results(results: Extrapolation, folder: Path, name: str = "extrapolation") -> None:
    """Write NAME.json (everything) and NAME.csv (one row a length) into a folder."""
    write_whole(folder / f"{name}.json", json.dumps(asdict(results), indent=1))
    columns = ["length", "perplexity", "bits_per_byte", "loss", "tokens", "sequences", "seconds"]
    write_table(folder / f"{name}.csv", columns, [[getattr(row, name) for name in columns] for row in results.results])


def read_json(path: Path) -> dict[str, Any]:
    """The content of a results file.

    Raises:
        EvaluationError: it is missing or no JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read as results: {error}; evaluate the run again") from error
