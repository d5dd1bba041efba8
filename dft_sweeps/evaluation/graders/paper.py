"""The published harness's verdict on a gold and a prediction, as far as text and numbers go; formulas go to
`paper_symbols`.

Its quirks are kept: a number also equals its hundredth and its hundredfold, numbers are compared to 1 part in 10,000,
commas vanish from numbers (so 6984 is "69,84"), a box that never closes runs to the end of the text.
"""

from __future__ import annotations

import math
import re

from dft_sweeps.evaluation.graders.extract import paper_choice
from dft_sweeps.evaluation.graders.paper_symbols import equal as symbolically_equal
from dft_sweeps.evaluation.graders.paper_text import normal

_CHOICES = "ABCDE"
_BRACKETED = re.compile(r"(\(|\[).+(\)|\])")
_MATRIX_START = (r"\begin{pmatrix}", r"\begin{bmatrix}")
_MATRIX_END = (r"\end{pmatrix}", r"\end{bmatrix}")
_LONGEST = 20_000
"""Longest answer that is normalised, in characters."""


def grade(gold: str, keeps_units: bool, answer: str, choice: str) -> tuple[bool | None, str | None, str]:
    """(correct, prediction after normalisation, reason) of an extracted answer.

    `gold` is normalised already. `choice` is the letter in the whole completion, for golds that are one.
    `correct` is None where the answer is too long or sympy's stack ran out.
    """
    if len(answer) > _LONGEST:
        return None, None, f"the answer has {len(answer)} characters, more than {_LONGEST}"
    prediction = normal(normal(answer, keeps_units), keeps_units)
    if gold and gold in _CHOICES and prediction not in set(_CHOICES) and len(gold) == 1:
        prediction = choice
    elif all(letter in _CHOICES for letter in gold) and not all(letter in _CHOICES for letter in prediction):
        prediction = "".join(letter for letter in prediction if letter in _CHOICES)
    try:
        correct = equal(prediction, gold)
    except RecursionError:
        return None, prediction, "nested too deeply"
    return correct, prediction, "equal" if correct else "not equal"


def equal(prediction: str, gold: str) -> bool:
    """The harness's `math_equal`. Raises RecursionError or MemoryError, or hangs, where sympy does."""
    if prediction.strip().lower() == gold.strip().lower():
        return True
    if len(gold) == 1 and gold in _CHOICES and paper_choice(prediction) == gold:
        return True
    first, second = _number(prediction), _number(gold)
    if first is not None and second is not None:
        return any(math.isclose(value, first, rel_tol=1e-4) for value in (second / 100, second, second * 100))
    if not prediction:
        return False
    prediction, gold = prediction.strip(), gold.strip()
    if "pmatrix" in prediction and "pmatrix" not in gold:
        gold = _as_matrix(gold)
    return (
        _equal_without_brackets(prediction, gold)
        or _equal_parts(prediction, gold)
        or _equal_matrices(prediction, gold)
        or _equal_sides(prediction, gold)
        or symbolically_equal(prediction, gold)
    )


def _number(text: str) -> float | None:
    text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        pass
    if not text.endswith("%"):
        return None
    try:
        return float(text[:-1].removesuffix("\\")) / 100
    except ValueError:
        return None


def _as_matrix(gold: str) -> str:
    columns = (found.strip("{}").replace(",", "\\") for found in re.findall(r"\{.*,.*\}", gold))
    return ", ".join(rf"\begin{{pmatrix}}{column}\end{{pmatrix}}" for column in columns)


def _equal_without_brackets(prediction: str, gold: str) -> bool:
    square = prediction[:1] == "[" and prediction[-1:] == "]" and gold[:1] != "("
    if square or (prediction[:1] == "(" and prediction[-1:] == ")" and gold[:1] != "["):
        prediction, gold = prediction.strip("[]()"), gold.strip("[]()")
    table = str.maketrans("", "", "{}()")
    return prediction.translate(table).lower() == gold.translate(table).lower()


def _equal_parts(prediction: str, gold: str) -> bool:
    if not (_BRACKETED.match(prediction) and _BRACKETED.match(gold)):
        return False
    predictions, golds = prediction[1:-1].split(","), gold[1:-1].split(",")
    return len(predictions) == len(golds) and all(map(equal, predictions, golds))


def _equal_matrices(prediction: str, gold: str) -> bool:
    if not all(text.startswith(_MATRIX_START) and text.endswith(_MATRIX_END) for text in (prediction, gold)):
        return False
    rows = [
        [line.strip() for line in text[len(_MATRIX_START[0]) : -len(_MATRIX_END[0])].split("\\\\") if line.strip()]
        for text in (prediction, gold)
    ]
    if len(rows[0]) != len(rows[1]):
        return False
    cells = [(first.split("&"), second.split("&")) for first, second in zip(*rows, strict=True)]
    return all(len(first) == len(second) and all(map(equal, first, second)) for first, second in cells)


def _equal_sides(prediction: str, gold: str) -> bool:
    """Two equations by their differences of sides; an equation against a value by its right side."""
    counts = prediction.count("="), gold.count("=")
    if counts == (1, 1):
        first, second = (
            f"{left.strip()} - ({right.strip()})" for left, right in (t.split("=") for t in (prediction, gold))
        )
        return symbolically_equal(first, second) or symbolically_equal(f"-({first})", second)
    if counts == (1, 0) and len(prediction.split("=")[0].strip()) <= 2:
        return equal(prediction.split("=")[1], gold)
    if counts == (0, 1) and len(gold.split("=")[0].strip()) <= 2:
        return equal(prediction, gold.split("=")[1])
    return False
