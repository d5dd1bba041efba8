"""Reads one number or formula in LaTeX (or as typed) into a tree of tuples; nothing is ever executed.

A small recursive parser for what answers look like. What it does not know raises `Unreadable`, and another
judge decides; it never guesses at sums, integrals or words.
"""

from __future__ import annotations

from typing import Any

from dft_sweeps.evaluation.graders.latex_tokens import FUNCTIONS, tokens
from dft_sweeps.evaluation.graders.units import TEXTS, UNIT_SIGNS, Known, read_unit

Tree = tuple[Any, ...]
"""``("number", text)``, ``("name", text)``, ``("based", digits, base)``, or an operation and its operands."""

DEEPEST = 40
"""Most levels of nesting that are read."""


class Unreadable(ValueError):
    """The text is no formula of the kinds known here."""


class Continued(Unreadable):
    """A formula is read, and what stands behind it is no unit: it changes what the formula says."""


class TooDeep(ValueError):
    """The text is nested more deeply than `DEEPEST`."""


_TIMES = frozenset({"*", r"\times", r"\cdot"})
_OVER = frozenset({"/", r"\div"})
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", "|": "|"}
_ACCENTS = frozenset(r"\dot \ddot \hat \bar \vec \tilde \overline \mathcal \mathbb".split())  # noqa: SIM905
_UNKNOWN_FUNCTIONS = frozenset("fghFGHIPQu")


def parse(text: str) -> Tree:
    """The tree of one formula; a unit behind it is left out. Raises as `quantity` does."""
    return quantity(text)[0]


def quantity(text: str) -> tuple[Tree, Known]:
    """The tree of one formula, and the known units behind it; a scale word there multiplies the formula.

    Raises:
        Unreadable: not a formula of the kinds known here.
        Continued: a formula, and more than a unit behind it.
        TooDeep: nested too deeply.
    """
    found, starts = tokens(text)
    reader = _Reader(found)
    tree = reader.sum(0)
    if reader.next is None:
        return tree, ()
    if reader.next == r"\mod":
        raise Continued(f"{reader.next} behind a formula")
    if not reader.at_unit():
        raise Unreadable(f"unexpected {reader.next!r}")
    unit = read_unit(text[starts[-reader.left] :])
    if unit is None:
        raise Continued("more than a unit behind a formula")
    return (tree if unit.scale == 1 else ("*", tree, ("number", str(unit.scale)))), unit.known


class _Reader:
    def __init__(self, found: list[str]) -> None:
        self._tokens = found
        self._at = 0

    @property
    def next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    @property
    def left(self) -> int:
        """Number of tokens not yet read."""
        return len(self._tokens) - self._at

    def take(self) -> str:
        token = self.next
        if token is None:
            raise Unreadable("it ends too early")
        self._at += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise Unreadable(f"expected {token!r}")

    def sum(self, depth: int) -> Tree:
        if depth > DEEPEST:
            raise TooDeep("nested too deeply")
        total = self.product(depth)
        while self.next in ("+", "-"):
            sign = self.take()
            total = (sign, total, self.product(depth))
        return total

    def product(self, depth: int) -> Tree:
        value = self.factor(depth)
        while True:
            if self.next in _TIMES:
                self.take()
                value = ("*", value, self.factor(depth))
            elif self.next in _OVER:
                self.take()
                value = ("/", value, self.factor(depth))
            elif self._starts_atom():
                right = self.factor(depth)
                mixed = _whole(value) and right[0] == "/" and _whole(right[1]) and _whole(right[2])
                value = ("+" if mixed else "*", value, right)
            else:
                return value

    def factor(self, depth: int) -> Tree:
        if depth > DEEPEST:
            raise TooDeep("nested too deeply")
        if self.next == "-":
            self.take()
            return ("neg", self.factor(depth + 1))
        if self.next == "+":
            self.take()
            return self.factor(depth + 1)
        return self.postfix(self.atom(depth), depth)

    def postfix(self, value: Tree, depth: int) -> Tree:
        while self.next in ("^", "!", "'"):
            sign = self.take()
            if sign == "!":
                value = ("factorial", value)
            elif sign == "'":
                value = ("prime", value)
            else:
                value = self._power(value, depth)
        return value

    def _power(self, value: Tree, depth: int) -> Tree:
        if depth > DEEPEST:
            raise TooDeep("nested too deeply")
        group = self.next == "{"
        mark = self._tokens[self._at + group : self._at + group + 1]
        if mark in ([r"\circ"], [r"\prime"]):
            self._at += 1 + 2 * group
            return value if mark == [r"\circ"] else ("prime", value)
        exponent = self.argument(depth + 1)
        if not group and self.next == "^":
            self.take()
            exponent = self._power(exponent, depth + 1)
        return ("^", value, exponent)

    def argument(self, depth: int) -> Tree:
        """What a power, a root or a subscript applies to: a group, or one atom."""
        if self.next == "{":
            return self.group(depth)
        if self.next == "-":
            self.take()
            return ("neg", self.argument(depth + 1))
        return self.atom(depth)

    def group(self, depth: int) -> Tree:
        opening = self.take()
        value = self.sum(depth + 1)
        self.expect(_CLOSING[opening])
        return value

    def digit_or_group(self, depth: int) -> Tree:
        r"""An argument of \frac: of ``\frac43`` the first is 4."""
        token = self.next
        if token is not None and token.isdigit() and len(token) > 1:
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
        return self.argument(depth)

    def _starts_atom(self) -> bool:
        token = self.next
        if token is None or self.at_unit():
            return False
        return token[0].isalnum() or token in ("(", "[", "{") or (token[0] == "\\" and token in _STARTS)

    def at_unit(self) -> bool:
        r"""Whether a unit is next: its sign, text, or a \frac of text; a text that is e or i is none."""
        group = 2 * (self._tokens[self._at : self._at + 2] == [r"\frac", "{"])
        token = self._tokens[self._at + group : self._at + group + 1]
        return (token[:1] != [] and token[0] in TEXTS and not self._names_constant(group)) or self.next in UNIT_SIGNS

    def _names_constant(self, ahead: int = 0) -> bool:
        at = self._at + ahead
        return self._tokens[at + 1 : at + 4] in (["{", "e", "}"], ["{", "i", "}"])

    def atom(self, depth: int) -> Tree:
        token = self.next
        if token is None:
            raise Unreadable("it ends too early")
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return self._number()
        if token in ("(", "[", "{"):
            return self.group(depth)
        if token in (r"\lfloor", r"\lceil", "|"):
            return ({r"\lfloor": "floor", r"\lceil": "ceiling"}.get(token, "absolute"), self.group(depth))
        if token in TEXTS and self._names_constant():
            self._at += 4
            return ("name", self._tokens[self._at - 2])
        self.take()
        if token[0] == "\\":
            return self._command(token[1:], depth)
        if token.isalpha():
            return self._name(token, depth)
        raise Unreadable(f"unexpected {token!r}")

    def _number(self) -> Tree:
        digits = self.take()
        digits = "0" + digits if digits[0] == "." else digits
        if self.next != "_":
            return ("number", digits)
        self.take()
        base = self._subscript()
        if not base.isdigit():
            raise Unreadable("a number's subscript is its base")
        return ("based", digits.lstrip("0"), base)

    def _subscript(self) -> str:
        """The text of a subscript, as part of a name."""
        if self.next != "{":
            return self.take()
        self.take()
        parts: list[str] = []
        level = 1
        while level:
            token = self.take()
            level += (token == "{") - (token == "}")
            parts.append(token)
        return "".join(part for part in parts[:-1] if part not in "{}" and part not in TEXTS)

    def _name(self, name: str, depth: int) -> Tree:
        applied = name in _UNKNOWN_FUNCTIONS and self.next == "("
        if self.next == "_":
            self.take()
            name += "_" + self._subscript()
        if not applied:
            return ("name", name)
        return ("apply", name, self.group(depth))

    def _command(self, command: str, depth: int) -> Tree:
        if command in FUNCTIONS:
            return self._function(command, depth)
        if command == "frac":
            return ("/", self.digit_or_group(depth + 1), self.digit_or_group(depth + 1))
        if command == "binom":
            return ("binomial", self.digit_or_group(depth + 1), self.digit_or_group(depth + 1))
        if command == "sqrt":
            index: Tree = ("number", "2")
            if self.next == "[":
                index = self.group(depth)
            return ("root", self.argument(depth + 1), index)
        if "\\" + command in _ACCENTS:
            return ("name", f"{command} {self._subscript()}")
        if "\\" + command in _GREEK:
            return self._name(command, depth)
        raise Unreadable(f"unknown command {command!r}")

    def _function(self, name: str, depth: int) -> Tree:
        base: Tree | None = None
        power: Tree | None = None
        while self.next in ("_", "^"):
            if self.take() == "_":
                base = self.argument(depth)
            else:
                power = self.argument(depth)
        if self.next in ("(", "{", "["):
            value = self.group(depth)
        else:
            value = self.factor(depth + 1)
            while self._starts_atom() and (self.next or "")[1:] not in FUNCTIONS and self.next != "(":
                value = ("*", value, self.factor(depth + 1))
        if base is not None and name not in ("log", "lg"):
            raise Unreadable("only a logarithm has a base")
        if power == ("neg", ("number", "1")) and not name.startswith("arc"):
            return (f"arc{name}", value)
        applied: Tree = (name, value) if base is None else ("/", ("ln", value), ("ln", base))
        return applied if power is None else ("^", applied, power)


def _whole(tree: Tree) -> bool:
    return tree[0] == "number" and tree[1].isdigit()


_GREEK = frozenset(
    "\\" + name
    for name in (  # noqa: SIM905
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma "
        "tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi hbar ell infty mho"
    ).split()
)
_STARTS = _GREEK | _ACCENTS | TEXTS | {"\\" + name for name in FUNCTIONS}
_STARTS |= {r"\frac", r"\sqrt", r"\binom", r"\lfloor", r"\lceil"}
