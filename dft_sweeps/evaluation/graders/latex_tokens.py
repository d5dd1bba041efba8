"""Cuts a formula in LaTeX, or as typed, into tokens."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+(?![\d.]))?|[^\W\d_]|\S", re.DOTALL | re.ASCII)
_SPACING = frozenset(
    r"\, \; \: \! \  ~ \quad \qquad \left \right \displaystyle \limits \big \Big \bigl \bigr \Bigl \Bigr".split(" ")  # noqa: SIM905
) | {"\\ "}
FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp lg".split())  # noqa: SIM905
_WORDS = sorted(FUNCTIONS | {"sqrt", "pi"}, key=len, reverse=True)
_WORDS_BY_LETTER = {word[0]: [each for each in _WORDS if each[0] == word[0]] for word in _WORDS}


def tokens(text: str) -> tuple[list[str], list[int]]:
    """Tokens of a text and where they start, spacing left out; a word such as ``sqrt`` stands for its command."""
    found = [(token.group(), token.start()) for token in _TOKEN.finditer(text) if token.group() not in _SPACING]
    joined: list[str] = []
    starts: list[int] = []
    at = 0
    while at < len(found):
        token, start = found[at]
        words = _WORDS_BY_LETTER.get(token, ())
        word = next((word for word in words if "".join(each for each, _ in found[at : at + len(word)]) == word), None)
        joined.append(token if word is None else "\\" + word)
        starts.append(start)
        at += 1 if word is None else len(word)
    return joined, starts
