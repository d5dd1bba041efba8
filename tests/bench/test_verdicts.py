from __future__ import annotations

import numpy as np
import pytest

from tests.bench.adaptive import errors, row_of, table_of
from tests.bench.verdicts import FIXED, Sampled, null_replays, replay, replays, summary

SAMPLES = 64


def policy(accuracy: float, seed: int, questions: int = 50, samples: int = SAMPLES) -> Sampled:
    random = np.random.default_rng(seed)
    shape = (questions, samples)
    return Sampled(random.random(shape) < accuracy, random.integers(10, 60, shape))


def test_tokens_are_those_of_the_samples_given_out() -> None:
    """Sure after two samples: one cannot show its own noise, and at two no question disagrees."""
    right = np.ones((50, FIXED), dtype=bool)
    tokens = np.arange(50 * FIXED).reshape(50, FIXED)
    found = replay(Sampled(right, tokens), Sampled(~right, tokens))
    taken = next(taken for taken in range(1, FIXED + 1) if 2 * tokens[:, :taken].sum() == found.tokens)
    assert taken <= 2
    assert (found.verdict, found.fixed_verdict) == ("above", "above")
    assert found.fixed_tokens == 2 * tokens.sum()


def test_without_a_verdict_all_samples_are_spent() -> None:
    same = policy(0.5, seed=0, samples=FIXED)
    found = replay(same, same)
    assert (found.verdict, found.fixed_verdict) == (None, None)
    assert found.tokens == found.fixed_tokens


def test_the_verdict_turns_with_the_sides() -> None:
    better, worse = policy(0.95, seed=1), policy(0.7, seed=2)
    assert {each.verdict for each in replays(better, worse, 10, seed=0)} == {"above"}
    assert {each.verdict for each in replays(worse, better, 10, seed=0)} == {"below"}


def test_a_draw_keeps_samples_and_their_tokens_together() -> None:
    source = policy(0.5, seed=3)
    source = Sampled(source.right, source.tokens * 2 + source.right)
    drawn = source.drawn(np.random.default_rng(0), np.arange(SAMPLES))
    assert drawn.right.shape == (50, FIXED)
    assert np.array_equal(drawn.tokens % 2 == 1, drawn.right)
    for row, everything in zip(drawn.tokens, source.tokens, strict=True):
        assert np.isin(row, everything).all()


def test_a_policy_is_rarely_above_itself() -> None:
    found = null_replays(policy(0.8, seed=4), 200, seed=0)
    wrong = sum(each.verdict is not None for each in found)
    assert wrong <= 20  # 5% of 200, and six standard deviations of luck
    assert errors(found).startswith(f"{wrong} wrong verdicts in 200")


def test_the_two_sides_of_the_null_share_no_sample() -> None:
    """A policy whose every other sample is right is above itself only if the halves were drawn so."""
    right = np.tile(np.arange(SAMPLES) < SAMPLES // 2, (50, 1))
    tokens = np.tile(np.arange(SAMPLES), (50, 1))
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr("tests.bench.verdicts.replay", lambda a, b: seen.append((a.tokens, b.tokens)))
        null_replays(Sampled(right, tokens), 5, seed=0)
    for a, b in seen:
        assert not np.intersect1d(a, b).size


def test_a_summary_counts_lists_played_side_by_side() -> None:
    lists = {"easy": (policy(0.99, 5), policy(0.5, 6)), "hard": (policy(0.8, 7), policy(0.8, 7))}
    played = {name: replays(*sides, 20, seed=0) for name, sides in lists.items()}
    found = summary(played)
    assert found["by_list"]["easy"] < 0.25 < found["by_list"]["hard"]
    total = np.mean([each.fixed_tokens for replays in played.values() for each in replays]) * 2
    assert found["fixed_tokens"] == pytest.approx(total)
    assert found["tokens"] / found["fixed_tokens"] == pytest.approx(np.mean(list(found["by_list"].values())), rel=0.05)
    assert found["opposite"] == 0


def test_the_row_is_made_of_all_three_benchmarks() -> None:
    names = ("arithmetic_1", "arithmetic_2", "arithmetic_3")
    found = {
        kind: {name: policy(accuracy, seed=10 * at + index) for index, name in enumerate(names)}
        for at, (kind, accuracy) in enumerate({"dft": 0.95, "sft": 0.7}.items())
    }
    draft = {"name": "adaptive_tokens_to_verdict", "peer_name": "fixed", "unit": "tokens", "detail": "policies"}
    row = row_of(draft, found, times=5)
    assert row.ratio is not None and row.ratio < 0.5
    assert row.peer == pytest.approx(2 * 150 * FIXED * 34.5, rel=0.02)
    assert all(name in row.detail for name in names)


def test_a_table_is_verdicts_and_tokens_by_question() -> None:
    found = table_of([[[True, 3], [False, 4]], [[False, 5], [True, 6]], [[True, 7], [True, 8]]])
    assert found.right.tolist() == [[True, False], [False, True], [True, True]]
    assert found.tokens.tolist() == [[3, 4], [5, 6], [7, 8]]
