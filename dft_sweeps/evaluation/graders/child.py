"""What a grading child runs: one grader on one extracted answer, inside limits that the parent and the kernel enforce.

Imported in child processes and their fork server only, so that sympy never enters the parent. A child keeps no state
but caches; it may be killed at any moment.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from dft_sweeps.evaluation.graders import paper, strict
from dft_sweeps.evaluation.graders.limits import Deadline, exhausted, limit_process

_FORMULAS = (
    r"\frac{1}{2}+\sqrt[3]{x^{2}}", r"\sin(x)\cos(2)-4!", "x_{1}=2", r"\{1,2\}", "[-2,7]", "4.5e33", r"3\pi r^2",
    r"\begin{pmatrix} 1 \\ -2 \end{pmatrix}", r"(3,\frac{\pi}{2})", r"10.5\times10^{-3}", "12*4=48", "5-3/2", "x+5y",
    r"2^{10}-\left(7\right)", r"\log_2(8) \cdot |x|", r"9\%", r"1,234 \text{ dollars}", r"-\sqrt{2}", "(1/3)*18",
)  # fmt: skip
_JUDGES = {"strict": strict.grade, "paper": paper.grade}


@functools.cache
def warm_up() -> None:
    """Loads what the first answers would otherwise pay for: patterns and the grammars' tables."""
    # It warns that its own time-outs are off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    for formula in _FORMULAS:
        strict._verified(r"x \in (-\infty, 0]", False, formula)
        paper.equal(formula, r"\frac{3}{x}")


def judge(grader: str, arguments: tuple[Any, ...], cpu_s: float, wall_s: float, memory_mib: int) -> strict.Outcome:
    """(correct, extracted answer, reason) of a grader on its arguments; `correct` is None where it cannot say."""
    warm_up()
    limit_process(memory_mib)
    with Deadline(cpu_s, wall_s):
        try:
            return _JUDGES[grader](*arguments)
        except (MemoryError, RecursionError) as error:
            return None, None, exhausted(type(error))


warm_up()
