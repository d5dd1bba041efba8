"""Reads an answer - a number, formula, text, tuple, interval, matrix, equation, or several of them - and compares two.

Formulas go to `latex_tree` and `latex_values`. What cannot be read raises `Unreadable`; another judge decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dft_sweeps.evaluation.graders.latex_tree import TooDeep, Tree, Unreadable, parse, quantity
from dft_sweeps.evaluation.graders.latex_values import equal, names, proportional
from dft_sweeps.evaluation.graders.units import Known, clash


@dataclass(frozen=True)
class Formula:
    tree: Tree
    unit: Known = ()


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Row:
    """A tuple, point or interval, with its brackets."""

    opening: str
    closing: str
    parts: tuple[Answer, ...]


@dataclass(frozen=True)
class Several:
    """Answers in any order; a set, a union of intervals, a list."""

    kind: str
    parts: tuple[Answer, ...]


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Answer, ...], ...]


@dataclass(frozen=True)
class Equation:
    name: str | None
    """What is defined, where the left side is a name or a function of names."""
    left: Tree
    right: Answer


Answer = Formula | Words | Row | Several | Matrix | Equation

_UNICODE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "π": r"\pi ",
        "√": r"\sqrt ",
        "°": r"^\circ ",
        "∞": r"\infty ",
        "≈": r"\approx ",
    }
    | {"²": "^2", "³": "^3", "∪": r"\cup ", "≤": r"\le ", "≥": r"\ge ", "\N{NO-BREAK SPACE}": " ", "½": r"\frac{1}{2}"}
)
_SMALL_SPACE = re.compile(r"\\!\s*|(?<=\d)\{,\}(?=\d{3})|(?<=\d)(?:\\[,;: ]|~)(?=\d{3}(?!\d))")
_THIN_SPACE = re.compile(r"(?<!\\)\\[,;:]")
_SIZES = re.compile(r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr|displaystyle)(?![a-zA-Z])\.?")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_OUTER_QUADS = re.compile(r"^\s*\\q?quad(?![a-zA-Z])|\\q?quad\s*$")
_ABOUT = re.compile(r"^\s*\\approx(?![a-zA-Z])")
_EDGES = re.compile(r"^(?:\s|\\[,;:! ])+|(?:\s|\\[,;:! ]|[.,;])+$")
_BRACKET = re.compile(r"[(\[]|\\\{")
_CONJUNCTION = re.compile(
    r",?\s*(?:\\(?:text|mathrm|mbox)\{\s*,?\s*(?:and|or)\s*\}|\\lor\b|\\quad|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])|;)"
)
_WHOLLY_TEXT = re.compile(r"(?:\\(?:text|textbf|textit|mathrm|mbox|textrm|mathbf|textsf|texttt)\{([^{}]*)\}\s*)+")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox|textrm|mathbf|textsf|texttt)\{([^{}]*)\}")
_WORD = re.compile(r"\(?[A-Za-z](?:[A-Za-z' -]*[A-Za-z])?\)?")
_PLAIN_WORDS = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]{2,})*")
_PYTHON_PREFIX = re.compile(r"(?<![a-zA-Z])(?:np|math)\.(?=[a-z])")
_SIGNS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_MEMBERSHIP = re.compile(r"^[A-Za-z](?:_\{?\w+\}?)?\s*\\in(?![a-zA-Z])")
_MATRIX = re.compile(r"\\begin\{([pbvB]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
_DEFINED = re.compile(r"([A-Za-z]|\\[a-zA-Z]+)'?(?:_\{?[^{}=()]*\}?\}?)?\s*(?:\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\))?")
_OPENING = frozenset("([{")
_CLOSING = frozenset(")]}")
_MOST_PARTS = 64


def tidy(text: str, several: bool = False) -> str:
    """A text in one spelling: one name for fractions, no sizes, dollars or thousands separators.

    Where several answers are expected, a comma between digits separates answers.
    """
    text = _THIN_SPACE.sub(" ", _SMALL_SPACE.sub("", text.translate(_UNICODE)))
    text = _FRACTIONS.sub(r"\\frac", _SIZES.sub("", text)).replace(r"\$", "").replace("$", "")
    text = text.replace(r"\(", "").replace(r"\)", "").replace("{,}", ",").replace("**", "^")
    text = _PYTHON_PREFIX.sub("", _ABOUT.sub("", _OUTER_QUADS.sub("", text)))
    if not several and not _BRACKET.search(text):
        text = _THOUSANDS.sub(lambda found: found.group().replace(",", ""), text)
    return _EDGES.sub("", text)


def read(text: str, several: bool = False, depth: int = 0) -> Answer:
    """What an answer says.

    Raises:
        Unreadable: it is of no kind known here.
        TooDeep: it is nested too deeply.
    """
    if depth > 8:
        raise TooDeep("nested too deeply")
    text = tidy(text, several)
    words = _words(text)
    if words is not None:
        return words
    text = _MEMBERSHIP.sub("", text).strip()
    found = _listed(text, several, depth)
    if found is None:
        found = _bracketed(text, several, depth)
    if found is None:
        found = _equation(text, depth)
    return Formula(*quantity(text)) if found is None else found


def same(gold: Answer, answer: Answer, tolerance: float = 0.0) -> bool:
    """Whether two answers say the same; numbers may differ by `tolerance`. Raises as `latex_values.equal` does."""
    if isinstance(gold, Several) or isinstance(answer, Several):
        return _same_parts(_parts(gold), _parts(answer), tolerance)
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _same_equation(gold, answer, tolerance)
    if isinstance(gold, Formula) and isinstance(answer, Formula):
        return not clash(gold.unit, answer.unit) and equal(gold.tree, answer.tree, tolerance)
    if isinstance(gold, Row) and isinstance(answer, Row):
        brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
        return brackets and _same_rows([gold.parts], [answer.parts], tolerance)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        return _same_rows(gold.rows, answer.rows, tolerance)
    return (
        isinstance(gold, Words | Formula) and isinstance(answer, Words | Formula) and _spelled(gold) == _spelled(answer)
    )


def _spelled(answer: Words | Formula) -> str:
    """Words, or the name that a formula is: a choice may be written as text or as a variable."""
    if isinstance(answer, Words):
        return answer.text
    return (_letters(answer.tree) or repr(answer.tree)).lower()


def _letters(tree: Tree) -> str:
    """The word that names side by side spell, such as "odd"; empty where the tree is something else."""
    if tree[0] != "*":
        return str(tree[1]) if tree[0] == "name" else ""
    left, right = _letters(tree[1]), _letters(tree[2])
    return left + right if left and right else ""


def _words(text: str) -> Words | None:
    plain = _TEXT.sub(r"\1", text).strip()
    wrapped = _WHOLLY_TEXT.fullmatch(text) is not None
    bare = plain.strip("() ")
    unwrapped = _PLAIN_WORDS.fullmatch(bare) is not None and len(bare) > 3
    if _WORD.fullmatch(plain) and (wrapped or unwrapped or (plain[0] == "(" and len(bare) == 1)):
        return Words(" ".join(bare.lower().split()))
    return None


def _listed(text: str, several: bool, depth: int) -> Answer | None:
    """A list or union of answers, or both signs of a plus-minus."""
    union = _split(text, r"\cup")
    if len(union) > 1:
        return Several("union", tuple(read(part, several, depth + 1) for part in union))
    parts = [part for part in _split(_CONJUNCTION.sub(",", text), ",") if part.strip()]
    if len(parts) > _MOST_PARTS:
        raise Unreadable(f"more than {_MOST_PARTS} answers")
    if len(parts) > 1:
        return Several("list", tuple(read(part, several, depth + 1) for part in parts))
    if len(_SIGNS.findall(text)) == 1:
        signs = [_SIGNS.sub(sign, text) for sign in "+-"]
        return Several("list", tuple(read(each, several, depth + 1) for each in signs))
    return None


def _bracketed(text: str, several: bool, depth: int) -> Answer | None:
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row for row in matrix.group(2).split("\\\\") if row.strip()]
        return Matrix(tuple(tuple(read(cell, several, depth + 1) for cell in row.split("&")) for row in rows))
    if text.startswith(r"\{") and text.endswith(r"\}"):
        parts = _split(text[2:-2], ",")
        return Several("list", tuple(read(part, several, depth + 1) for part in parts if part.strip()))
    if text[:1] in _OPENING and text[-1:] in _CLOSING and _matched(text):
        if text[0] == "{" and text[-1] == "}":
            return read(text[1:-1], several, depth + 1)
        parts = _split(text[1:-1], ",")
        if len(parts) > _MOST_PARTS:
            raise Unreadable(f"more than {_MOST_PARTS} parts")
        if len(parts) > 1:
            return Row(text[0], text[-1], tuple(read(part, True, depth + 1) for part in parts))
    return None


def _matched(text: str) -> bool:
    """Whether the first bracket closes at the end."""
    level = 0
    for at, character in enumerate(text):
        level += (character in _OPENING) - (character in _CLOSING)
        if level == 0:
            return at == len(text) - 1
    return False


def _split(text: str, separator: str) -> list[str]:
    """Parts of a text between separators outside all brackets."""
    parts, level, start, at = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        level += (character in _OPENING) - (character in _CLOSING)
        if level == 0 and text.startswith(separator, at):
            parts.append(text[start:at])
            start = at + len(separator)
            at = start
        else:
            at += 1
    return [*parts, text[start:]]


def _equation(text: str, depth: int) -> Equation | None:
    sides = _split(text, "=")
    if len(sides) < 2:
        return None
    left, right = sides[0].strip(), sides[-1]
    name = _DEFINED.fullmatch(left)
    defined = re.sub(r"[\s{}]", "", left) if name or len(sides) > 2 or not left else None
    return Equation(defined, parse(left) if left and len(sides) == 2 else ("name", left), read(right, False, depth + 1))


def _parts(answer: Answer) -> Sequence[Answer]:
    return answer.parts if isinstance(answer, Several) else [answer]


def _same_parts(golds: Sequence[Answer], answers: Sequence[Answer], tolerance: float) -> bool:
    """Whether each answer is one of the golds and each gold one of the answers, one to one."""
    if len(golds) != len(answers):
        return False
    left = list(golds)
    for answer in answers:
        at = next((index for index, gold in enumerate(left) if same(gold, answer, tolerance)), None)
        if at is None:
            return False
        del left[at]
    return True


def _same_rows(golds: Sequence[Sequence[Answer]], answers: Sequence[Sequence[Answer]], tolerance: float) -> bool:
    if [len(row) for row in golds] != [len(row) for row in answers]:
        return False
    pairs = [pair for rows in zip(golds, answers, strict=True) for pair in zip(*rows, strict=True)]
    return all(same(gold, answer, tolerance) for gold, answer in pairs)


def _same_equation(gold: Answer, answer: Answer, tolerance: float) -> bool:
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        if gold.name is not None and answer.name is not None:
            return gold.name == answer.name and same(gold.right, answer.right, tolerance)
        if gold.left == answer.left and same(gold.right, answer.right, tolerance):
            return True
        if isinstance(gold.right, Formula) and isinstance(answer.right, Formula):
            return proportional((gold.left, gold.right.tree), (answer.left, answer.right.tree))
        return False
    if isinstance(gold, Equation):
        return gold.name is not None and same(gold.right, answer, tolerance)
    assert isinstance(answer, Equation)
    return _concludes(answer) and same(gold, answer.right, tolerance)


def _concludes(equation: Equation) -> bool:
    """Whether an equation gives the value of a quantity, or ends a calculation: not ``x^2 = 4``."""
    if equation.name is not None or _is_quantity(equation.left):
        return True
    return (
        not names(equation.left) and isinstance(equation.right, Formula) and equal(equation.left, equation.right.tree)
    )


def _is_quantity(tree: Tree) -> bool:
    if tree[0] in ("*", "/", "prime"):
        return all(map(_is_quantity, tree[1:]))
    return tree[0] == "apply" or (tree[0] == "name" and bool(names(tree)))
