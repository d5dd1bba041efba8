"""The heads that are measured: each takes hidden states [tokens, width], the output matrix [vocabulary, width] and a
label for every token, and gives the mean loss of DFT (or SFT), ready for a backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(kind: str = "dft") -> Loss:
    from dft_sweeps.objectives import make_objective
    from dft_sweeps.training.head import objective_sums

    objective = make_objective(kind)

    def loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        scale = torch.full(labels.shape, 1 / len(labels), device=labels.device)
        return objective_sums(hidden, weight, labels, objective, scale, torch.zeros_like(labels), {}).objective

    return loss


def weighed(nll: Tensor) -> Tensor:
    """DFT from negative log-likelihoods, as every peer that gives them per token would have it."""
    return ((-nll).exp().detach() * nll).mean()


def dense(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """PyTorch as TRL had it: float32 logits, log_softmax, gather. Logits are dropped as early as autograd can."""
    logprobs = F.linear(hidden, weight).float().log_softmax(-1)
    return weighed(-logprobs.gather(-1, labels[:, None]).squeeze(-1))


def trl(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The function under `add_fused_lm_head`, as SFTTrainer asks for it: with the entropy and the accuracy."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    outputs = ("log_probs", "entropy", "is_top1")
    logp, *_ = ChunkedLogProbFunction.apply(
        hidden, weight, None, labels, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, outputs
    )
    return weighed(-logp)


def liger_scaled(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Liger's per-token negative log-likelihoods: in PyTorch by 512 tokens but where it has a kernel."""
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import LigerFusedLinearScaledCrossEntropyFunction

    return weighed(LigerFusedLinearScaledCrossEntropyFunction.apply(hidden, weight, labels))


def liger_token_scaling(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(use_token_scaling=True, accum_dtype=torch.float32)
    return loss(weight, hidden, labels)


def cut_cross_entropy(impl: str) -> Loss:
    from cut_cross_entropy import linear_cross_entropy

    return lambda hidden, weight, labels: weighed(
        linear_cross_entropy(hidden, weight, labels, reduction="none", impl=impl)
    )


@dataclass(frozen=True)
class Side:
    """A head under the name that its rows end in."""

    described: str
    make: Callable[[], Loss]
    package: str | None = None
    gpu_only: bool = False

    def missing(self, device: str) -> str | None:
        """Why it cannot be measured here, or None."""
        if self.package and find_spec(self.package) is None:
            return f"{self.package} is not installed"
        if self.gpu_only and device != "cuda":
            return "its kernels are written in Triton and need a GPU"
        return None


SIDES = {
    "ours": Side("dft_sweeps.training.head", ours),
    "ours_sft": Side("dft_sweeps.training.head", lambda: ours("sft")),
    "dense": Side("PyTorch: F.linear, log_softmax, gather", lambda: dense),
    "trl": Side("TRL's fused head, as in SFTTrainer", lambda: trl, "trl"),
    "liger_scaled": Side("Liger's fused scaled cross entropy", lambda: liger_scaled, "liger_kernel"),
    "liger": Side(
        "Liger's fused linear cross entropy, use_token_scaling", lambda: liger_token_scaling, "liger_kernel", True
    ),
    "cut_cross_entropy": Side("cut-cross-entropy", lambda: cut_cross_entropy("cce"), "cut_cross_entropy", True),
    "cut_cross_entropy_compile": Side(
        "cut-cross-entropy, its torch_compile form", lambda: cut_cross_entropy("torch_compile"), "cut_cross_entropy"
    ),
}


@dataclass(frozen=True)
class Shape:
    """What the heads are given; every token has a target."""

    tokens: int
    vocabulary: int
    width: int
    device: str
    dtype: str

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same for every side: seed 0, logits of standard deviation 1."""
        torch.manual_seed(0)
        of = {"device": self.device, "dtype": getattr(torch, self.dtype)}
        hidden = torch.empty(self.tokens, self.width, **of).normal_()
        weight = torch.empty(self.vocabulary, self.width, **of).normal_(std=self.width**-0.5)
        labels = torch.randint(self.vocabulary, (self.tokens,), device=self.device)
        return hidden.requires_grad_(), weight.requires_grad_(), labels

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens, V = {self.vocabulary:,}, H = {self.width:,}, {self.dtype}, {self.device}"
