"""The head beside the heads of other trainers, where their code runs on a CPU: the same losses and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dft_sweeps.data.packing import IGNORE
from dft_sweeps.objectives import make_objective
from tests.training.test_head import problem
from tests.training.tiny_policy import relative_error

Peer = Callable[[Tensor, Tensor, Tensor, str], Tensor]
"""From hidden states, output matrix, labels and the objective's kind to the mean loss over the targets."""


def published(hidden: Tensor, weight: Tensor, labels: Tensor, kind: str) -> Tensor:
    """`_compute_loss_and_backward` of yongliang-wu/DFT's fsdp_dft_trainer.py, mask in place of dropped positions."""
    logits, mask = (hidden @ weight.T).float(), labels != IGNORE
    target = labels.clamp(min=0)
    loss = F.cross_entropy(logits, target, reduction="none")
    if kind == "dft":
        loss = loss * torch.softmax(logits, -1).gather(1, target[:, None]).squeeze(1).detach()
    return (loss * mask).sum() / mask.sum()


def trl_dense(hidden: Tensor, weight: Tensor, labels: Tensor, kind: str) -> Tensor:
    """The DFT loss of TRL before 1.10, with its own function for the log-probabilities."""
    utils = pytest.importorskip("trl.trainer.utils")
    mask = labels != IGNORE
    logp = utils.selective_log_softmax((hidden @ weight.T)[None], labels.clamp(min=0)[None])[0]
    losses = -logp.exp().detach() * logp if kind == "dft" else -logp
    return losses[mask].sum() / mask.sum()


def trl_fused(hidden: Tensor, weight: Tensor, labels: Tensor, kind: str) -> Tensor:
    """SFTTrainer's loss on `add_fused_lm_head`'s log-probabilities."""
    kernels = pytest.importorskip("trl.kernels")
    mask = labels != IGNORE
    logp, *_ = kernels.ChunkedLogProbFunction.apply(
        hidden, weight, None, labels.clamp(min=0), 1.0, 32, None, 1.0, ("entropy", "is_top1")
    )
    losses = -logp * logp.exp().detach() if kind == "dft" else -logp
    return losses[mask].sum() / mask.sum()


def liger(hidden: Tensor, weight: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Liger's scaled cross entropy: negative log-likelihoods, weighed outside."""
    ops: Any = pytest.importorskip("liger_kernel.ops.fused_linear_scaled_cross_entropy")
    nll = ops.LigerFusedLinearScaledCrossEntropyFunction.apply(hidden, weight, labels)
    return ((-nll).exp().detach() * nll if kind == "dft" else nll).sum() / (labels != IGNORE).sum()


@pytest.mark.parametrize("kind", ["sft", "dft"])
@pytest.mark.parametrize("peer", [published, trl_dense, trl_fused, liger])
def test_losses_and_gradients_are_those_of_the_peer(peer: Peer, kind: str) -> None:
    given = problem(60)
    expected = peer(given.hidden, given.weight, given.labels, kind)
    dense = torch.autograd.grad(expected, (given.hidden, given.weight))
    given.scale.fill_(1 / len(given.scale))
    objective = given.sums(make_objective(kind), chunk=16).objective
    found = torch.autograd.grad(objective, (given.hidden, given.weight))
    assert objective.item() == pytest.approx(expected.item(), rel=1e-5)
    assert max(map(relative_error, found, dense)) <= 1e-5


def eaft_of_llama_factory(logits: Tensor, labels: Tensor) -> Tensor:
    """`_eaft_cross_entropy` of hiyouga/LLaMA-Factory's trainer_utils.py."""
    valid = labels != IGNORE
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")[valid]
    with torch.no_grad():
        top = logits[valid].topk(20).values
        logprobs = top - top.logsumexp(-1, keepdim=True)
        weight = -(logprobs.exp() * logprobs).sum(-1) / 3.0
    return (losses * weight).sum()


def test_eaft_is_that_of_llama_factory_with_the_entropy_over_ln_20_in_place_of_3() -> None:
    given = problem(60)
    expected = eaft_of_llama_factory(given.hidden @ given.weight.T, given.labels) * 3.0 / torch.tensor(20.0).log()
    dense = torch.autograd.grad(expected, (given.hidden, given.weight))
    given.scale.fill_(1.0)
    objective = given.sums(make_objective("eaft"), chunk=16).objective
    found = torch.autograd.grad(objective, (given.hidden, given.weight))
    assert objective.item() == pytest.approx(expected.item(), rel=1e-5)
    assert max(map(relative_error, found, dense)) <= 1e-5
