"""The objectives as their papers and reference codes write them: plain loops over full rows of logits.

Nothing of the package is used here, so that a formula written wrongly there has something to differ from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Logits [tokens, vocabulary] of the policy, the reference and an older policy; labels and samples [tokens]."""

    logits: Tensor
    labels: Tensor
    sample: Tensor
    reference: Tensor
    old: Tensor

    def probability(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)[range(len(self.labels)), self.labels]

    @property
    def p(self) -> Tensor:
        return self.probability(self.logits)

    @property
    def q(self) -> Tensor:
        return self.probability(self.reference)


def random_rows(tokens: int, vocabulary: int, seed: int = 0, spread: float = 2.0) -> Rows:
    """Samples of 1 to 4 consecutive tokens. The reference and the older policy are near the policy."""
    random = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(tokens, vocabulary, generator=random, dtype=torch.float64)

    lengths = torch.randint(1, 5, (tokens,), generator=random)
    logits = spread * normal()
    return Rows(
        logits=logits.requires_grad_(),
        labels=torch.randint(vocabulary, (tokens,), generator=random),
        sample=torch.arange(tokens).repeat_interleave(lengths)[:tokens],
        reference=logits.detach() + normal(),
        old=logits.detach() + 0.3 * normal(),
    )


def sft(rows: Rows) -> Tensor:
    return -rows.p.log()


def dft(rows: Rows) -> Tensor:
    return -rows.p.detach() * rows.p.log()


def power(rows: Rows, alpha: float) -> Tensor:
    return (1 - rows.p**alpha) / alpha


def focal(rows: Rows, gamma: float) -> Tensor:
    return -((1 - rows.p) ** gamma) * rows.p.log()


def eaft(rows: Rows, alpha: float, top: int) -> Tensor:
    """`_eaft_cross_entropy` of LLaMA-Factory's trainer_utils.py, with ln(top) where it has 3.0."""
    chosen = rows.logits.detach().topk(min(top, rows.logits.shape[-1])).values.softmax(-1)
    entropy = -(chosen * chosen.log()).sum(-1)
    return -((entropy / math.log(top)) ** alpha) * rows.p.log()


def psft(rows: Rows, low: float, high: float) -> Tensor:
    """PPO's clipped surrogate (Eq. 7 of arXiv 1707.06347) with advantage 1, to be minimised."""
    ratios = rows.p / rows.probability(rows.old)
    clipped = [torch.clamp(ratio, low, high) for ratio in ratios]
    return -torch.stack([torch.min(ratio, bound) for ratio, bound in zip(ratios, clipped, strict=True)])


def asft(rows: Rows, beta: float, reversed_: bool) -> Tensor:
    p, q = rows.logits.softmax(-1), rows.reference.softmax(-1)
    divergence = p * (p.log() - q.log()) if reversed_ else q * (q.log() - p.log())
    return dft(rows) + beta * divergence.sum(-1)


def iw_sft(rows: Rows, temperature: float, low: float, high: float) -> Tensor:
    """`IwSFTLoss` of emmyqin/iw_sft's bounding_trainers.py with `sum_over_time`, one sample at a time."""
    losses = torch.empty_like(rows.p)
    for index in rows.sample.unique():
        own = rows.sample == index
        ratio = (rows.p[own] / rows.q[own]).log().mean()
        weight = (temperature * ratio).exp().clamp(low, high).detach()
        losses[own] = -weight * rows.p[own].log()
    return losses


def iw_sft_token(rows: Rows, temperature: float, low: float, high: float) -> Tensor:
    return -((rows.p / rows.q) ** temperature).clamp(low, high).detach() * rows.p.log()


def sentence_weighted(rows: Rows, geometric: bool) -> Tensor:
    losses = torch.empty_like(rows.p)
    for index in rows.sample.unique():
        own = rows.sample == index
        weight = rows.p[own].prod() ** (1 / int(own.sum()) if geometric else 1)
        losses[own] = -weight.detach() * rows.p[own].log()
    return losses


def thresholded(loss: Callable[[Rows], Tensor], low: float, high: float) -> Callable[[Rows], Tensor]:
    """OnlyTop and OnlyBottom of GaotangLi/Beyond-Log-Likelihood: the loss where low <= p <= high, 0 elsewhere."""
    return lambda rows: torch.stack(
        [value if low <= p <= high else 0 * value for value, p in zip(loss(rows), rows.p.tolist(), strict=True)]
    )


@dataclass(frozen=True)
class Case:
    """An objective of a spec and its formula, [tokens] losses from full rows."""

    kind: str
    fields: dict[str, Any]
    losses: Callable[[Rows], Tensor]

    def __str__(self) -> str:
        return "-".join([self.kind, *(f"{value}" for value in self.fields.values())])


CASES = [
    Case("sft", {}, sft),
    Case("sft", {"min_probability": 0.1}, thresholded(sft, 0.1, 1.0)),
    Case("dft", {}, dft),
    Case("dft", {"max_probability": 0.1}, thresholded(dft, 0.0, 0.1)),
    Case("dft", {"min_probability": 0.02, "max_probability": 0.3}, thresholded(dft, 0.02, 0.3)),
    Case("power", {"alpha": 0.0}, sft),
    Case("power", {"alpha": 0.3}, lambda rows: power(rows, 0.3)),
    Case("power", {"alpha": 8.0}, lambda rows: power(rows, 8.0)),
    Case("focal", {}, lambda rows: focal(rows, 2.0)),
    Case("focal", {"gamma": 0.5}, lambda rows: focal(rows, 0.5)),
    Case("eaft", {}, lambda rows: eaft(rows, 1.0, 20)),
    Case("eaft", {"alpha": 2.0, "top": 3}, lambda rows: eaft(rows, 2.0, 3)),
    Case("psft", {}, lambda rows: psft(rows, 0.8, 1.28)),
    Case("psft", {"low": 0.5, "high": 1.1, "refresh": 1}, lambda rows: psft(rows, 0.5, 1.1)),
    Case("asft", {}, lambda rows: asft(rows, 0.03, False)),
    Case("asft", {"beta": 0.5, "direction": "policy_to_reference"}, lambda rows: asft(rows, 0.5, True)),
    Case("iw_sft", {}, lambda rows: iw_sft(rows, 1.0, 0.0, 16.0)),
    Case("iw_sft", {"temperature": 3.0, "low": 0.5, "high": 2.0}, lambda rows: iw_sft(rows, 3.0, 0.5, 2.0)),
    Case("iw_sft", {"level": "token"}, lambda rows: iw_sft_token(rows, 1.0, 0.2, 1.8)),
    Case("sentence_weighted", {}, lambda rows: sentence_weighted(rows, False)),
    Case("sentence_weighted", {"mean": "geometric"}, lambda rows: sentence_weighted(rows, True)),
]
"""Every objective of a spec, with its defaults and with other fields."""
