from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from dft_sweeps.spec.models import ScheduleSpec
from dft_sweeps.training.optimizer import adamw, learning_rate
from tests.training.tiny_policy import train_spec

PEAK = 2.0


def rates(steps: int, kind: str, warmup_ratio: float) -> list[float]:
    schedule = ScheduleSpec.model_validate({"kind": kind, "warmup_ratio": warmup_ratio})
    return [learning_rate(step, steps, PEAK, schedule) for step in range(1, steps + 1)]


def test_golden_cosine_with_warm_up() -> None:
    """Up to the peak on the last step of the warm-up, then (1 + cos(pi k / 8)) / 2 of it for k = 0 .. 7."""
    falling = [1.0, 0.9619397663, 0.8535533906, 0.6913417162, 0.5, 0.3086582838, 0.14644660941, 0.0380602337442]
    expected = [0.5, 1.0, *falling]
    assert rates(10, "cosine", 0.2) == pytest.approx([PEAK * value for value in expected], rel=1e-9)


def test_golden_constant_with_warm_up() -> None:
    assert rates(6, "constant", 0.5) == pytest.approx([PEAK / 3, PEAK * 2 / 3, PEAK, PEAK, PEAK, PEAK], rel=1e-15)


def test_no_warm_up_starts_at_the_peak_and_only_warm_up_ends_there() -> None:
    assert rates(4, "cosine", 0.0)[0] == PEAK
    assert rates(4, "cosine", 1.0) == [PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK]
    assert rates(1, "cosine", 0.1) == [PEAK]


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from(["cosine", "constant"]))
def test_rates_are_positive_reach_the_peak_and_fall_only_after_it(steps: int, warmup: float, kind: str) -> None:
    found = rates(steps, kind, warmup)
    top = found.index(max(found))
    assert max(found) == PEAK and min(found) > 0
    assert found[: top + 1] == sorted(found[: top + 1]) and found[top:] == sorted(found[top:], reverse=True)


@given(st.integers(1, 100), st.integers(1, 1000))
@example(29, 100)
def test_a_warm_up_written_in_hundredths_has_the_steps_it_says(percent: int, hundreds: int) -> None:
    found = rates(hundreds, "constant", percent / 100)
    assert found.index(PEAK) + 1 == max(percent * hundreds // 100, 1)


def test_two_steps_of_adamw_equal_the_formula_in_float64() -> None:
    """Loshchilov and Hutter: decoupled decay, then the bias-corrected moments; on matrices and vectors alike."""
    settings = train_spec(learning_rate=0.1, optimizer={"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1})
    random = torch.Generator().manual_seed(0)
    layer = nn.Linear(5, 3)
    optimizer = adamw(layer.parameters(), settings)
    weights = {name: parameter.detach().double() for name, parameter in layer.named_parameters()}
    first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for step in (1, 2):
        for name, parameter in layer.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
            gradient = parameter.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.95 * second[name] + 0.05 * gradient**2
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.95**step)
            weights[name] = weights[name] * (1 - 0.1 * 0.1) - 0.1 * mean / (square.sqrt() + 1e-8)
        optimizer.step()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), weights[name], rtol=1e-5, atol=1e-6)
    assert math.isclose(optimizer.param_groups[0]["weight_decay"], 0.1) and len(optimizer.param_groups) == 1
