from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dft_sweeps.data.packing import IGNORE
from dft_sweeps.objectives import Objective, make_objective
from dft_sweeps.training.head import HeadSums, objective_sums
from tests.objectives.formulas import CASES, Case, Rows
from tests.training.tiny_policy import relative_error

TOKENS, WIDTH, VOCABULARY = 37, 16, 53


@dataclass(frozen=True)
class Problem:
    """A micro-batch for the head, a third of its positions masked; the reference has a width of its own."""

    hidden: Tensor
    weight: Tensor
    labels: Tensor
    scale: Tensor
    sample: Tensor
    reference: tuple[Tensor, Tensor]
    old: Tensor  # minus the policy's logits, [targets, vocabulary]
    columns: Mapping[str, Tensor]

    def logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Of the targets, [targets, vocabulary], float64."""
        return hidden.double().flatten(0, -2)[self.labels.flatten() != IGNORE] @ weight.double().T

    def rows(self, logits: Tensor) -> Rows:
        """The same for the formulas of the papers."""
        labels = self.labels.flatten()
        old = logits.detach() + self.old
        return Rows(logits, labels[labels != IGNORE], self.sample, self.logits(*self.reference), old)

    def sums(self, objective: Objective, chunk: int | None = None) -> HeadSums:
        reference = self.reference if objective.row_term else None
        return objective_sums(
            self.hidden, self.weight, self.labels, objective, self.scale, self.sample, self.columns, reference, chunk
        )


def problem(
    tokens: int = TOKENS,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    width: int = WIDTH,
    vocabulary: int = VOCABULARY,
) -> Problem:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    labels = torch.randint(vocabulary, (tokens,), generator=random)
    labels[torch.rand(tokens, generator=random) < 1 / 3] = IGNORE
    targets = int((labels != IGNORE).sum())
    hidden, weight = normal(tokens, width), normal(vocabulary, width) * 0.5
    given = Problem(
        hidden=hidden.requires_grad_(),
        weight=weight.requires_grad_(),
        labels=labels,
        scale=torch.rand(targets, generator=random) / 29,
        sample=torch.arange(targets) // 3,
        reference=(normal(tokens, width + 1), normal(vocabulary, width + 1) * 0.4),
        old=0.3 * normal(targets, vocabulary).double(),
        columns={},
    )
    rows = given.rows(given.logits(hidden, weight).detach())
    return replace(given, columns={"reference_logp": rows.q.log(), "old_logp": rows.probability(rows.old).log()})


def dense_gradients(case: Case, given: Problem) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The objective and its gradients by hidden states and matrix, by autograd over all logits in float64."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in (given.hidden, given.weight)]
    objective = (case.losses(given.rows(given.logits(*leaves))) * given.scale).sum()
    return objective.detach(), torch.autograd.grad(objective, leaves)


def named(name: str) -> Case:
    (case,) = (case for case in CASES if str(case) == name)
    return case


def made(case: Case) -> Objective:
    return make_objective(case.kind, **case.fields)


@pytest.mark.parametrize("chunk", [1, 7, None])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_value_and_gradients_are_those_of_the_papers_formula_by_dense_autograd(
    case: Case, chunk: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    given = problem(dtype=dtype)
    sums = given.sums(made(case), chunk)
    sums.objective.backward()
    objective, expected = dense_gradients(case, given)
    found = (given.hidden.grad, given.weight.grad)
    assert found[0] is not None and found[1] is not None
    assert sums.objective.dtype == found[0].dtype == found[1].dtype == dtype
    assert sums.objective.item() == pytest.approx(objective.item(), rel=tolerance, abs=tolerance)
    assert relative_error(found[0], expected[0]) <= tolerance
    assert relative_error(found[1], expected[1]) <= tolerance
    assert not found[0][given.labels == IGNORE].any()


@given(
    tokens=st.integers(0, 6),
    width=st.integers(1, 5),
    vocabulary=st.integers(2, 9),
    chunk=st.integers(1, 8),
    seed=st.integers(0, 1000),
    case=st.sampled_from(CASES),
)
@settings(max_examples=150, deadline=None)
def test_gradients_equal_dense_autograd_in_any_shape(
    tokens: int, width: int, vocabulary: int, chunk: int, seed: int, case: Case
) -> None:
    """Also with fewer words than EAFT looks at."""
    given = problem(tokens, seed, torch.float64, width, vocabulary)
    if len(given.scale) == 0:
        return
    found = torch.autograd.grad(given.sums(made(case), chunk).objective, (given.hidden, given.weight))
    for gradient, dense in zip(found, dense_gradients(case, given)[1], strict=True):
        assert (gradient - dense).norm() <= 1e-9 * max(dense.norm().item(), 1.0)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("sft", {}), ("focal", {}), ("power", {"alpha": 0.3}), ("psft", {}), ("asft", {"beta": 1e6})],
)  # the stopped gradients of the others, finite differences cannot see; this beta leaves nothing of one
def test_gradients_equal_finite_differences(kind: str, fields: dict[str, float]) -> None:
    given = problem(5, dtype=torch.float64)
    objective = make_objective(kind, **fields)
    directions = problem(5, seed=1, dtype=torch.float64)

    def moved(step: float) -> float:
        hidden, weight = given.hidden + step * directions.hidden, given.weight + step * directions.weight
        return replace(given, hidden=hidden, weight=weight).sums(objective, chunk=2).objective.item()

    found = torch.autograd.grad(given.sums(objective, chunk=2).objective, (given.hidden, given.weight))
    slope = sum(
        (gradient * way).sum().item()
        for gradient, way in zip(found, (directions.hidden, directions.weight), strict=True)
    )
    assert slope == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-5)


def test_dft_climbs_the_probability_itself() -> None:
    """Eq. 13 of arXiv 2508.05629: the gradient is that of -p; a leak through the weight makes it -p (1 + log p)."""
    given = problem(dtype=torch.float64)
    climbing = Case("dft", {}, lambda rows: -rows.p)
    _, expected = dense_gradients(climbing, given)

    def found(objective: Objective) -> tuple[Tensor, ...]:
        return torch.autograd.grad(given.sums(objective).objective, (given.hidden, given.weight))

    leaky = Objective(lambda targets: -targets.logp.exp() * targets.logp)
    assert max(map(relative_error, found(make_objective("dft")), expected)) <= 1e-12
    assert min(map(relative_error, found(leaky), expected)) > 0.1


@pytest.mark.parametrize("kind", ["dft", "asft", "sentence_weighted"])
def test_sums_equal_scipy(kind: str) -> None:
    given = problem()
    sums = given.sums(make_objective(kind), chunk=5)
    rows = given.rows(given.logits(given.hidden, given.weight).detach())
    distributions = [softmax(logits.numpy(), axis=-1) for logits in (rows.reference, rows.logits)]
    assert sums.nll.item() == pytest.approx(-rows.p.log().sum().item(), rel=1e-6)
    assert sums.probability.item() == pytest.approx(rows.p.sum().item(), rel=1e-6)
    assert sums.entropy.item() == pytest.approx(entropy(distributions[1], axis=-1).sum(), rel=1e-6)
    divergence = entropy(*distributions, axis=-1).sum() if kind == "asft" else 0.0
    assert sums.row_term.item() == pytest.approx(divergence, rel=1e-5)
    assert sums.objective.requires_grad
    assert not any(value.requires_grad for value in sums[1:])


def test_labels_and_hidden_states_may_have_rows() -> None:
    given = problem(24)
    rows = replace(
        given,
        hidden=given.hidden.reshape(2, 12, -1),
        labels=given.labels.reshape(2, 12),
        reference=(given.reference[0].reshape(2, 12, -1), given.reference[1]),
    )
    for kind in ("dft", "asft", "iw_sft"):
        objective = make_objective(kind)
        assert [value.item() for value in rows.sums(objective)] == [value.item() for value in given.sums(objective)]


def test_hidden_states_inside_a_graph_and_a_loss_that_is_used_further() -> None:
    given = problem()
    states = torch.tanh(given.hidden * 2)
    objective = replace(given, hidden=states).sums(make_objective("focal"), chunk=8).objective
    (3.0 * objective + objective**2).backward()
    slope = 3.0 + 2 * objective.detach().double()
    _, (by_states, by_weight) = dense_gradients(named("focal"), replace(given, hidden=states.detach()))
    assert given.hidden.grad is not None and given.weight.grad is not None
    through = slope * by_states * 2 * (1 - states.detach().double() ** 2)
    assert relative_error(given.hidden.grad, through) <= 1e-5
    assert relative_error(given.weight.grad, slope * by_weight) <= 1e-5


class _NewTensors(TorchDispatchMode):
    """Tensors that operations give, by shape the addresses of their memory, but for views of what was there before."""

    def __init__(self, *there: Tensor) -> None:
        super().__init__()
        self.there = {tensor.untyped_storage().data_ptr() for tensor in there}
        self.storages: dict[tuple[int, ...], set[int]] = defaultdict(set)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (address := leaf.untyped_storage().data_ptr()) not in self.there:
                self.storages[tuple(leaf.shape)].add(address)
        return result


def shapes_made(given: Problem, kind: str = "dft", chunk: int = 4) -> set[tuple[int, ...]]:
    with _NewTensors(given.hidden, given.weight) as new:
        objective = given.sums(make_objective(kind), chunk).objective
        if objective.requires_grad:
            objective.backward()
    return set(new.storages)


@pytest.mark.parametrize("kind", ["dft", "sentence_weighted", "eaft"])
def test_the_full_logits_never_exist(kind: str) -> None:
    shapes = {shape for shape in shapes_made(problem(200), kind) if shape[1:] == (VOCABULARY,)}
    assert max(rows for rows, _ in shapes) == 4


def test_a_frozen_matrix_costs_no_gradient() -> None:
    given = problem()
    assert (VOCABULARY, WIDTH) in shapes_made(given)
    expected = given.hidden.grad
    given.hidden.grad = given.weight.grad = None
    given.weight.requires_grad_(False)
    assert (VOCABULARY, WIDTH) not in shapes_made(given)
    assert given.weight.grad is None and given.hidden.grad is not None and expected is not None
    assert torch.equal(given.hidden.grad, expected)


def test_frozen_hidden_states_cost_no_gradient() -> None:
    given = problem()
    replace(given, hidden=given.hidden.detach()).sums(make_objective("dft")).objective.backward()
    assert given.weight.grad is not None and given.hidden.grad is None
    assert relative_error(given.weight.grad, dense_gradients(named("dft"), given)[1][1]) <= 1e-5


def test_without_grad_mode_no_gradient_is_formed() -> None:
    given = problem()
    objective = make_objective("dft")
    expected = [value.item() for value in given.sums(objective)]
    with torch.no_grad():
        assert (VOCABULARY, WIDTH) not in shapes_made(given)
        sums = given.sums(objective)
    assert [value.item() for value in sums] == expected and not sums.objective.requires_grad


@pytest.mark.parametrize("slope", [1.0, 0.25])
def test_the_backward_pass_makes_no_second_gradient_of_the_matrix(slope: float) -> None:
    given = problem()
    with _NewTensors(given.weight) as forward:
        objective = given.sums(make_objective("dft")).objective
    with _NewTensors(given.weight) as backward:
        backward.there |= forward.storages[VOCABULARY, WIDTH]
        objective.backward(torch.tensor(slope))
    assert (VOCABULARY, WIDTH) not in backward.storages
    assert given.weight.grad is not None
    assert given.weight.grad.untyped_storage().data_ptr() in forward.storages[VOCABULARY, WIDTH]
    assert relative_error(given.weight.grad, slope * dense_gradients(named("dft"), given)[1][1]) <= 1e-5


def test_the_gradient_can_be_taken_once() -> None:
    """It is scaled in place and handed over: a second pass would hand out what the optimizer has worked on."""
    given = problem()
    objective = given.sums(make_objective("dft")).objective
    objective.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="taken already"):
        objective.backward()
