"""The gradients of an optimizer batch do not depend on how it is packed or split, and are those of dense autograd."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from dft_sweeps.data.encode import Sample
from dft_sweeps.training.batch import split_batch
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from tests.training.loops import execution
from tests.training.tiny_policy import CONTEXT, batch_gradients, random_samples, relative_error, tiny_model, worst_error

TOLERANCE = 1e-5
ONE_SAMPLE_PER_ROW = 1
"""A row length that no two samples fit in."""


def trl_loss(model: Qwen2ForCausalLM, samples: Sequence[Sample], objective: str) -> Tensor:
    """Sum of -log p (sft) or -sg(p) log p (dft) over the targets of the batch, divided by their number.

    Each sample alone, from its full logits: the formula of TRL's `loss_type="dft"` with `num_items_in_batch`.
    """
    total, targets = torch.zeros((), dtype=torch.float64), 0
    for sample in samples:
        ids = torch.tensor([sample.ids])
        logits = model(input_ids=ids).logits[0, sample.prompt_length - 1 : -1]
        logp = logits.log_softmax(-1).gather(-1, ids[0, sample.prompt_length :, None])
        total = total - (logp * (logp.exp().detach() if objective == "dft" else 1.0)).sum()
        targets += len(logp)
    return total / targets


def dense_gradients(model: Qwen2ForCausalLM, samples: Sequence[Sample], objective: str) -> dict[str, Tensor]:
    wide = copy.deepcopy(model).double()
    trl_loss(wide, samples, objective).backward()
    return {name: parameter.grad for name, parameter in wide.named_parameters()}


def tokens_for(count: int, samples: Sequence[Sample], pack_length: int) -> int:
    """Size of micro-batch that splits the batch into exactly so many."""
    policy = Policy(tiny_model())
    for tokens in range(CONTEXT, 10_000):
        if len(split_batch(samples, policy, execution(tokens, pack_length), Ranks())) == count:
            return tokens
    raise AssertionError(f"no micro-batch size gives {count}")


@pytest.mark.parametrize("objective", ["sft", "dft"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_packed_equals_padded_equals_dense_float64(objective: str, seed: int) -> None:
    model, samples = tiny_model(seed), random_samples(16, seed)
    expected = dense_gradients(model, samples, objective)
    packed = batch_gradients(Policy(copy.deepcopy(model)), samples, objective)
    padded = batch_gradients(Policy(copy.deepcopy(model)), samples, objective, pack_length=ONE_SAMPLE_PER_ROW)
    assert worst_error(packed, expected) <= TOLERANCE
    assert worst_error(padded, expected) <= TOLERANCE
    assert worst_error(packed, padded) <= TOLERANCE


@pytest.mark.parametrize("pack_length", [CONTEXT, ONE_SAMPLE_PER_ROW])
@pytest.mark.parametrize("objective", ["sft", "dft"])
def test_1_2_and_4_micro_batches_give_the_same_gradients(objective: str, pack_length: int) -> None:
    model, samples = tiny_model(), random_samples(32)
    one, two, four = (
        batch_gradients(
            Policy(copy.deepcopy(model)), samples, objective, tokens_for(count, samples, pack_length), pack_length
        )
        for count in (1, 2, 4)
    )
    assert worst_error(two, one) <= TOLERANCE
    assert worst_error(four, one) <= TOLERANCE


def test_tied_embeddings_get_both_gradients() -> None:
    model, samples = tiny_model(tied=True), random_samples(8)
    expected = dense_gradients(model, samples, "dft")
    assert worst_error(batch_gradients(Policy(model), samples, "dft", CONTEXT), expected) <= TOLERANCE


def test_one_sample_of_the_full_context() -> None:
    model, samples = tiny_model(), random_samples(1)
    assert len(samples[0].ids) == CONTEXT == model.config.max_position_embeddings
    expected = dense_gradients(model, samples, "dft")
    assert worst_error(batch_gradients(Policy(model), samples, "dft"), expected) <= TOLERANCE


def test_a_sample_without_targets_changes_nothing() -> None:
    samples = random_samples(6)
    assert [len(sample.ids) - sample.prompt_length for sample in samples[1:3]] == [1, 0]
    model = tiny_model()
    having = batch_gradients(Policy(copy.deepcopy(model)), samples, "dft")
    lacking = batch_gradients(Policy(copy.deepcopy(model)), [*samples[:2], *samples[3:]], "dft")
    assert worst_error(having, lacking) <= TOLERANCE


def test_a_batch_of_completions_that_are_only_the_end_of_sequence() -> None:
    samples = [Sample((5, 6, 7, 2), 3), Sample((8, 2), 1), Sample((9, 10, 2), 2)]
    model = tiny_model()
    expected = dense_gradients(model, samples, "sft")
    assert worst_error(batch_gradients(Policy(model), samples, "sft"), expected) <= TOLERANCE


def test_a_change_in_one_sample_moves_no_gradient_of_another() -> None:
    """No token attends across a boundary: the unembedding's gradient of a pack is the sum of its samples'."""
    model = tiny_model()
    first, second = Sample((5, 6, 7, 8), 2), Sample((9, 10, 11), 1)
    together = batch_gradients(Policy(copy.deepcopy(model)), [first, second], "sft")["lm_head.weight"]
    alone = [
        batch_gradients(Policy(copy.deepcopy(model)), [sample], "sft")["lm_head.weight"] for sample in (first, second)
    ]
    assert relative_error(together * 4, alone[0] * 2 + alone[1] * 2) <= TOLERANCE
