"""The policy: a causal language model whose forward pass ends in the objective instead of logits."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM, PreTrainedModel

from dft_sweeps.data.packing import MicroBatch
from dft_sweeps.objectives import Objective, Targets, make_objective
from dft_sweeps.spec.models import ExecutionSpec, ModelSpec, TrainSpec
from dft_sweeps.training.attention import PADDING_FREE
from dft_sweeps.training.decoder import hidden_states, prepare_layers
from dft_sweeps.training.head import HeadSums, objective_sums
from dft_sweeps.training.lora import adapted, add_adapters, without_adapters
from dft_sweeps.training.model_checks import check_head, settle_attention
from dft_sweeps.training.model_files import refuse_unsupported_head


class Policy(nn.Module):
    """Wraps a model so that a sharding root sees decoder and head in one forward pass.

    The decoder and the head compute in `dtype`, whatever the weights are kept in. The model is put in evaluation mode:
    with dropout, packed rows would not equal padded ones, a run would not repeat, and the canary would be noise.
    Objectives with a row term compare with `reference`, a frozen model, or with the policy without its adapters.
    """

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype = torch.float32, reference: PreTrainedModel | None = None
    ) -> None:
        super().__init__()
        refuse_unsupported_head(model, model.config.model_type)
        self.model = model.eval()
        self.dtype = dtype
        self.reference = None if reference is None else reference.eval().requires_grad_(False)

    @property
    def padding_free(self) -> bool:
        """Whether a row of many samples costs no more attention than the samples alone."""
        return self.model.config._attn_implementation in PADDING_FREE

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters that take gradients, by their names in the model."""
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def forward(self, batch: MicroBatch, objective: Objective, dtype: torch.dtype | None = None) -> HeadSums:
        """Sums over the micro-batch's targets; see `dft_sweeps.training.head.objective_sums`.

        The column `scale` of the batch is the factor on each target's loss, 1 without it; the objective's own needs are
        columns of their names. `dtype` computes this pass in another dtype than the policy's own.
        """
        dtype, device = dtype or self.dtype, self.model.device
        labels, sample = (torch.from_numpy(array).to(device) for array in (batch.labels, batch.sample))
        columns = {name: torch.from_numpy(values).to(device) for name, values in batch.columns.items()}
        scale = columns.pop("scale", torch.ones(batch.targets, device=device))
        reference = None if objective.row_term is None else self._reference(batch, dtype)
        hidden = hidden_states(self.model, batch, dtype)
        weight = self.model.get_output_embeddings().weight
        return objective_sums(hidden, weight, labels, objective, scale, sample, columns, reference)

    @torch.no_grad()
    def _reference(self, batch: MicroBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The reference's hidden states [rows, row length, width] and its output matrix."""
        model = self.model if self.reference is None else self.reference
        assert model is self.reference or adapted(model), "the objective compares with a reference; there is none"
        with without_adapters(model):
            return hidden_states(model, batch, dtype), model.get_output_embeddings().weight


def load_policy(
    directory: Path,
    model: ModelSpec | None = None,
    train: TrainSpec | None = None,
    execution: ExecutionSpec | None = None,
    device: str | torch.device = "cpu",
    trusted: bool = False,
) -> Policy:
    """Loads a model directory as a policy, ready to train as the specs say, or by default to look at in float32.

    Args:
        trusted: whether the model's own code is run.

    Raises:
        SpecError: the machine or the architecture does not allow what the specs ask for.
    """
    model, execution, device = model or ModelSpec(), execution or ExecutionSpec(), torch.device(device)
    dtype = getattr(torch, model.dtype)
    network = AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, model.parameter_dtype), trust_remote_code=trusted
    )
    if train is not None and train.adapter is not None:
        add_adapters(network, train.adapter, train.seed)
    settle_attention(network.to(device), execution.attention, dtype)
    check_head(network)
    reference = None
    if train is not None and train.adapter is None and make_objective(**train.objective.model_dump()).row_term:
        reference = copy.deepcopy(network)
    policy = Policy(network, dtype, reference)
    for part in filter(None, (policy.model, policy.reference)):
        prepare_layers(part, execution)
    return policy


@torch.no_grad()
def target_logprobs(policy: nn.Module, batch: MicroBatch, dtype: torch.dtype = torch.float32) -> Tensor:
    """Log-probabilities of the batch's targets, [targets], in the order of the flattened rows.

    At least float32, but of a pass that computes in `dtype`.
    """
    kept: list[Tensor] = []

    def keep(targets: Targets) -> Tensor:
        kept.append(targets.logp.detach())
        return targets.logp

    with torch.compiler.set_stance("force_eager"):  # too few and too various to be worth compiling for
        policy(batch, Objective(keep), dtype)
    if isinstance(policy, FSDPModule):
        # Sharding leaves the root's weights whole for a backward pass, which does not come here: until one does, what
        # asks for the parameters, an optimizer to begin with, would get others than those that are trained.
        policy.reshard()
    return torch.cat(kept) if kept else torch.zeros(0)
