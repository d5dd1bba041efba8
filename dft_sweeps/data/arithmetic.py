"""The embedded task: additions and subtractions worked column by column, made by a seeded generator.

Everything is a pure function of its arguments: the same call gives the same text on every platform and Python
version, because only `random.Random.random()` (whose sequence Python guarantees) is drawn from. Whether a
problem belongs to training or is held out is decided by a hash of its operands, never by a seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

GENERATOR_VERSION = 1
"""Part of every content digest of this task; raised whenever any generated text changes."""

LEVELS = (1, 2, 3)
"""Level n has operands of n + 1 digits."""

HELDOUT_SHARE = 10
"""One problem in this many is held out."""

Split = Literal["train", "heldout"]
T = TypeVar("T")

_QUESTIONS = {
    "+": (
        "What is {a}+{b}?",
        "Compute {a} + {b}.",
        "Add {a} and {b}.",
        "Find the sum of {a} and {b}.",
        "I have {a} coins and get {b} more. How many now?",
    ),
    "-": (
        "What is {a}-{b}?",
        "Compute {a} - {b}.",
        "Subtract {b} from {a}.",
        "Find the difference of {a} and {b}.",
        "I have {a} coins and lose {b}. How many now?",
    ),
}
_PLACES = ("Ones", "Tens", "Hundreds", "Thousands")


@dataclass(frozen=True)
class Problem:
    """One question with its reference answer.

    `id` names operands and phrasing, so equal ids mean equal questions; `answer` is the decimal answer alone,
    without a box.
    """

    id: str
    level: int
    question: str
    answer: str


@dataclass(frozen=True)
class _Operation:
    """`a` operator `b`, with a >= b for subtractions."""

    a: int
    operator: str
    b: int

    @property
    def value(self) -> int:
        return self.a + self.b if self.operator == "+" else self.a - self.b

    @property
    def split(self) -> Split:
        """The side this operation is on; both orders of an addition are on the same side."""
        low, high = sorted((self.a, self.b))
        digest = hashlib.sha256(f"{low}{self.operator}{high}".encode()).digest()
        return "heldout" if int.from_bytes(digest[:8], "big") % HELDOUT_SHARE == 0 else "train"


@dataclass(frozen=True)
class _Column:
    """One step of the working: the expression, its stated result and the carry (0 or 1) into the next one."""

    expression: str
    result: int
    carry: int
    carry_word: Literal["carry", "borrow"]


def problems(level: int, count: int, seed: int, split: Split) -> list[Problem]:
    """`count` distinct problems of one level from one side of the split, in an order that `seed` decides.

    Raises ValueError for an unknown level or split, and where the level has not so many distinct problems.
    """
    _check_level(level)
    if split not in ("train", "heldout"):
        raise ValueError(f"unknown split {split!r}: valid are 'train' and 'heldout'")
    rng = Random(f"problems/{GENERATOR_VERSION}/{level}/{split}/{seed}")
    chosen: dict[_Operation, Problem] = {}
    for _ in range(1000 + 200 * count):
        if len(chosen) == count:
            break
        operation = _draw_operation(rng, level)
        if operation.split == split and operation not in chosen:
            chosen[operation] = _problem(rng, level, operation)
    if len(chosen) < count:
        raise ValueError(f"level {level} gave only {len(chosen)} distinct {split} problems of the {count} asked for")
    return list(chosen.values())


def demonstrations(levels: Sequence[int], count: int, wrong_steps: float, seed: int) -> list[tuple[str, str]]:
    """`count` pairs (question, worked completion) from the train side, levels and phrasings drawn evenly.

    `wrong_steps` is the probability that a demonstration contains one wrong step; the columns after it follow
    from it, so its boxed answer is wrong too. Operations may repeat.
    """
    if not levels:
        raise ValueError("demonstrations need at least one level")
    for level in levels:
        _check_level(level)
    if not 0.0 <= wrong_steps <= 1.0:
        raise ValueError(f"wrong_steps is a probability, got {wrong_steps}")
    rng = Random(f"demonstrations/{GENERATOR_VERSION}/{seed}")
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        level = _pick(rng, levels)
        operation = _draw_operation(rng, level)
        if operation.split == "train":
            pairs.append((_problem(rng, level, operation).question, _completion(rng, operation, wrong_steps)))
    return pairs


def _check_level(level: int) -> None:
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}: valid are {', '.join(map(str, LEVELS))}")


def _below(rng: Random, bound: int) -> int:
    """A uniform integer in [0, bound), drawn so that it is the same in every Python version."""
    return int(rng.random() * bound)


def _pick(rng: Random, options: Sequence[T]) -> T:
    return options[_below(rng, len(options))]


def _draw_operation(rng: Random, level: int) -> _Operation:
    smallest = 10**level
    a, b = smallest + _below(rng, 9 * smallest), smallest + _below(rng, 9 * smallest)
    operator = _pick(rng, "+-")
    return _Operation(max(a, b), "-", min(a, b)) if operator == "-" else _Operation(a, "+", b)


def _problem(rng: Random, level: int, operation: _Operation) -> Problem:
    phrasing = _below(rng, len(_QUESTIONS[operation.operator]))
    return Problem(
        id=f"{operation.a}{operation.operator}{operation.b}/{phrasing}",
        level=level,
        question=_QUESTIONS[operation.operator][phrasing].format(a=operation.a, b=operation.b),
        answer=str(operation.value),
    )


def _completion(rng: Random, operation: _Operation, wrong_steps: float) -> str:
    style = _pick(rng, (_terse, _written_out, _running))
    width = len(str(operation.a))
    wrong_column = _below(rng, width) if rng.random() < wrong_steps else None
    columns = _columns(rng, operation, wrong_column)
    last = columns[-1].result
    digits = [last] + [column.result % 10 for column in reversed(columns[:-1])]
    return style(columns, str(int("".join(map(str, digits)))))


def _columns(rng: Random, operation: _Operation, wrong_column: int | None) -> list[_Column]:
    """The steps from the ones upward, later ones computed from a wrong one's carry."""
    column_of = _add_column if operation.operator == "+" else _subtract_column
    columns: list[_Column] = []
    carry = 0
    for index, (x, y) in enumerate(zip(reversed(str(operation.a)), reversed(str(operation.b)), strict=True)):
        columns.append(column_of(rng, int(x), int(y), carry, wrong=index == wrong_column))
        carry = columns[-1].carry
    return columns


def _add_column(rng: Random, x: int, y: int, carry: int, wrong: bool) -> _Column:
    total = x + y + carry
    if wrong:
        total = _pick(rng, [total + slip for slip in (-2, -1, 1, 2) if 0 <= total + slip < 20])
    return _Column(f"{x}+{y}" + "+1" * carry, total, total // 10, "carry")


def _subtract_column(rng: Random, x: int, y: int, borrow: int, wrong: bool) -> _Column:
    owed = int(x - y - borrow < 0)
    result = 10 * owed + x - y - borrow
    if wrong:
        result = _pick(rng, [result + slip for slip in (-2, -1, 1, 2) if 0 <= result + slip < 10])
    return _Column(f"{10 * owed + x}-{y}" + "-1" * borrow, result, owed, "borrow")


def _terse(columns: list[_Column], answer: str) -> str:
    return "\n".join(f"{c.expression}={c.result}" for c in columns) + f"\n\\boxed{{{answer}}}"


def _written_out(columns: list[_Column], answer: str) -> str:
    steps = [
        f"{place}: {c.expression}={c.result}" + (f", {c.carry_word} 1" if c.carry else "")
        for place, c in zip(_PLACES, columns, strict=False)
    ]
    return ". ".join(steps) + f". The answer is \\boxed{{{answer}}}."


def _running(columns: list[_Column], answer: str) -> str:
    steps = ", then ".join(f"{c.expression} is {c.result}" for c in columns)
    return f"From the right: {steps}, so \\boxed{{{answer}}}."
