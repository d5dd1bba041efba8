from __future__ import annotations

import typing

import pytest
import torch
from torch import Tensor

from dft_sweeps.objectives import OBJECTIVES, TokenObjective, dft, sft
from dft_sweeps.spec.models import Objective

LOGP = torch.log(torch.tensor([1.0, 0.9, 0.5, 0.1, 1e-6], dtype=torch.float64))


def coefficients(objective: TokenObjective, logp: Tensor) -> Tensor:
    """d(loss)/d(logp) of each token."""
    leaf = logp.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(leaf).sum(), leaf)
    return gradient


def test_sft_is_the_cross_entropy() -> None:
    torch.testing.assert_close(sft(LOGP), -LOGP, rtol=0, atol=0)
    assert coefficients(sft, LOGP).tolist() == [-1.0] * 5


def test_dft_is_the_cross_entropy_times_the_probability() -> None:
    torch.testing.assert_close(dft(LOGP), -LOGP.exp() * LOGP, rtol=1e-15, atol=0)


def test_the_gradient_of_dft_is_that_of_minus_the_probability() -> None:
    """Eq. 13 of arXiv 2508.05629; without the stopped gradient it would be -p (1 + log p)."""
    expected = coefficients(lambda logp: -logp.exp(), LOGP)
    torch.testing.assert_close(coefficients(dft, LOGP), expected, rtol=1e-15, atol=0)
    leaky = coefficients(lambda logp: -logp.exp() * logp, LOGP)
    torch.testing.assert_close(leaky, expected * (1 + LOGP), rtol=1e-12, atol=0)
    assert not torch.allclose(leaky, expected, rtol=1e-2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_token_that_is_certain_or_impossible_gives_finite_numbers(name: str) -> None:
    logp = torch.tensor([0.0, -1e4], dtype=torch.float32)
    assert OBJECTIVES[name](logp).isfinite().all()
    assert coefficients(OBJECTIVES[name], logp).isfinite().all()


def test_every_objective_of_the_spec_has_a_function_and_the_other_way_round() -> None:
    union, _ = typing.get_args(Objective)
    kinds = [typing.get_args(model.model_fields["kind"].annotation)[0] for model in typing.get_args(union)]
    assert sorted(kinds) == sorted(OBJECTIVES)
