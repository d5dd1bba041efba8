from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dft_sweeps.evaluation.metrics import majority_at_k, mean_majority_at_k, mean_pass_at_k, pass_at_k

Votes = list[tuple[str | None, bool]]
RIGHT, ALSO_RIGHT, NONE = ("1/2", True), ("0.5", True), (None, False)

votes = st.lists(st.sampled_from([RIGHT, ALSO_RIGHT, ("1", False), ("2", False), NONE]), min_size=1, max_size=8)


def winner_is_right(drawn: tuple[tuple[str | None, bool], ...]) -> float:
    counts = Counter("right" if correct else answer for answer, correct in drawn if correct or answer is not None)
    best = [answer for answer, count in counts.items() if count == max(counts.values())]
    return ("right" in best) / len(best) if best else 0.0


@given(votes, st.data())
@settings(max_examples=150, deadline=None)
def test_both_equal_the_mean_over_all_subsets(sampled: Votes, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(sampled)))
    subsets = list(combinations(sampled, k))
    assert majority_at_k(sampled, k) == pytest.approx(np.mean([winner_is_right(each) for each in subsets]))
    right = sum(correct for _, correct in sampled)
    solved = np.mean([any(correct for _, correct in each) for each in subsets])
    assert pass_at_k(right, len(sampled), k) == pytest.approx(solved)


def test_golden_values() -> None:
    assert pass_at_k(3, 16, 4) == pytest.approx(1 - 715 / 1820)
    assert mean_pass_at_k([0, 1], [4, 2], 2) == 0.5
    # One right, one wrong: a coin decides. Two spellings of the right answer are two votes.
    assert majority_at_k([RIGHT, ("3", False)], 2) == 0.5
    assert majority_at_k([RIGHT, ALSO_RIGHT, ("3", False)], 3) == 1.0
    assert majority_at_k([NONE, NONE, RIGHT], 3) == 1.0
    assert mean_majority_at_k([[NONE], [RIGHT]], 1) == 0.5


def test_pass_at_k_is_unbiased() -> None:
    rng = np.random.default_rng(3)
    right = rng.binomial(16, 0.2, 40_000)
    assert np.mean([pass_at_k(int(c), 16, 8) for c in right]) == pytest.approx(1 - 0.8**8, abs=0.002)


def test_sixteen_samples_with_different_answers_are_quick() -> None:
    all_different = [("right", True)] * 2 + [(str(i), False) for i in range(14)]
    # Two votes against single ones win; one vote ties with seven others of eight drawn.
    both, one = 3003, 2 * 3432
    assert majority_at_k(all_different, 8) == pytest.approx((both + one / 8) / 12870)


@pytest.mark.parametrize("k", [0, 3])
def test_k_beyond_the_samples_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="from 1 to the 2 samples"):
        pass_at_k(1, 2, k)
    with pytest.raises(ValueError, match="from 1 to the 2 samples"):
        majority_at_k([RIGHT, NONE], k)
