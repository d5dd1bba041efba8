"""The head on input that is empty, extreme or not a number: zeros for nothing, a sum that says so for the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dft_sweeps.data.packing import IGNORE
from dft_sweeps.objectives import make_objective
from dft_sweeps.training.head import HeadSums, objective_sums
from tests.objectives.formulas import CASES, Case
from tests.training.test_head import VOCABULARY, WIDTH, dense_gradients, made, problem
from tests.training.tiny_policy import relative_error

ALL = pytest.mark.parametrize("case", CASES, ids=str)


def sums_of(case: Case, hidden: Tensor, weight: Tensor, labels: list[int]) -> HeadSums:
    """Sums in one sample, scale 1; reference and older policy give each target probability 1/2."""
    columns = dict.fromkeys(("reference_logp", "old_logp"), torch.full((len(labels),), 0.5).log())
    nothing = torch.zeros(len(labels), dtype=torch.int64)
    reference = (torch.zeros(len(labels), 1), torch.zeros(len(weight), 1))
    return objective_sums(
        hidden, weight, torch.tensor(labels), made(case), torch.ones(len(labels)), nothing, columns, reference
    )


@ALL
def test_a_batch_without_targets_gives_zeros_and_zero_gradients(case: Case) -> None:
    given = problem()
    none = torch.zeros(0)
    empty = replace(
        given,
        labels=torch.full_like(given.labels, IGNORE),
        scale=none,
        sample=none.long(),
        columns={"reference_logp": none, "old_logp": none},
    )
    sums = empty.sums(made(case))
    sums.objective.backward()
    assert [value.item() for value in sums] == [0.0] * 5
    assert given.hidden.grad is not None and not given.hidden.grad.any()
    assert given.weight.grad is not None and not given.weight.grad.any()


@ALL
def test_one_target(case: Case) -> None:
    given = problem()
    first = int((given.labels != IGNORE).nonzero()[0])
    labels = torch.full_like(given.labels, IGNORE)
    labels[first] = given.labels[first]
    one = replace(
        given,
        labels=labels,
        scale=given.scale[:1],
        sample=given.sample[:1],
        old=given.old[:1],
        columns={name: column[:1] for name, column in given.columns.items()},
    )
    found = torch.autograd.grad(one.sums(made(case)).objective, (given.hidden, given.weight))
    for gradient, dense in zip(found, dense_gradients(case, one)[1], strict=True):
        assert (gradient - dense).norm() <= 1e-5 * dense.norm() + 1e-12


@ALL
def test_extreme_logits_give_numbers(case: Case) -> None:
    """Logits of +-1e4: probabilities are exactly 0 or 1 in float32."""
    hidden = torch.tensor([[1e4], [-1e4], [1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    sums = sums_of(case, hidden, weight, [0, 0, 2])  # certain, impossible, impossible
    sums.objective.backward()
    assert all(value.isfinite() for value in sums)
    assert (sums.nll.item(), sums.probability.item(), sums.entropy.item()) == (25_000.0, 1.0, 0.0)
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad.isfinite().all() and weight.grad.isfinite().all()
    # d(loss)/d(hidden) = coefficient * (w_target - w_likeliest)
    if str(case) in ("sft", "dft"):
        slope = 0.0 if case.kind == "dft" else 1.0
        assert hidden.grad.flatten().tolist() == [0.0, slope * -2.0, slope * 0.5]


@ALL
@pytest.mark.parametrize(
    ("hidden", "weight"),
    [
        pytest.param([1.0, 1.0], [3e38, -3e38, 0.0], id="probability zero"),
        pytest.param([1.0, 1e30], [-3e38, -3e38, -3e38], id="all logits minus infinity"),
        pytest.param([1.0, 1e30], [3e38, 1.0, 0.0], id="a logit infinite"),
        pytest.param([1.0, float("nan")], [1.0, 2.0, 3.0], id="not a number"),
    ],
)
def test_what_has_no_finite_loss_has_a_sum_that_is_not_finite(
    case: Case, hidden: list[float], weight: list[float]
) -> None:
    """Whatever the objective: where it is itself finite at probability zero, the NLL beside it is not."""
    states = torch.tensor(hidden)[:, None].requires_grad_()
    sums = sums_of(case, states, torch.tensor(weight)[:, None], [0, 1])
    assert not torch.stack(sums[:2]).isfinite().all()


def test_a_word_of_log_probability_minus_infinity_that_is_not_the_target_adds_no_entropy() -> None:
    """0 log 0 is 0, not NaN."""
    hidden = torch.ones(1, 1, requires_grad=True)
    weight = torch.tensor([[3e38], [-3e38]], requires_grad=True)
    for case in CASES:
        hidden.grad = None
        sums = sums_of(case, hidden, weight, [0])
        sums.objective.backward()
        assert [value.item() for value in sums[1:4]] == [0.0, 1.0, 0.0], case
        assert sums.objective.isfinite() or case.kind == "asft"  # KL(policy || reference) is finite, the other is not
        assert hidden.grad is not None and (case.kind == "asft" or hidden.grad.item() == 0.0)


@pytest.mark.parametrize("vocabulary", [2, 3, 20, 131, 8193])
@pytest.mark.parametrize("kind", ["eaft", "asft"])
def test_vocabularies_of_any_size(vocabulary: int, kind: str) -> None:
    """Fewer words than EAFT looks at; sizes that no chunk or tile divides."""
    given = problem(9, dtype=torch.float64, vocabulary=vocabulary)
    case = next(case for case in CASES if case.kind == kind)
    found = torch.autograd.grad(given.sums(made(case)).objective, (given.hidden, given.weight))
    for gradient, dense in zip(found, dense_gradients(case, given)[1], strict=True):
        assert relative_error(gradient, dense) <= 1e-12


@ALL
@pytest.mark.parametrize("kept_in", [torch.float32, torch.bfloat16])
def test_bfloat16_hidden_states(case: Case, kept_in: torch.dtype) -> None:
    given = problem(seed=2)  # no target so near a bound that rounding carries it over
    hidden = given.hidden.detach().bfloat16().requires_grad_()
    weight = given.weight.detach().to(kept_in).requires_grad_()
    reference = (given.reference[0].bfloat16(), given.reference[1].to(kept_in))
    narrow = replace(given, hidden=hidden, weight=weight, reference=reference)
    sums = narrow.sums(made(case), chunk=8)
    sums.objective.backward()
    objective, expected = dense_gradients(case, narrow)
    assert hidden.grad is not None and weight.grad is not None
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, kept_in)
    assert all(value.dtype == torch.float32 for value in sums)
    assert sums.objective.item() == pytest.approx(objective.item(), rel=2e-2)
    assert relative_error(hidden.grad, expected[0]) <= 2e-2
    assert relative_error(weight.grad, expected[1]) <= 2e-2


def test_the_matrix_gradient_of_many_bfloat16_chunks_does_not_stall() -> None:
    """A sum kept in bfloat16 stops growing at 256 equal terms."""
    copies = 1500
    hidden, weight = torch.ones(copies, 1).bfloat16(), torch.zeros(2, 1).bfloat16().requires_grad_()
    scale, sample = torch.ones(copies), torch.zeros(copies, dtype=torch.int64)
    labels = torch.zeros(copies, dtype=torch.int64)
    objective_sums(hidden, weight, labels, make_objective("sft"), scale, sample, {}, chunk=1).objective.backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.float(), torch.tensor([[-0.5], [0.5]]) * copies, rtol=1e-2, atol=0)
    stalled = torch.zeros(1).bfloat16()
    for _ in range(copies):
        stalled += 0.5
    assert stalled.item() < 0.5 * copies / 2


def test_float64_stays_float64() -> None:
    given = problem(dtype=torch.float64)
    sums = given.sums(make_objective("power", alpha=0.5))
    assert all(value.dtype == torch.float64 for value in sums)


def test_a_row_term_wants_a_reference_of_the_same_vocabulary() -> None:
    given = problem()
    with pytest.raises(AssertionError, match="needs the reference"):
        objective_sums(given.hidden, given.weight, given.labels, make_objective("asft"), given.scale, given.sample, {})
    with pytest.raises(AssertionError, match="different vocabularies"):
        replace(given, reference=(given.reference[0], torch.zeros(VOCABULARY + 1, WIDTH + 1))).sums(
            make_objective("asft")
        )
