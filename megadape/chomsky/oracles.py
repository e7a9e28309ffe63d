"""What each task's answer is, straight from its definition: plain Python on lists of symbols, one string at a time.

The generators compute their answers in other ways, for a batch at once; the tests hold them against these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from megadape.chomsky.registry import TASKS
from megadape.chomsky.task import TaskOptions

Symbols = list[str]
Oracle = Callable[[Symbols], Symbols]


def solve(task: str, inputs: Sequence[int], options: TaskOptions | None = None) -> list[int]:
    """The answer to one string, ids -> ids: all that is scored, the end token included, without padding."""
    alphabet, answers = TASKS[task].alphabet, TASKS[task].answers
    oracle = ORACLES[task]
    if task == "odds_first" and options is not None:
        oracle = partial(odds_first, order=options.odds_first)
    return [answers.index(symbol) for symbol in oracle([alphabet[number] for number in inputs])]


def even_pairs(symbols: Symbols) -> Symbols:
    """Count 01 and 10."""
    pairs = sum(pair in (("0", "1"), ("1", "0")) for pair in pairwise(symbols))
    return [str(pairs % 2)]


def parity_check(symbols: Symbols) -> Symbols:
    """Count ones."""
    return [str(symbols.count("1") % 2)]


def cycle_navigation(symbols: Symbols) -> Symbols:
    """Walk."""
    state = 0
    for step in symbols:
        state += int(step)
        state = {5: 0, -1: 4}.get(state, state)
    return [str(state)]


def expression(symbols: Symbols) -> Symbols:
    """Evaluate over the integers, and take the remainder at the end."""
    return [str(Parser(symbols).value() % 5)]


def solve_equation(symbols: Symbols) -> Symbols:
    """Try every digit; exactly one must do."""
    assert symbols[-2] == "="
    found = [
        digit
        for digit in "01234"
        if expression([digit if symbol == "x" else symbol for symbol in symbols[:-2]]) == symbols[-1:]
    ]
    assert len(found) == 1, f"{' '.join(symbols)} has {len(found)} solutions"
    return found


def stack_manipulation(symbols: Symbols) -> Symbols:
    """Do what is said."""
    stack: Symbols = []
    for symbol in symbols:
        if symbol == "POP":
            del stack[-1:]
        else:
            stack.append(symbol.removeprefix("PUSH"))
    return [*stack[::-1], "end"]


def reverse_string(symbols: Symbols) -> Symbols:
    """Read backwards."""
    return list(reversed(symbols))


def duplicate_string(symbols: Symbols) -> Symbols:
    """Read twice."""
    return symbols + symbols


def missing_duplicate_string(symbols: Symbols) -> Symbols:
    """Try both bits; exactly one makes the halves equal."""
    string = [symbol for symbol in symbols if symbol != "_"]
    half = len(string) // 2
    found = []
    for bit in "01":
        filled = [bit if symbol == "?" else symbol for symbol in string]
        if filled[:half] == filled[half:]:
            found.append(bit)
    assert len(found) == 1, f"{' '.join(symbols)} has {len(found)} solutions"
    return found


def odds_first(symbols: Symbols, order: str = "definition") -> Symbols:
    """Positions are counted from 1."""
    odd = [symbol for position, symbol in enumerate(symbols, start=1) if position % 2 == 1]
    even = [symbol for position, symbol in enumerate(symbols, start=1) if position % 2 == 0]
    return odd + even if order == "definition" else even + odd


def binary_addition(symbols: Symbols) -> Symbols:
    """Add bit by bit, as on paper."""
    first, second = operands(symbols, "+")
    result, carry = [], 0
    for place in range(max(len(first), len(second)) + 1):
        carry += bit_at(first, place) + bit_at(second, place)
        result.append(carry % 2)
        carry //= 2
    return written(result)


def binary_multiplication(symbols: Symbols) -> Symbols:
    """Multiply bit by bit, as on paper."""
    first, second = operands(symbols, "*")
    columns = [0] * (len(first) + len(second) + 1)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            columns[i + j] += a * b
    for place in range(len(columns) - 1):
        columns[place + 1] += columns[place] // 2
        columns[place] %= 2
    return written(columns)


def compute_sqrt(symbols: Symbols) -> Symbols:
    """Count up, a bit at a time from the highest, to the largest number whose square is not larger."""
    number = 0
    for symbol in symbols:
        number = 2 * number + int(symbol)
    width, root = (len(symbols) + 1) // 2, 0
    for place in reversed(range(width)):
        if (root + 2**place) ** 2 <= number:
            root += 2**place
    return [str(root // 2**place % 2) for place in reversed(range(width))]


def bucket_sort(symbols: Symbols) -> Symbols:
    """Count each kind."""
    return [kind for kind in "01234" for _ in range(symbols.count(kind))]


class Parser:
    """Recursive descent over ``sum = product ((+|-) product)*``, ``product = factor (* factor)*`` and
    ``factor = digit | - factor | ( sum )``."""

    def __init__(self, symbols: Symbols) -> None:
        self.rest = list(symbols)

    def value(self) -> int:
        """Of the whole text."""
        value = self.sum()
        assert not self.rest, "something follows the expression"
        return value

    def sum(self) -> int:
        """Left to right."""
        value = self.product()
        while self.rest[:1] in (["+"], ["-"]):
            sign = 1 if self.rest.pop(0) == "+" else -1
            value += sign * self.product()
        return value

    def product(self) -> int:
        """Binds more tightly."""
        value = self.factor()
        while self.rest[:1] == ["*"]:
            self.rest.pop(0)
            value *= self.factor()
        return value

    def factor(self) -> int:
        """A number, perhaps negative, or brackets."""
        symbol = self.rest.pop(0)
        if symbol == "-":
            return -self.factor()
        if symbol != "(":
            return int(symbol)
        value = self.sum()
        assert self.rest.pop(0) == ")"
        return value


def operands(symbols: Symbols, operator: str) -> tuple[list[int], list[int]]:
    """Bits before and after the operator, at least one each."""
    cut = symbols.index(operator)
    first, second = [int(bit) for bit in symbols[:cut]], [int(bit) for bit in symbols[cut + 1 :]]
    assert first
    assert second
    return first, second


def bit_at(bits: list[int], place: int) -> int:
    """Zero past the end."""
    return bits[place] if place < len(bits) else 0


def written(bits: list[int]) -> Symbols:
    """Without leading zeros (at the end, lowest bit first), then the end token."""
    size = max((place for place, bit in enumerate(bits) if bit), default=0) + 1
    return [*map(str, bits[:size]), "end"]


ORACLES: dict[str, Oracle] = {
    "even_pairs": even_pairs,
    "modular_arithmetic": expression,
    "parity_check": parity_check,
    "cycle_navigation": cycle_navigation,
    "stack_manipulation": stack_manipulation,
    "reverse_string": reverse_string,
    "modular_arithmetic_brackets": expression,
    "solve_equation": solve_equation,
    "duplicate_string": duplicate_string,
    "missing_duplicate_string": missing_duplicate_string,
    "odds_first": odds_first,
    "binary_addition": binary_addition,
    "binary_multiplication": binary_multiplication,
    "compute_sqrt": compute_sqrt,
    "bucket_sort": bucket_sort,
}
"""Task -> solution."""
