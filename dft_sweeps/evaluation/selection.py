"""The split of a benchmark's questions into those that choose a trial or a step and those that report on it.

A number that was the highest of several on the questions that measure it is too high; chosen on other questions it is
not. The split depends on names and ids alone, so that every checkpoint, trial and sweep has the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import log, sqrt


def held_out(benchmark: str, question_ids: Sequence[str], share: float) -> frozenset[str]:
    """The questions held out for selection: those with the round(share x n) smallest SHA-256 of name and id.

    At least one is held out and one is not. Question ids are distinct.

    Raises:
        ValueError: a share outside (0, 1), or fewer than two questions.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of questions held out must lie between 0 and 1, got {share}")
    if len(question_ids) < 2:
        raise ValueError(f"{benchmark}: {len(question_ids)} questions cannot be split into two parts")
    count = min(max(round(share * len(question_ids)), 1), len(question_ids) - 1)
    return frozenset(sorted(question_ids, key=lambda id_: _rank(benchmark, id_))[:count])


def selection_bias(standard_error: float, candidates: int) -> float:
    """How far the highest of several measurements lies above its true value on average, at most (for equally good
    candidates with independent normal errors): SE sqrt(2 ln m)."""
    return standard_error * sqrt(2 * log(candidates))


def _rank(benchmark: str, question_id: str) -> bytes:
    # The length keeps ("a", "bc") and ("ab", "c") apart.
    return hashlib.sha256(f"{len(benchmark)} {benchmark} {question_id}".encode()).digest()
