from __future__ import annotations

import math
import typing

import pytest
import torch
from torch import Tensor

from dft_sweeps.objectives import OBJECTIVES, Targets, dft, make_objective, sft
from dft_sweeps.objectives.token import eaft, focal, power
from dft_sweeps.spec.models import Objective
from tests.objectives.formulas import CASES, Case, Rows, random_rows


def losses_of(case: Case, rows: Rows) -> Tensor:
    """The package's losses from the same rows, with autograd to the logits for all but the row term."""
    objective = make_objective(case.kind, **case.fields)
    tokens = range(len(rows.labels))
    logp, reference, old = (
        logits.log_softmax(-1)[tokens, rows.labels] for logits in (rows.logits, rows.reference, rows.old)
    )
    top = rows.logits.topk(min(objective.entropy_top or 1, rows.logits.shape[-1])).values.log_softmax(-1)
    given = {"top_entropy": -(top.exp() * top).sum(-1), "reference_logp": reference, "old_logp": old}
    needed = {name: given[name] for name in objective.needs}
    losses = objective.loss(Targets(logp, rows.sample, **needed))
    if objective.row_term is not None:
        values, gradient = objective.row_term.values_and_gradient(
            rows.logits.detach().log_softmax(-1), rows.reference.log_softmax(-1)
        )
        surrogate = (gradient * rows.logits).sum(-1)  # has this gradient
        losses = losses + objective.row_term.weight * (values + surrogate - surrogate.detach())
    return losses


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 2), (40, 30), (40, 7)])
def test_value_and_gradient_are_those_of_the_published_formula(case: Case, tokens: int, vocabulary: int) -> None:
    rows = random_rows(tokens, vocabulary)
    factors = torch.linspace(-1, 2, tokens, dtype=torch.float64)  # so that each token's gradient counts on its own
    found, expected = losses_of(case, rows), case.losses(rows)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)
    gradients = [torch.autograd.grad((losses * factors).sum(), rows.logits)[0] for losses in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-14)


def test_every_kind_of_the_spec_has_a_factory_that_takes_its_fields() -> None:
    union, _ = typing.get_args(Objective)
    required = {"power": {"alpha": 0.5}}
    kinds = []
    for model in typing.get_args(union):
        (kind,) = typing.get_args(model.model_fields["kind"].annotation)
        kinds.append(kind)
        make_objective(**model(kind=kind, **required.get(kind, {})).model_dump())
    assert sorted(kinds) == sorted(OBJECTIVES) == sorted({case.kind for case in CASES})


def test_the_head_is_told_what_an_objective_needs() -> None:
    assert make_objective("dft").needs == frozenset() and not make_objective("dft").whole_samples
    assert make_objective("eaft", top=7).entropy_top == 7
    assert make_objective("eaft").needs == {"top_entropy"}
    assert make_objective("psft").needs == {"old_logp"}
    assert make_objective("iw_sft").needs == make_objective("iw_sft", level="token").needs == {"reference_logp"}
    assert make_objective("iw_sft").whole_samples and not make_objective("iw_sft", level="token").whole_samples
    assert make_objective("sentence_weighted").whole_samples
    assert make_objective("asft", beta=0.2).row_term.weight == 0.2  # type: ignore[union-attr]
    assert [kind for kind in OBJECTIVES if kind != "power" and make_objective(kind).row_term] == ["asft"]


def coefficients(losses: Tensor, logp: Tensor) -> Tensor:
    return torch.autograd.grad(losses.sum(), logp)[0]


def test_the_gradient_of_dft_is_that_of_minus_the_probability() -> None:
    """Eq. 13 of arXiv 2508.05629."""
    logp = torch.log(torch.tensor([1.0, 0.9, 0.5, 0.1, 1e-6], dtype=torch.float64)).requires_grad_()
    torch.testing.assert_close(coefficients(dft(logp), logp), coefficients(-logp.exp(), logp), rtol=1e-15, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-11)])
def test_power_has_the_gradient_of_minus_p_to_the_alpha_however_small_it_is(
    dtype: torch.dtype, tolerance: float
) -> None:
    logp = torch.linspace(-12, 0, 50, dtype=dtype).requires_grad_()
    for alpha in (1e-30, 1e-8, 1e-3, 0.5, 1.0):
        expected = -(alpha * logp.detach().double()).exp()
        found = coefficients(power(logp, alpha), logp)
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)


def test_power_at_a_tiny_alpha_is_the_cross_entropy_in_float32() -> None:
    """(1 - p ** alpha) / alpha as it stands is 0 there: p ** alpha rounds to 1."""
    logp = torch.tensor([-0.01, -3.0, -20.0])
    torch.testing.assert_close(power(logp, 1e-9), -logp, rtol=1e-6, atol=0)
    assert not torch.allclose((1 - logp.exp() ** 1e-9) / 1e-9, -logp, rtol=0.5)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_focal_has_a_finite_gradient_at_a_certain_token(gamma: float) -> None:
    """By the chain rule it is infinity times zero there for gamma < 1."""
    logp = torch.tensor([0.0, -1e-7], requires_grad=True)
    found = coefficients(focal(logp, gamma), logp)
    assert found.isfinite().all() and (found <= 0).all()


def test_eaft_of_an_even_choice_among_the_top_is_sft_and_of_a_certain_one_is_nothing() -> None:
    logp = torch.tensor([-1.0, -5.0])
    torch.testing.assert_close(eaft(logp, torch.full((2,), math.log(20)), 1.0, 20), sft(logp))
    assert eaft(logp, torch.zeros(2), 1.0, 20).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_token_that_is_certain_or_all_but_impossible_gives_finite_numbers(case: Case) -> None:
    logp = torch.tensor([0.0, 1e-7, -1e4], requires_grad=True)  # rounding can put log p above 0
    objective = make_objective(case.kind, **case.fields)
    others = dict.fromkeys(objective.needs, torch.tensor([0.0, -200.0, -1e-3]))
    others |= {"top_entropy": torch.tensor([0.0, 2.0, 1.0])} if "top_entropy" in objective.needs else {}
    losses = objective.loss(Targets(logp, torch.tensor([0, 1, 1]), **others))
    assert losses.isfinite().all()
    assert coefficients(losses, logp).isfinite().all()


def test_no_targets_give_no_losses() -> None:
    none = torch.zeros(0, requires_grad=True)
    for case in CASES:
        objective = make_objective(case.kind, **case.fields)
        losses = objective.loss(
            Targets(none, torch.zeros(0, dtype=torch.int64), **dict.fromkeys(objective.needs, none.detach()))
        )
        assert losses.shape == (0,)
        assert torch.autograd.grad(losses.sum(), none)[0].shape == (0,)
