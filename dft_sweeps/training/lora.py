"""Low-rank adapters (arXiv 2106.09685), by peft: injected into the model in place, merged into its weights on saving.

The model keeps its class, so nothing that reads its layers, head or configuration notices them. Everything but the
adapters is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as AdaptedLinear
from torch import Tensor, nn
from transformers import PreTrainedModel

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import LoraSpec
from dft_sweeps.training.model_files import linear_layers

_ADAPTER = "default"


def add_adapters(model: PreTrainedModel, settings: LoraSpec, seed: int) -> None:
    """Puts adapters on the model's linear layers and freezes the rest, in place.

    The matrices have the dtype of the model. They start at random from `seed`, the same on every rank, and leave the
    global generator as it was; the product of the two is zero.

    Raises:
        SpecError: the model has no layer of a name in `settings.target`.
    """
    targets = _targets(model, settings)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(config, model, _ADAPTER)
    for layer in adapted(model).values():
        layer.cast_input_dtype_enabled = False  # autocast does that, and float32 passes must not be narrowed
        layer.to(model.dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def _targets(model: PreTrainedModel, settings: LoraSpec) -> list[str]:
    """Full names of the layers to adapt. Of linear layers only the head has none."""
    linear = linear_layers(model)
    if settings.target == "all-linear":
        return linear
    chosen = {target: [name for name in linear if f".{name}".endswith(f".{target}")] for target in settings.target}
    if missing := [target for target, names in chosen.items() if not names]:
        kinds = sorted({name.rpartition(".")[2] for name in linear})
        raise SpecError(f"train.adapter.target: the model has no linear layer {missing[0]!r}, only: {', '.join(kinds)}")
    return sorted({name for names in chosen.values() for name in names})


def adapted(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Layers with adapters, by their names in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the one the adapters were put on."""
    layers = adapted(model).values()
    for layer in layers:
        layer._disable_adapters = True  # `enable_adapters` would also change which parameters take gradients
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged_state(model: PreTrainedModel, full: Callable[[PreTrainedModel], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The weights a checkpoint holds, under the names of a model without adapters: W + alpha / rank * B A.

    Merged in float32 and kept so, since in bfloat16 most of a small update would be lost to rounding.

    Args:
        full: gives a module's whole state on rank 0 and nothing on the others (collective).
    """
    state = full(model)
    if not state:
        return state
    for name, layer in adapted(model).items():
        down, up = (state.pop(f"{name}.lora_{matrix}.{_ADAPTER}.weight").float() for matrix in "AB")
        update = layer.scaling[_ADAPTER] * (up @ down)
        update = update.T if layer.fan_in_fan_out else update
        weight = state.pop(f"{name}.base_layer.weight")
        state[f"{name}.weight"] = weight.float() + update
        if f"{name}.base_layer.bias" in state:
            state[f"{name}.bias"] = state.pop(f"{name}.base_layer.bias")
    return state
