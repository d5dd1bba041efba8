"""The policy: a causal language model whose forward pass ends in the objective instead of logits."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from dft_sweeps.data.packing import MicroBatch
from dft_sweeps.objectives import TokenObjective
from dft_sweeps.training.head import HeadSums, token_objective
from dft_sweeps.training.model_files import refuse_unsupported_head


class Policy(nn.Module):
    """Wraps a model so that a sharding root sees decoder and head in one forward pass.

    Weights are float32; the decoder and the head compute in `dtype`. The model is put in evaluation mode: with dropout,
    packed rows would not equal padded ones, a run would not repeat, and the canary would be noise.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        refuse_unsupported_head(model, model.config.model_type)
        self.model = model.eval()
        self.dtype = dtype

    def forward(
        self, batch: MicroBatch, objective: TokenObjective, scale: float, dtype: torch.dtype | None = None
    ) -> HeadSums:
        """Sums over the micro-batch's targets; see `dft_sweeps.training.head.token_objective`.

        `dtype` computes this pass in another dtype than the policy's own.
        """
        dtype = dtype or self.dtype
        device = self.model.device
        ids, positions, labels = (
            torch.from_numpy(array).to(device) for array in (batch.ids, batch.positions, batch.labels)
        )
        decoder = self.model.get_decoder()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            hidden = decoder(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        weight = self.model.get_output_embeddings().weight
        return token_objective(hidden.to(dtype), weight, labels, objective, scale)


def load_policy(directory: Path, dtype: str = "float32") -> Policy:
    """Loads a model directory as a policy with float32 weights, ready to train."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
    return Policy(model, getattr(torch, dtype))


@torch.no_grad()
def target_logprobs(policy: nn.Module, batch: MicroBatch) -> Tensor:
    """Log-probabilities of the batch's targets in float32, [targets], in the order of the flattened rows."""
    kept: list[Tensor] = []

    def keep(logp: Tensor) -> Tensor:
        kept.append(logp.detach())
        return logp

    policy(batch, keep, 1.0, torch.float32)
    return torch.cat(kept)
