"""What the published harness makes of two formulas: parsed three ways, then compared by sympy; no text is executed.

The harness tries sympy's LaTeX grammar, sympy's `parse_expr` (which evaluates Python) and latex2sympy. The first and
the third are grammars and are used as such, the first through its generated parser because sympy binds it to another
runtime. In place of the second stands a reader of the arithmetic that it was good for, over Python's syntax tree with
a list of what is allowed. For child processes only: sympy may run out of time, memory or stack here.
"""

from __future__ import annotations

import ast
import cmath
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import antlr4
import sympy
from latex2sympy2_extended import latex2sympy
from sympy.parsing.latex import _parse_latex_antlr as grammar

_FUNCTIONS = (  # noqa: SIM905
    "sqrt sin cos tan cot sec csc asin acos atan sinh cosh tanh exp log ln factorial binomial Abs floor"
).split()
_CONSTANTS = {"pi": sympy.pi, "E": sympy.E, "I": sympy.I, "oo": sympy.oo}
_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
    ast.Mod: lambda a, b: a % b,
}
_SAMPLED: dict[Any, Callable[[complex, complex], complex]] = {
    sympy.Add: lambda a, b: a + b,
    sympy.Mul: lambda a, b: a * b,
    sympy.Pow: lambda a, b: a**b,
}
_NUMBER = re.compile(r"-?[\d.,]*[1-9][\d.,]*")
_FIRST_TERMS = re.compile(r"[-+]?((?>(?:\d{1,3}(?:,\d{3})++|\d++)(?:\.\d++)?[-+*/^]?)*+)[A-Za-z]{4,}")
_LAST_IS_ZERO = re.compile(r"(?:^|[-+*/^])0+(?:\.0*)?$")
_SHORTEST_PROSE = 12
_PROSE = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{12,}")
_MATHEMATICAL = re.compile(r"[\w\s+\-*/%().,\[\]{}!]*", re.ASCII)


class _Parser(grammar.LaTeXParser):
    def checkVersion(self, toolVersion: str) -> None:
        """The grammar's tables are read alike by the runtimes since 4.10; a warning per parse says otherwise."""


class _Lexer(grammar.LaTeXLexer):
    def checkVersion(self, toolVersion: str) -> None:
        """As in `_Parser`."""


def equal(prediction: str, gold: str) -> bool:
    """The harness's `symbolic_equal`. Where it hangs, this hangs; limits are the caller's.

    RecursionError and MemoryError pass: the answer is then not wrong but ungradable.
    """
    if _NUMBER.fullmatch(gold) and _is_prose(prediction):
        return False
    first, second = _read(prediction), _read(gold)
    if str(first) == str(second):
        return True
    if isinstance(first, sympy.MatrixBase) and isinstance(second, sympy.MatrixBase):
        return _matrices_equal(first, second)
    if not isinstance(first, sympy.Basic) or not isinstance(second, sympy.Basic):
        return bool(isinstance(first, list | tuple) and first == second)
    if first == second:
        return True
    if _holds(_differ_at_sample, first, second):
        return False
    return any(_holds(test, first, second) for test in (_same_value, _same_difference, _same_equation, _close))


def _is_prose(text: str) -> bool:
    """Whether a text begins with terms that hold letters in a row: read as variables, they equal no number but 0."""
    terms = _FIRST_TERMS.match(text)
    return terms is not None and len(text) >= _SHORTEST_PROSE and not _LAST_IS_ZERO.search(terms[1])


def _differ_at_sample(first: Any, second: Any) -> bool:
    """Whether two expressions with names differ where names stand for arbitrary numbers: then no simplification makes
    them equal, and none need be tried. (The harness has no such shortcut.)"""
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    if not names:
        return False
    values = {name: complex(1.3 + 0.7 * math.sin(index + 1)) for index, name in enumerate(names)}
    left, right = _sample(first, values), _sample(second, values)
    return cmath.isfinite(left) and cmath.isfinite(right) and abs(left - right) > 1e-6 * max(1, abs(left), abs(right))


def _sample(tree: Any, values: dict[Any, complex]) -> complex:
    """A tree's value in floating point. Raises TypeError or ArithmeticError where it has none, or is not arithmetic."""
    if tree in values:
        return values[tree]
    if tree.is_Number or tree in _CONSTANTS.values():
        return complex(tree)
    operation = _SAMPLED.get(tree.func)
    if operation is None:
        raise TypeError(f"not arithmetic: {tree.func}")
    return complex(functools.reduce(operation, (_sample(part, values) for part in tree.args)))


def _holds(test: Callable[[Any, Any], bool], first: Any, second: Any) -> bool:
    try:
        return test(first, second)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # sympy fails in many ways, and the harness takes each for "not equal"
        return False


def _same_value(first: Any, second: Any) -> bool:
    return bool(first.equals(second))


def _same_difference(first: Any, second: Any) -> bool:
    return bool(sympy.simplify(first - second) == 0)


def _same_equation(first: Any, second: Any) -> bool:
    return bool(abs(first.lhs - first.rhs).equals(abs(second.lhs - second.rhs)))


def _close(first: Any, second: Any) -> bool:
    return math.isclose(float(sympy.N(second)), float(sympy.N(first)), rel_tol=1e-4)


def _matrices_equal(first: Any, second: Any) -> bool:
    if first.shape != second.shape:
        return False
    return _holds(_same_value, first, second) or _holds(
        lambda a, b: bool(a.applyfunc(lambda x: round(x, 3)).equals(b.applyfunc(lambda x: round(x, 3)))), first, second
    )


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> Any:
    r"""The first reading that succeeds, of the text with ``\\`` for ``\`` undone or as it is; or the text itself."""
    for parse in (_latex, _arithmetic, _other_latex):
        for spelling in dict.fromkeys((text.replace("\\\\", "\\"), text)):
            try:
                return parse(spelling)
            except (MemoryError, RecursionError):
                raise
            except Exception:  # the parsers raise plain Exception too; each failure means the next parser
                continue
    return text


def _latex(text: str) -> Any:
    text = text.strip()
    listener = grammar.MathErrorListener(text)
    lexer = _Lexer(antlr4.InputStream(text))
    lexer.removeErrorListeners()
    lexer.addErrorListener(listener)
    parser = _Parser(antlr4.CommonTokenStream(lexer))
    parser.removeErrorListeners()
    parser.addErrorListener(listener)
    return grammar.convert_relation(parser.math().relation())


def _other_latex(text: str) -> Any:
    # The harness's release of the parser knows no unbreakable spaces: it fails at ``9 \mathrm{~cm}``.
    if "\\" not in text or "~" in text or _PROSE.search(text):
        raise ValueError("no LaTeX")
    return latex2sympy(text)


def _arithmetic(text: str) -> Any:
    if not _MATHEMATICAL.fullmatch(text) or "__" in text:
        raise ValueError("not arithmetic")
    return _value(ast.parse(re.sub(r"(\d+|\([^()!]*\))!", r"factorial(\1)", text).strip(), mode="eval").body)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return sympy.Integer(node.value) if isinstance(node.value, int) else sympy.Float(repr(node.value))
    if isinstance(node, ast.Name):
        return _CONSTANTS.get(node.id) or sympy.Symbol(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        return -_value(node.operand) if isinstance(node.op, ast.USub) else _value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.Tuple | ast.List):
        return (tuple if isinstance(node, ast.Tuple) else list)(map(_value, node.elts))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        make = getattr(sympy, node.func.id) if node.func.id in _FUNCTIONS else sympy.Function(node.func.id)
        return make(*map(_value, node.args))
    raise ValueError(f"not arithmetic: {type(node).__name__}")
