from __future__ import annotations

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
from dft_sweeps.objectives import TokenObjective, dft, sft
from dft_sweeps.training.head import token_objective
from tests.training.tiny_policy import relative_error

TOKENS, WIDTH, VOCABULARY = 37, 16, 53
SCALE = 1 / 29


def focal(logp: Tensor) -> Tensor:
    """-(1 - p)^2 log p, differentiated through the weight: a derivative that is neither constant nor a power of p."""
    return -((1 - logp.exp()) ** 2) * logp


OBJECTIVES: dict[str, TokenObjective] = {"sft": sft, "dft": dft, "focal": focal}


def inputs(tokens: int = TOKENS, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, output matrix and labels, a third of them masked."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, WIDTH, generator=random, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, generator=random, dtype=torch.float64) * 0.5
    labels = torch.randint(VOCABULARY, (tokens,), generator=random)
    labels[torch.rand(tokens, generator=random) < 1 / 3] = IGNORE
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels


def dense_logp(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of the targets from the full logits, in float64."""
    kept = labels.flatten() != IGNORE
    logits = hidden.double().flatten(0, -2)[kept] @ weight.double().T
    return logits.log_softmax(-1).gather(-1, labels.flatten()[kept, None]).squeeze(-1)


def dense_gradients(hidden: Tensor, weight: Tensor, labels: Tensor, objective: TokenObjective) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    return torch.autograd.grad(objective(dense_logp(*leaves, labels)).sum() * SCALE, leaves)


@pytest.mark.parametrize("chunk", [1, 7, TOKENS, 1000])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_gradients_equal_dense_autograd(name: str, chunk: int, dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, labels = inputs(dtype=dtype)
    token_objective(hidden, weight, labels, OBJECTIVES[name], SCALE, chunk).objective.backward()
    expected = dense_gradients(hidden, weight, labels, OBJECTIVES[name])
    assert hidden.grad is not None and weight.grad is not None
    assert (hidden.grad.dtype, weight.grad.dtype) == (dtype, dtype)
    assert relative_error(hidden.grad, expected[0]) <= tolerance
    assert relative_error(weight.grad, expected[1]) <= tolerance
    assert not hidden.grad[labels == IGNORE].any()


@given(
    tokens=st.integers(0, 6),
    width=st.integers(1, 5),
    vocabulary=st.integers(1, 9),
    chunk=st.integers(1, 8),
    seed=st.integers(0, 1000),
    name=st.sampled_from(sorted(OBJECTIVES)),
)
@settings(max_examples=60, deadline=None)
def test_gradients_equal_dense_autograd_in_any_shape(
    tokens: int, width: int, vocabulary: int, chunk: int, seed: int, name: str
) -> None:
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=random, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(vocabulary, (tokens,), generator=random)
    labels[torch.rand(tokens, generator=random) < 0.3] = IGNORE
    sums = token_objective(hidden, weight, labels, OBJECTIVES[name], SCALE, chunk)
    found = torch.autograd.grad(sums.objective, (hidden, weight))
    for gradient, dense in zip(found, dense_gradients(hidden, weight, labels, OBJECTIVES[name]), strict=True):
        assert (gradient - dense).norm() <= 1e-9 * max(dense.norm().item(), 1.0)


@pytest.mark.parametrize("name", ["sft", "focal"])  # finite differences cannot see the stopped gradient of dft
def test_gradcheck(name: str) -> None:
    hidden, weight, labels = inputs(tokens=5, dtype=torch.float64)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return token_objective(hidden, weight, labels, OBJECTIVES[name], SCALE, chunk=2).objective

    assert torch.autograd.gradcheck(loss, (hidden, weight), eps=1e-6, atol=1e-9, rtol=1e-6)


def test_dft_climbs_the_probability_itself() -> None:
    """Eq. 13 of arXiv 2508.05629: the gradient is that of -p; a leak through the weight makes it -p (1 + log p)."""
    hidden, weight, labels = inputs(dtype=torch.float64)
    expected = dense_gradients(hidden, weight, labels, lambda logp: -logp.exp())

    def found(objective: TokenObjective) -> tuple[Tensor, ...]:
        sums = token_objective(hidden, weight, labels, objective, SCALE)
        return torch.autograd.grad(sums.objective, (hidden, weight))

    assert max(map(relative_error, found(dft), expected)) <= 1e-12
    assert min(map(relative_error, found(lambda logp: -logp.exp() * logp), expected)) > 0.1


def test_sums_equal_scipy() -> None:
    hidden, weight, labels = inputs()
    sums = token_objective(hidden, weight, labels, dft, SCALE, chunk=5)
    targets = labels != IGNORE
    logits = hidden.detach()[targets].double().numpy() @ weight.detach().double().numpy().T
    logp = dense_logp(hidden, weight, labels).detach()
    assert sums.objective.item() == pytest.approx((-logp.exp() * logp).sum().item() * SCALE, rel=1e-6)
    assert sums.nll.item() == pytest.approx(-logp.sum().item(), rel=1e-6)
    assert sums.probability.item() == pytest.approx(logp.exp().sum().item(), rel=1e-6)
    assert sums.entropy.item() == pytest.approx(entropy(softmax(logits, axis=-1), axis=-1).sum(), rel=1e-6)
    assert sums.objective.requires_grad
    assert not any(value.requires_grad for value in (sums.nll, sums.probability, sums.entropy))


def test_labels_and_hidden_states_may_have_rows() -> None:
    hidden, weight, labels = inputs(tokens=24)
    flat = token_objective(hidden, weight, labels, dft, SCALE)
    rows = token_objective(hidden.reshape(2, 12, WIDTH), weight, labels.reshape(2, 12), dft, SCALE)
    assert [value.item() for value in rows] == [value.item() for value in flat]


def test_a_batch_without_targets_gives_zeros_and_zero_gradients() -> None:
    hidden, weight, _ = inputs()
    sums = token_objective(hidden, weight, torch.full((TOKENS,), IGNORE), dft, SCALE)
    sums.objective.backward()
    assert [value.item() for value in sums] == [0.0] * 4
    assert hidden.grad is not None and not hidden.grad.any()
    assert weight.grad is not None and not weight.grad.any()


def test_hidden_states_inside_a_graph_and_a_loss_that_is_used_further() -> None:
    hidden, weight, labels = inputs()

    def loss(objective: Tensor) -> Tensor:
        return 3.0 * objective + objective**2

    sums = token_objective(torch.tanh(hidden * 2), weight, labels, focal, SCALE, chunk=8)
    loss(sums.objective).backward()
    leaves = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    dense = focal(dense_logp(torch.tanh(leaves[0] * 2), leaves[1], labels)).sum() * SCALE
    for leaf, expected in zip((hidden, weight), torch.autograd.grad(loss(dense), leaves), strict=True):
        assert leaf.grad is not None
        assert relative_error(leaf.grad, expected) <= 1e-5


class _Shapes(TorchDispatchMode):
    """Shapes of all tensors that operations give."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= {tuple(leaf.shape) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        return result


def shapes_of(hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int = 4) -> set[tuple[int, ...]]:
    with _Shapes() as shapes:
        sums = token_objective(hidden, weight, labels, dft, SCALE, chunk)
        if sums.objective.requires_grad:
            sums.objective.backward()
    return shapes.seen


def test_the_full_logits_never_exist() -> None:
    hidden, weight, labels = inputs(tokens=200)
    shapes = shapes_of(hidden, weight, labels)
    assert (4, VOCABULARY) in shapes
    assert max(shape[0] for shape in shapes if shape[1:] == (VOCABULARY,)) <= max(4, WIDTH)


def test_a_frozen_matrix_costs_no_gradient() -> None:
    hidden, weight, labels = inputs()
    assert (VOCABULARY, WIDTH) in shapes_of(hidden, weight, labels)
    expected = hidden.grad
    hidden.grad = weight.grad = None
    assert (VOCABULARY, WIDTH) not in shapes_of(hidden, weight.requires_grad_(False), labels)
    assert weight.grad is None and hidden.grad is not None and expected is not None
    assert torch.equal(hidden.grad, expected)


def test_frozen_hidden_states_cost_no_gradient() -> None:
    hidden, weight, labels = inputs()
    token_objective(hidden.detach(), weight, labels, dft, SCALE).objective.backward()
    assert weight.grad is not None
    assert relative_error(weight.grad, dense_gradients(hidden, weight, labels, dft)[1]) <= 1e-5


def test_without_grad_mode_no_gradient_is_formed() -> None:
    hidden, weight, labels = inputs()
    expected = [value.item() for value in token_objective(hidden, weight, labels, dft, SCALE)]
    with torch.no_grad():
        shapes = shapes_of(hidden, weight, labels)
        sums = token_objective(hidden, weight, labels, dft, SCALE)
    assert (VOCABULARY, WIDTH) not in shapes
    assert [value.item() for value in sums] == expected and not sums.objective.requires_grad


@pytest.mark.parametrize("name", OBJECTIVES)
def test_extreme_logits_give_numbers(name: str) -> None:
    """Logits of +-1e4: probabilities are exactly 0 or 1 in float32."""
    hidden = torch.tensor([[1e4], [-1e4], [1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    labels = torch.tensor([0, 0, 2])  # certain, impossible, impossible
    sums = token_objective(hidden, weight, labels, OBJECTIVES[name], 1.0)
    sums.objective.backward()
    assert all(value.isfinite() for value in sums)
    assert (sums.nll.item(), sums.probability.item(), sums.entropy.item()) == (25_000.0, 1.0, 0.0)
    # d(loss)/d(hidden) = coefficient * (w_target - w_likeliest)
    slope = 0.0 if name == "dft" else 1.0
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad.flatten().tolist() == [0.0, slope * -2.0, slope * 0.5]
    assert weight.grad.isfinite().all()


def test_a_log_probability_that_overflows_adds_no_entropy() -> None:
    """Log-probability -inf for a word that is not the target: 0 log 0 is 0, not NaN."""
    hidden = torch.ones(1, 1, requires_grad=True)
    weight = torch.tensor([[3e38], [-3e38]], requires_grad=True)
    sums = token_objective(hidden, weight, torch.tensor([0]), sft, 1.0)
    sums.objective.backward()
    assert [value.item() for value in sums] == [0.0, 0.0, 1.0, 0.0]
    assert hidden.grad is not None and hidden.grad.item() == 0.0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_bfloat16_hidden_states_with_a_float32_matrix(name: str) -> None:
    hidden, weight, labels = inputs()
    narrow = hidden.detach().bfloat16().requires_grad_()
    sums = token_objective(narrow, weight, labels, OBJECTIVES[name], SCALE, chunk=8)
    sums.objective.backward()
    expected = dense_gradients(hidden, weight, labels, OBJECTIVES[name])
    assert narrow.grad is not None and weight.grad is not None
    assert (narrow.grad.dtype, weight.grad.dtype, sums.nll.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert relative_error(narrow.grad, expected[0]) <= 2e-2
    assert relative_error(weight.grad, expected[1]) <= 2e-2
    assert sums.nll.item() == pytest.approx(-dense_logp(hidden, weight, labels).sum().item(), rel=1e-2)
