"""Compares formulas by value: evaluated with mpmath to many digits, names standing for fixed irrational-like values.

Two formulas are equal when they agree at every sample point. Costs are bounded by `TooLarge`, not by luck.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath

from dft_sweeps.evaluation.graders.latex_tree import Tree, Unreadable

_DIGITS = 60
_MOST_DIGITS = 5000
_LARGEST_BITS = 2**20
"""Results of powers beyond this many bits are not formed."""
_LARGEST_FACTORIAL = 10**6
_POINTS = range(3)
_WHOLE_POINTS = range(-48, 0)
"""Sample points at which names stand for whole numbers."""
_LEAST_DIGITS = 6
"""Significant digits that a decimal needs to stand for a value that no decimal equals."""


class Far(NamedTuple):
    """A sample point at which one name is far from the others."""

    name: str
    factor: float
    whole: bool
    """Whether names stand for whole numbers."""


Point = int | Far


class TooLarge(ValueError):
    """The formula's value is too large to form."""


def equal(gold: Tree, answer: Tree, tolerance: float = 0.0) -> bool:
    """Whether two formulas have the same value, or one within `tolerance` (absolute) of the gold.

    A decimal of six or more significant digits also equals a gold that no decimal can equal, when it is that
    gold cut off or rounded. Names in formulas with a floor or ceiling stand for whole numbers.

    Raises:
        TooLarge: a value is too large to form.
        Unreadable: a value is undefined.
    """
    if gold[0] == "based" or answer[0] == "based":
        return gold == answer
    if not names(gold) and not names(answer):
        return _agree(gold, answer, 0, tolerance)
    points = _WHOLE_POINTS if _holds(_rounds, gold) or _holds(_rounds, answer) else _POINTS
    return all(_agree(gold, answer, point, tolerance) for point in points) and all(
        _agree_far(gold, answer, point, tolerance) for point in far_points(gold, answer)
    )


def _holds(says: Callable[[Tree], bool], tree: Tree) -> bool:
    """Whether it says so of a tree or of one of its parts."""
    return says(tree) or any(_holds(says, part) for part in tree[1:] if isinstance(part, tuple))


def _rounds(tree: Tree) -> bool:
    return tree[0] in ("floor", "ceiling")


def _hides_sign(tree: Tree) -> bool:
    """Whether it is an absolute value or an even root of something with names."""
    if tree[0] not in ("absolute", "root", "^") or not names(tree[1]):
        return False
    if tree[0] == "absolute":
        return True
    if tree[0] == "root":
        return bool(tree[2][0] == "number" and tree[2][1].isdigit() and int(tree[2][1]) % 2 == 0)
    return _even_denominator(tree[2])


def _even_denominator(exponent: Tree) -> bool:
    if exponent[0] == "neg":
        return _even_denominator(exponent[1])
    if exponent[0] == "/":
        return bool(exponent[2][0] == "number" and exponent[2][1].isdigit() and int(exponent[2][1]) % 2 == 0)
    return bool(exponent[0] == "number" and exponent[1].rstrip("0").endswith(".5"))


def far_points(*trees: Tree) -> list[Point]:
    """Points that tell a formula from its absolute value, if there is such a value in a tree: else none.

    One name at a time is far, and negative at some points. In most formulas all names are known to be positive: one
    that can be written in two ways, as sqrt(b/a) and sqrt(ab)/a, often differs from itself where several are negative.
    """
    if not any(_holds(_hides_sign, tree) for tree in trees):
        return []
    whole = any(_holds(_rounds, tree) for tree in trees)
    factors = (-1.0, -32.0, 32.0) if whole else (-0.03125, -32.0, 0.03125, 32.0)
    return [Far(name, by, whole) for name in sorted(frozenset().union(*map(names, trees))) for by in factors]


def _agree_far(gold: Tree, answer: Tree, point: Point, tolerance: float) -> bool:
    """As `_agree`; also where the gold has no real value. An answer that has none where the gold has one differs."""
    with mpmath.workdps(_DIGITS):
        if real_value(gold, point) is None:
            return True
    try:
        return _agree(gold, answer, point, tolerance)
    except (Unreadable, TooLarge):
        return False


def real_value(tree: Tree, point: Point) -> Any:
    """Value of a tree, or None where it is undefined, too large, infinite or not real."""
    try:
        value = evaluate(tree, point)
    except (Unreadable, TooLarge):
        return None
    real = mpmath.isfinite(value) and abs(mpmath.im(value)) <= abs(value) * mpmath.mpf(10) ** (20 - _DIGITS)
    return mpmath.re(value) if real else None


def proportional(gold: tuple[Tree, Tree], answer: tuple[Tree, Tree]) -> bool:
    """Whether two equations, each a pair of sides, differ by a constant factor only. Raises as `equal` does."""
    first, second = ("-", *gold), ("-", *answer)
    ratios = []
    with mpmath.workdps(_DIGITS):
        for point in _POINTS:
            right, given = evaluate(first, point), evaluate(second, point)
            if right == 0 or given == 0:
                return False
            ratios.append(given / right)
        for point in far_points(first, second):
            right = real_value(first, point)
            if right:
                given = real_value(second, point)
                ratios.append(mpmath.inf if given is None else given / right)
        same = all(abs(ratio - ratios[0]) <= abs(ratios[0]) * mpmath.mpf(10) ** (15 - _DIGITS) for ratio in ratios)
    return same and names(first) == names(second)


def _agree(gold: Tree, answer: Tree, point: Point, tolerance: float) -> bool:
    with mpmath.workdps(_DIGITS):
        right, given = evaluate(gold, point), evaluate(answer, point)
        if mpmath.isnan(right) or mpmath.isnan(given):
            raise Unreadable("undefined")
        if mpmath.isinf(right) or mpmath.isinf(given):
            return bool(right == given)
        size = max(abs(right), abs(given))
        if tolerance and abs(right - given) <= tolerance * (1 + 1e-9):
            return True
        if _stands_for(answer, given, right):
            return True
        if abs(right - given) > size * mpmath.mpf(10) ** (20 - _DIGITS):
            return _vanishes(gold, right, point) and _vanishes(answer, given, point)
        digits = int(mpmath.mag(size) * 0.302) + 1 if size else 0
    if not 30 < digits < _MOST_DIGITS or names(gold):
        return True
    with mpmath.workdps(digits + _DIGITS):  # so that 2^1009 and 2^1009 + 1 differ
        return bool(abs(evaluate(gold, point) - evaluate(answer, point)) < mpmath.mpf(10) ** -20)


def _vanishes(tree: Tree, value: Any, point: Point) -> bool:
    """Whether a tiny value is what cancellation left of a zero: that shrinks when digits are added."""
    if abs(value) > mpmath.mpf(10) ** (10 - _DIGITS):
        return False
    with mpmath.workdps(2 * _DIGITS):
        return bool(abs(evaluate(tree, point)) <= abs(value) * mpmath.mpf(10) ** (10 - _DIGITS))


def _stands_for(answer: Tree, given: Any, right: Any) -> bool:
    literal = answer[1] if answer[0] == "neg" else answer
    if literal[0] != "number" or "." not in literal[1] or "e" in literal[1].lower() or mpmath.im(right) != 0:
        return False
    digits = literal[1].replace(".", "").lstrip("0")
    places = len(literal[1].partition(".")[2])
    terminating = mpmath.isint(right * 10**12) or abs(right * 10**12 - mpmath.nint(right * 10**12)) < 1e-20
    return len(digits) >= _LEAST_DIGITS and not terminating and abs(right - given) <= mpmath.mpf(10) ** -places


def names(tree: Tree) -> frozenset[str]:
    """Names of variables and unknown functions in a tree."""
    if tree[0] == "name":
        return frozenset() if tree[1] in _CONSTANTS else frozenset({tree[1]})
    if tree[0] == "apply":
        return frozenset({tree[1] + "()"}) | names(tree[2])
    return frozenset().union(*(names(part) for part in tree[1:] if isinstance(part, tuple)))


def _value_of(name: str, point: Point) -> Any:
    """A fixed value for a name, in [1.25, 2.25] or whole: the same for gold and answer, another at every point."""
    hashed = hashlib.sha256(f"{name}\0{point}".encode(errors="replace")).digest()
    if point.whole if isinstance(point, Far) else point in _WHOLE_POINTS:
        value = mpmath.mpf(2 + hashed[0] % 64)
    else:
        value = mpmath.mpf(1.25) + mpmath.mpf(int.from_bytes(hashed, "big")) / mpmath.mpf(2) ** 256
    if isinstance(point, int):
        return value
    far = name == point.name or (point.name.endswith("()") and name.startswith(point.name[:-1]))
    return value * point.factor if far else value


def evaluate(tree: Tree, point: Point) -> Any:
    """Value of a tree at a sample point, at mpmath's present precision.

    Raises:
        TooLarge: a power, factorial or binomial is beyond its bound.
        Unreadable: a division by zero or the like.
    """
    kind = tree[0]
    if kind == "number":
        return mpmath.mpf(tree[1])
    if kind == "name":
        return _CONSTANTS[tree[1]]() if tree[1] in _CONSTANTS else _value_of(tree[1], point)
    if kind == "apply":
        return _value_of(f"{tree[1]}({mpmath.nstr(evaluate(tree[2], point), 20)})", point)
    if kind == "prime":
        return _value_of(f"{tree[1]}'", point)
    if kind == "based":
        raise Unreadable("arithmetic with a number in another base")
    operands = [evaluate(part, point) for part in tree[1:]]
    try:
        return _OPERATIONS[kind](*operands)
    except (ZeroDivisionError, ArithmeticError, TypeError, KeyError) as error:
        raise Unreadable(f"no value: {error}") from error
    except ValueError as error:
        if isinstance(error, TooLarge | Unreadable):
            raise
        raise Unreadable(f"no value: {error}") from error


def _power(base: Any, exponent: Any) -> Any:
    if base and abs(exponent) * max(1, abs(mpmath.mag(base))) > _LARGEST_BITS:
        raise TooLarge("a power is too large to form")
    return mpmath.power(base, exponent)


def _factorial(value: Any) -> Any:
    if abs(value) > _LARGEST_FACTORIAL:
        raise TooLarge("a factorial is too large to form")
    return mpmath.factorial(value)


def _binomial(upper: Any, lower: Any) -> Any:
    if max(abs(upper), abs(lower)) > _LARGEST_FACTORIAL:
        raise TooLarge("a binomial is too large to form")
    return mpmath.binomial(upper, lower)


def _exp(value: Any) -> Any:
    return _power(mpmath.e(), value)


def _root(value: Any, index: Any) -> Any:
    if index == 3 and mpmath.im(value) == 0 and value < 0:
        return -_power(-value, 1 / index)
    return _power(value, 1 / index)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "pi": lambda: +mpmath.pi,
    "e": lambda: +mpmath.e,
    "i": lambda: mpmath.mpc(0, 1),
    "infty": lambda: mpmath.inf,
}
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "neg": lambda a: -a,
    "^": _power,
    "root": _root,
    "factorial": _factorial,
    "binomial": _binomial,
    "floor": mpmath.floor,
    "ceiling": mpmath.ceil,
    "absolute": abs,
    "exp": _exp,
    "ln": mpmath.log,
    "log": mpmath.log,
    "lg": mpmath.log10,
    "arcsin": mpmath.asin,
    "arccos": mpmath.acos,
    "arctan": mpmath.atan,
    "arccot": mpmath.acot,
    "arcsinh": mpmath.asinh,
    "arccosh": mpmath.acosh,
    "arctanh": mpmath.atanh,
    **{name: getattr(mpmath, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
}
