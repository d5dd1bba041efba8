"""A tiny random Qwen2, random samples, and the gradients of one optimizer batch, for the tests of the training core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import Qwen2Config, Qwen2ForCausalLM

from dft_sweeps.data.encode import Sample
from dft_sweeps.spec.models import ExecutionSpec, TrainSpec
from dft_sweeps.training.logprobs import Column
from dft_sweeps.training.loop import train
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.state import TrainState

VOCABULARY = 97
CONTEXT = 64


def tiny_model(seed: int = 0, tied: bool = False) -> Qwen2ForCausalLM:
    """2 layers, width 32. NumPy draws the weights: its stream is the same on every machine and in every version."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = Qwen2ForCausalLM(config)
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.from_numpy(random.standard_normal(tuple(parameter.shape))).float()
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.2 * noise)
    return model


def random_samples(count: int, seed: int = 0, longest: int = 24) -> list[Sample]:
    """Samples of random lengths, prompts included; the first ones are the hard cases.

    The first fills the context, the second is a prompt and one token to predict, the third a prompt alone.
    """
    random = np.random.default_rng(seed)
    lengths = [CONTEXT, 7, 5, *random.integers(4, longest + 1, size=count).tolist()][:count]
    samples = [
        Sample(tuple(random.integers(3, VOCABULARY, size=length).tolist()), int(random.integers(1, length - 1)))
        for length in lengths
    ]
    for index, targets in ((1, 1), (2, 0)):
        if index < count:
            samples[index] = Sample(samples[index].ids, lengths[index] - targets)
    return samples


def train_spec(objective: str | dict[str, Any] = "dft", **fields: Any) -> TrainSpec:
    objective = {"kind": objective} if isinstance(objective, str) else objective
    return TrainSpec.model_validate(
        {"objective": objective, "learning_rate": 1e-3, "batch_size": 4, "steps": 3} | fields
    )


def full(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor (collective if it is sharded)."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


@contextmanager
def before_each_step(call: Callable[[], None]) -> Iterator[None]:
    handle = register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: call())
    try:
        yield
    finally:
        handle.remove()


def batch_gradients(
    policy: Policy,
    samples: Sequence[Sample],
    objective: str | dict[str, Any],
    micro_batch_tokens: int = 10_000,
    pack_length: int = CONTEXT,
    ranks: Ranks | None = None,
    reference: Column | None = None,
) -> dict[str, Tensor]:
    """Gradients that the loop hands the optimizer when all samples are one batch, by the names of the model.

    Takes the step, so the policy's weights change.
    """
    settings = train_spec(objective, batch_size=len(samples), steps=1, optimizer={"clip_norm": 1e9})
    # Not validated: a pack length of 1 makes rows that no two samples fit in.
    limits = ExecutionSpec().model_copy(update={"micro_batch_tokens": micro_batch_tokens, "pack_length": pack_length})
    gradients: dict[str, Tensor] = {}

    def capture() -> None:
        for name, parameter in policy.trained_parameters():
            assert parameter.grad is not None, name
            gradients[name] = full(parameter.grad)

    with before_each_step(capture):
        list(train(TrainState(policy, settings), samples, frozenset(), limits, ranks or Ranks(), reference))
    return gradients


def relative_error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||, in float64."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())


def worst_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative error of any tensor."""
    assert found.keys() == expected.keys()
    return max(relative_error(found[name], expected[name]) for name in expected)
