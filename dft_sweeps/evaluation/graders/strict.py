"""The strict verdict: answers that can be read are compared by value, math-verify judges the others.

math-verify 0.9 takes 1/2^99 for 1/2^98, 4 for 4√(2) and f(x)=0 for g(x)=0; comparing values to many digits does not.
Only its LaTeX grammar is used: its reading of bare expressions evaluates text. For child processes only.
"""

from __future__ import annotations

import functools
import re

from math_verify import LatexExtractionConfig, parse, verify

from dft_sweeps.evaluation.graders.answers import Answer, Formula, read, same, tidy
from dft_sweeps.evaluation.graders.latex_tree import Continued, TooDeep, Unreadable
from dft_sweeps.evaluation.graders.latex_values import TooLarge, names
from dft_sweeps.evaluation.graders.limits import Watch, exhausted
from dft_sweeps.evaluation.graders.units import with_unit_as_text

LONGEST_ANSWER = 512
"""Longest answer that is compared, in characters."""

_WRAPPED = re.compile(r"\\[a-z]+\{[^{}]*\}")
_SPACING = re.compile(r"[\s{}~]")
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")
_FEWEST_WORDS = 4
"""An unwrapped word more or less may be a unit or a condition; from here on it is prose, which no grammar reads."""

# math-verify caches the patterns of one LaTeX configuration: a second one would compile them every time.
_LATEX = (LatexExtractionConfig(boxed_match_priority=0),)

Outcome = tuple[bool | None, str | None, str]


def grade(gold: str, several: bool, tolerance: float, answer: str) -> Outcome:
    """(correct, extracted answer, reason); `correct` is None where it cannot be said, and the reason says why."""
    if len(answer) > LONGEST_ANSWER:
        return None, None, f"the answer has {len(answer)} characters, more than {LONGEST_ANSWER}"
    try:
        if _same(gold, several, tolerance, answer):
            return True, answer, "equal"
    except (TooLarge, TooDeep) as error:
        return None, answer, str(error)
    except Continued as error:
        return _continued(gold, several, answer, str(error))
    except Unreadable:
        if _is_prose(answer) and not _is_prose(gold):
            return False, answer, "not equal: sentences"
        return _math_verify(gold, several, answer)
    return False, answer, "not equal"


def _continued(gold: str, several: bool, answer: str, reason: str) -> Outcome:
    """A gold with more than a unit behind its formula is met by the same spelling only, and else cannot be compared."""
    try:
        _gold(gold, several)
    except Continued:
        if _SPACING.sub("", tidy(gold, several)) == _SPACING.sub("", tidy(answer, several)):
            return True, answer, "equal"
        return None, answer, f"the benchmark's answer {gold!r} is not read: {reason}"
    return False, answer, f"not equal: {reason}"


def _is_prose(answer: str) -> bool:
    return len(_WORD.findall(_WRAPPED.sub("", answer))) >= _FEWEST_WORDS


def _same(gold: str, several: bool, tolerance: float, answer: str) -> bool:
    expected = _gold(gold, several)
    if isinstance(expected, Formula) and not names(expected.tree):
        answer = with_unit_as_text(tidy(answer)) or answer
    if not several:
        return same(expected, read(answer), tolerance)
    # Commas may separate answers or thousands.
    return same(expected, read(answer, several=True), tolerance) or same(expected, read(answer), tolerance)


@functools.lru_cache(maxsize=4096)
def _gold(gold: str, several: bool) -> Answer:
    return read(gold, several)


def _math_verify(gold: str, several: bool, answer: str) -> Outcome:
    """math-verify's verdict; a wrong answer is judged twice, the second time watched for swallowed exhaustion."""
    try:
        outcome = _verified(gold, several, answer)
        if outcome[0] is not False:
            return outcome
        with Watch() as watch:
            outcome = _verified(gold, several, answer)
    except (MemoryError, RecursionError) as error:
        return None, answer, exhausted(type(error))
    return outcome if watch.exhausted is None else (None, answer, watch.exhausted)


def _verified(gold: str, several: bool, answer: str) -> Outcome:
    golds = parse(f"\\boxed{{{tidy(gold, several)}}}", _LATEX, parsing_timeout=None)
    if not golds or isinstance(golds[0], str):
        return None, answer, f"the benchmark's answer {gold!r} does not parse"
    found = parse(f"\\boxed{{{tidy(answer, several)}}}", _LATEX, parsing_timeout=None)
    if verify(golds, found, timeout_seconds=None):
        return True, answer, "equal"
    readable = any(not isinstance(each, str) for each in found)
    return False, answer, "not equal" if readable else "not equal: no formula, number or words"
