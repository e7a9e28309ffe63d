"""From prompts to texts: prompts are read as places become free, and all open texts get a token at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from megadape.data import Tokenizer
from megadape.errors import DataError
from megadape.generation.cache import Cache
from megadape.generation.reading import Reader
from megadape.generation.sampling import choose_tokens
from megadape.generation.settings import GenerationSettings
from megadape.generation.writing import Generation, Prompt, Writing, seen_tokens
from megadape.model import GPT


@dataclass(frozen=True)
class News:
    """A token was added to a text."""

    prompt: int
    sample: int

    text: str
    """That is certain now, to be put behind what was told before; may be empty."""

    ended: bool

    whole: Generation | None = None
    """All of the text, where it has ended."""


Listener = Callable[[News], None]


def generate(
    model: GPT,
    prompts: Sequence[str | Sequence[int]],
    settings: GenerationSettings,
    *,
    tokenizer: Tokenizer | None = None,
    end: int | None = None,
    first: int = 0,
    listener: Listener | None = None,
) -> list[Generation]:
    """Write texts that begin with some prompts.

    Each is what it would be alone: texts share no random numbers and are not padded.

    Args:
        model: in evaluation mode; all ranks of a tensor-parallel one call this alike and get the same.
        prompts: texts, or ids. An empty one stands for the beginning of a document: for the token that ends one.
        settings: what is drawn, and when a text ends.
        tokenizer: needed for prompts and stop strings that are texts; no tokens but its own are drawn.
        end: the token that ends a document; default the tokenizer's.
        first: number of the first prompt, which decides its random numbers.
        listener: told of every token, also where it adds no text.

    Returns:
        All samples of the first prompt, then those of the second, and so on.

    Raises:
        DataError: a prompt has a token that the model does not know, or is empty where no token ends documents; or
            texts are given without a tokenizer.
        EvaluationError: the model gives NaN.
    """
    end = tokenizer.eod if end is None and tokenizer is not None else end
    if settings.stop and tokenizer is None:
        raise DataError("stop strings need a tokenizer: give one")
    read = [encode_prompt(number, prompt, model, tokenizer, end) for number, prompt in enumerate(prompts, first)]
    made = [
        Writing(prompt, sample, settings, tokenizer, end) for prompt, sample in product(read, range(settings.samples))
    ]
    _write(Reader(model, settings.read_as), made, settings, tokenizer, listener or (lambda _: None))
    return [writing.result() for writing in made]


def encode_prompt(
    number: int, prompt: str | Sequence[int], model: GPT, tokenizer: Tokenizer | None, end: int | None
) -> Prompt:
    """A prompt in ids that the model knows; errors as in ``generate``."""
    if isinstance(prompt, str) and tokenizer is None:
        raise DataError("prompts that are texts need a tokenizer: give one, or give ids")
    tokens = tokenizer.encode(prompt).tolist() if isinstance(prompt, str) and tokenizer is not None else [*prompt]
    if not tokens:
        if end is None:
            raise DataError(f"prompt {number + 1} is empty, and no token ends documents: give it a text to begin with")
        tokens = [end]
    vocabulary = model.settings.vocab_size or 0
    unknown = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if unknown is not None:
        raise DataError(
            f"prompt {number + 1} has token {unknown}, but the model knows {vocabulary}: use the tokenizer that its "
            "data were made with"
        )
    return Prompt(number, tuple(tokens), whole=isinstance(prompt, str))


@dataclass
class _Row:
    """Open texts of one length."""

    cache: Cache
    writings: list[Writing]

    def drop_ended(self) -> bool:
        """Forget texts that ended; whether any is left."""
        left = [place for place, writing in enumerate(self.writings) if writing.reason is None]
        if left and len(left) < len(self.writings):
            assert self.cache.tokens is not None
            self.cache.select(torch.tensor(left, device=self.cache.tokens.device))
        self.writings = [self.writings[place] for place in left]
        return bool(left)


def _write(
    reader: Reader, made: Sequence[Writing], settings: GenerationSettings, tokenizer: Tokenizer | None, tell: Listener
) -> None:
    """Write all texts to their ends."""
    waiting, rows = deque(made), list[_Row]()
    while waiting or rows:
        logits = []
        if rows:
            last = [torch.tensor([w.tokens[-1] for w in row.writings], device=reader.device) for row in rows]
            logits.append(reader.read([(row.cache, ids) for row, ids in zip(rows, last, strict=True)]))
        free = settings.batch_size - sum(len(row.writings) for row in rows)
        admitted = [waiting.popleft() for _ in range(min(free, len(waiting)))]
        for row, first in _open_rows(reader, admitted):
            rows.append(row)
            logits.append(first)
        writings = [writing for row in rows for writing in row.writings]
        for writing, token in zip(writings, _choose(reader, torch.cat(logits), writings, tokenizer), strict=True):
            text = writing.take(token)
            whole = None if writing.reason is None else writing.result()
            tell(News(writing.prompt.number, writing.sample, text, whole is not None, whole))
        rows = [row for row in rows if row.drop_ended()]


def _open_rows(reader: Reader, admitted: Sequence[Writing]) -> list[tuple[_Row, Tensor]]:
    """Read prompts, those of one length together and each once: open texts, and logits [writings, vocabulary]."""
    opened = []
    for length in dict.fromkeys(len(writing.prompt.tokens) for writing in admitted):
        writings = [writing for writing in admitted if len(writing.prompt.tokens) == length]
        numbers = list(dict.fromkeys(writing.prompt.number for writing in writings))
        tokens = {writing.prompt.number: writing.prompt.tokens for writing in writings}
        cache, logits = reader.open(torch.tensor([tokens[number] for number in numbers], device=reader.device))
        places = torch.tensor([numbers.index(writing.prompt.number) for writing in writings], device=reader.device)
        if len(writings) > len(numbers):
            cache.select(places)
        opened.append((_Row(cache, writings), logits[places]))
    return opened


def _choose(reader: Reader, logits: Tensor, writings: Sequence[Writing], tokenizer: Tokenizer | None) -> list[int]:
    """The next token of every text, the same on all ranks."""
    settings = writings[0].settings
    if tokenizer is not None:
        logits[:, tokenizer.vocab_size :] = float("-inf")  # a vocabulary is rounded up
    draws = torch.stack([writing.draw() for writing in writings]).to(logits.device)
    penalises = settings.repetition_penalty != 1
    seen = seen_tokens(writings, logits.shape[1], logits.device) if penalises else None
    chosen: list[int] = reader.model.sharding.tp.broadcast(
        choose_tokens(logits, settings, seen, draws).contiguous()
    ).tolist()
    return chosen
