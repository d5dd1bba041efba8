"""Gold answers: what a benchmark's row holds, cut out and spelled for each of the graders.

The strict grader gets the answer in LaTeX, with scientific notation, several answers and tolerances made explicit. The
paper's grader gets the string that the published harness compares with, which is not always gradable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dft_sweeps.evaluation.graders.extract import paper_answer
from dft_sweeps.evaluation.graders.paper_text import normal


@dataclass(frozen=True)
class Gold:
    """An answer as the graders need it."""

    text: str
    """The strict grader's: LaTeX."""
    paper: str
    """The published harness's, after its normalisation."""
    several: bool = False
    """Whether commas in `text` separate answers, all of which must be given, in any order."""
    tolerance: float = 0.0
    """Largest absolute difference that the strict grader accepts."""
    unit: str = ""
    """The unit that the row names; answers are accepted with and without one."""
    keeps_units: bool = False
    """Whether the harness leaves units on predictions (it does for Minerva Math)."""

    @classmethod
    def of(cls, answer: str) -> Gold:
        """A plain answer, exact and with no fields beside it."""
        return cls(clean(answer), paper_gold(answer))


_SCIENTIFIC = re.compile(r"(?<![\w.])([-+]?\d+(?:\.\d+)?)[eE]([-+]?\d+)(?![\w.])")
_PYTHON = re.compile(r"\bnp\.(arcsin|arccos|arctan|sqrt|exp|log|sin|cos|tan|pi)\b")
_BARE_POINT = re.compile(r"(?<=\d)\.(?=\s*[/*)]|$)")
_MEASURED = re.compile(r"[-+]?\d+(?:\.(\d+))?(?:\s*\\times\s*10\^\{([-+]?\d+)\})?")


def clean(answer: str) -> str:
    """A gold as LaTeX: powers of ten written out, no Python, no dollars around formulas."""
    text = _PYTHON.sub(r"\\\1", answer.replace(r"\$", "").replace("$", "").strip().rstrip("."))
    text = _BARE_POINT.sub("", text)
    return _SCIENTIFIC.sub(lambda found: rf"{found[1]} \times 10^{{{int(found[2])}}}", text)


def half_last_digit(text: str) -> float:
    r"""Half a unit in the last digit of a measured number such as 0.56 or 4.5 \times 10^{33}; 0 for anything else.

    A whole number is exact, unless it is written with a power of ten. The half itself is just out of bounds.
    """
    number = _MEASURED.fullmatch(text)
    if number is None or (number[1] is None and number[2] is None):
        return 0.0
    return 0.4999999 * 10.0 ** (int(number[2] or 0) - len(number[1] or ""))


def paper_gold(answer: str) -> str:
    """The harness's gold where a row holds the answer itself."""
    return normal(normal(answer.strip().strip("$"), keeps_units=False), keeps_units=False)


def paper_gold_of_solution(solution: str, keeps_units: bool) -> str:
    """The harness's gold where it looks for the answer in a worked solution. It is normalised once, predictions twice:
    a gold that a second pass would change cannot be met."""
    return normal(paper_answer(solution), keeps_units)
