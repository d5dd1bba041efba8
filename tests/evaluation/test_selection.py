from __future__ import annotations

import random

import numpy as np
import pytest

from dft_sweeps.evaluation.selection import held_out, selection_bias

IDS = [str(index) for index in range(500)]


def test_the_split_is_the_same_everywhere_and_for_ever() -> None:
    assert held_out("aime24", [str(index) for index in range(8)], 0.4) == GOLDEN
    shuffled = random.Random(0).sample(IDS, len(IDS))
    assert held_out("math500", IDS, 0.2) == held_out("math500", shuffled, 0.2)
    assert held_out("math500", IDS, 0.2) != held_out("minerva_math", IDS, 0.2)


GOLDEN = frozenset({"1", "4", "6"})


@pytest.mark.parametrize("questions", [2, 3, 30, 40, 272, 500])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_as_many_as_the_share_says(questions: int, share: float) -> None:
    found = held_out("math500", IDS[:questions], share)
    assert abs(len(found) - share * questions) <= 1
    assert 1 <= len(found) <= questions - 1
    assert found <= set(IDS[:questions])


def test_a_larger_share_holds_out_the_same_questions_and_more() -> None:
    assert held_out("math500", IDS, 0.2) < held_out("math500", IDS, 0.3)


def test_the_split_says_nothing_of_the_questions() -> None:
    """Of an ordered benchmark as many of each tenth are held out as chance would (chi-square of 9 degrees < 27.9)."""
    taken = np.array([question in held_out("math500", IDS, 0.4) for question in IDS]).reshape(10, 50).sum(axis=1)
    assert ((taken - 20) ** 2 / (50 * 0.4 * 0.6)).sum() < 27.9


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        held_out("math500", IDS, share)


def test_one_question_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        held_out("math500", ["0"], 0.5)


def test_choosing_on_held_out_questions_removes_the_bias_that_the_formula_bounds() -> None:
    """Equally good checkpoints: the best of m on 200 questions is too high, by less than the formula and by more than
    half of it; chosen on 200 other questions it is not."""
    rng = np.random.default_rng(0)
    chance, error = 0.4, np.sqrt(0.4 * 0.6 / 200)
    assert selection_bias(error, 1) == 0
    for candidates in (4, 8, 40):
        measured, chosen_on = rng.binomial(200, chance, (2, 4000, candidates)) / 200
        bias = measured.max(axis=1).mean() - chance
        assert 0.5 * selection_bias(error, candidates) < bias < selection_bias(error, candidates)
        honest = measured[np.arange(4000), chosen_on.argmax(axis=1)].mean() - chance
        assert abs(honest) < 4 * error / np.sqrt(4000)
