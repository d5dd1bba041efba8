"""What the engine's answers are compared by: a number that is none proves nothing, wherever it stands."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from dft_sweeps.evaluation.generator import Canary
from services.engine_canary import differences

CANARY = Canary(((1, 2, 3), (4, 5)), ((-1.0, -2.0), (-3.0,)))


def prompt_answer(prompt: tuple[int, ...], row: tuple[float, ...]) -> Any:
    logprobs = [{token: SimpleNamespace(logprob=value)} for token, value in zip(prompt[1:], row, strict=True)]
    return SimpleNamespace(prompt_logprobs=[None, *logprobs])


def probe_answer(value: float) -> Any:
    return SimpleNamespace(outputs=[SimpleNamespace(logprobs=[{1: SimpleNamespace(logprob=value)}])])


def compared(rows: tuple[tuple[float, ...], ...], cached: float = -4.0, uncached: float = -4.0) -> tuple[float, float]:
    answers = [prompt_answer(prompt, row) for prompt, row in zip(CANARY.prompts, rows, strict=True)]
    return differences(CANARY, [*answers, probe_answer(cached), probe_answer(uncached)])


def test_the_largest_difference_counts() -> None:
    assert compared(CANARY.logprobs) == (0, 0)
    assert compared(((-1.0, -2.25), (-3.5,)), uncached=-5.0) == (0.5, 1)


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_answer_that_is_not_finite_is_as_far_as_can_be(place: int, value: float) -> None:
    first, second, third = (value if index == place else logprob for index, logprob in enumerate((-1.0, -2.0, -3.0)))
    assert not compared(((first, second), (third,)))[0] < math.inf


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_probe_that_is_not_finite_is_as_far_as_can_be(value: float) -> None:
    for probes in ((value, -4.0), (-4.0, value), (value, value)):
        assert not compared(CANARY.logprobs, *probes)[1] < math.inf


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_there_is_no_canary_of_numbers_that_are_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match=r"canary prompt 1: a log-probability of (nan|-inf)"):
        Canary(CANARY.prompts, ((-1.0, -2.0), (value,)))
