"""The decoder under the head: running it over packed rows, and how its layers are computed."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dft_sweeps.data.packing import MicroBatch
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import ExecutionSpec
from dft_sweeps.training.attention import attending_with, attention_arguments, usable_attention
from dft_sweeps.training.precision import computing_in


def hidden_states(model: PreTrainedModel, batch: MicroBatch, dtype: torch.dtype) -> Tensor:
    """The last hidden states, computed and given in `dtype`, [rows, row length, width]."""
    attention = usable_attention(model, dtype)
    ids, positions = (torch.from_numpy(array).to(model.device) for array in (batch.ids, batch.positions))
    arguments = attention_arguments(attention, batch.positions, model.device)
    with computing_in(model, dtype), attending_with(model, attention):
        decoder = model.get_decoder()
        outputs = decoder(input_ids=ids, position_ids=positions, use_cache=False, **arguments)
    return outputs.last_hidden_state.to(dtype)


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder's layers: the units of sharding, of compilation and of gradient checkpointing.

    Raises:
        SpecError: the architecture does not say which they are.
    """
    layers = [module for module in model.get_decoder().modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise SpecError(f"a model of type {model.config.model_type} does not say which its layers are")
    inner = {id(part) for layer in layers for part in layer.modules() if part is not layer}
    return [layer for layer in layers if id(layer) not in inner]


def prepare_layers(model: PreTrainedModel, execution: ExecutionSpec) -> None:
    """Compiles each layer, and has its activations computed again in the backward pass, where asked for. In place.

    Transformers' own switch for the latter needs training mode. Replacing `forward` of the instances keeps the names
    of parameters, and leaves the hooks of sharding outside of what is computed twice.
    """
    if not (execution.compile or execution.gradient_checkpointing):
        return
    for layer in decoder_layers(model):
        if execution.compile:
            layer.forward = torch.compile(layer.forward)
        if execution.gradient_checkpointing:  # nothing in a layer is random, so no random state is kept
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
