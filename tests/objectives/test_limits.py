"""Where objectives meet: their limits, for any log-probabilities."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dft_sweeps.objectives import Targets, make_objective

logps = st.lists(st.floats(-30, 0, width=32), min_size=1, max_size=8).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


def loss_and_slope(logp: Tensor, kind: str, fields: dict[str, Any] | None = None, **given: Tensor) -> list[Tensor]:
    leaf = logp.clone().requires_grad_()
    losses = make_objective(kind, **(fields or {})).loss(Targets(leaf, torch.arange(len(logp)) // 2, **given))
    return [losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=1e-300)


@settings(deadline=None)
@given(logps)
def test_power_of_zero_is_sft(logp: Tensor) -> None:
    assert_same(loss_and_slope(logp, "power", {"alpha": 0.0}), loss_and_slope(logp, "sft"), 0.0)
    assert_same(loss_and_slope(logp, "power", {"alpha": 1e-12}), loss_and_slope(logp, "sft"), 1e-10)


@settings(deadline=None)
@given(logps)
def test_power_of_one_has_the_gradient_of_dft(logp: Tensor) -> None:
    found, expected = loss_and_slope(logp, "power", {"alpha": 1.0})[1], loss_and_slope(logp, "dft")[1]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@settings(deadline=None)
@given(logps, st.floats(0, 4), st.floats(0, 4))
def test_the_larger_the_power_the_less_an_unlikely_token_counts(logp: Tensor, one: float, other: float) -> None:
    weak, strong = (-loss_and_slope(logp, "power", {"alpha": alpha})[1] for alpha in sorted((one, other)))
    assert (strong <= weak + 1e-12).all()


@settings(deadline=None)
@given(logps)
def test_focal_of_zero_is_sft(logp: Tensor) -> None:
    assert_same(loss_and_slope(logp, "focal", {"gamma": 0.0}), loss_and_slope(logp, "sft"))


@settings(deadline=None)
@given(logps)
def test_iw_sft_at_the_reference_is_sft(logp: Tensor) -> None:
    for fields in ({"level": "token"}, {}, {"temperature": 2.0}):
        assert_same(loss_and_slope(logp, "iw_sft", fields, reference_logp=logp), loss_and_slope(logp, "sft"))


@settings(deadline=None)
@given(logps)
def test_psft_at_the_old_policy_has_the_gradient_of_sft(logp: Tensor) -> None:
    losses, slope = loss_and_slope(logp, "psft", old_logp=logp)
    assert losses.tolist() == [-1.0] * len(logp)
    torch.testing.assert_close(slope, loss_and_slope(logp, "sft")[1])


@settings(deadline=None)
@given(logps, st.floats(0, 3))
def test_eaft_with_even_choices_or_of_power_zero_is_sft(logp: Tensor, alpha: float) -> None:
    even = torch.full_like(logp, 20.0).log()
    assert_same(loss_and_slope(logp, "eaft", {"alpha": alpha}, top_entropy=even), loss_and_slope(logp, "sft"))
    some = torch.linspace(0, 2, len(logp), dtype=logp.dtype)
    assert_same(loss_and_slope(logp, "eaft", {"alpha": 0.0}, top_entropy=some), loss_and_slope(logp, "sft"))


@settings(deadline=None)
@given(logps)
def test_sentence_weighting_of_one_token_is_dft(logp: Tensor) -> None:
    for mean in ("none", "geometric"):
        for value in logp:
            fields = {"mean": mean}
            alone = value[None]
            assert_same(loss_and_slope(alone, "sentence_weighted", fields), loss_and_slope(alone, "dft"))


@settings(deadline=None)
@given(logps)
def test_thresholds_that_let_everything_pass_change_nothing_and_two_halves_make_the_whole(logp: Tensor) -> None:
    for kind in ("sft", "dft"):
        whole = loss_and_slope(logp, kind)
        assert_same(loss_and_slope(logp, kind, {"min_probability": 0.0, "max_probability": 1.0}), whole, 0.0)
        low = loss_and_slope(logp, kind, {"max_probability": 0.3})
        high = loss_and_slope(logp, kind, {"min_probability": 0.3})
        if not (logp.exp() == 0.3).any():
            assert_same([a + b for a, b in zip(low, high, strict=True)], whole, 0.0)
