"""The denominator, with verl's formulas typed anew, and each rank's micro-batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dft_sweeps.data.encode import Sample
from dft_sweeps.spec.models import NormalizationSpec
from dft_sweeps.training.batch import SCALE, normalized, split_batch
from dft_sweeps.training.order import batch_indices
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from tests.training.loops import curve, execution, run_loop
from tests.training.tiny_policy import CONTEXT, before_each_step, random_samples, tiny_model, train_spec, worst_error

SAMPLES = random_samples(20)


def scales(batch: list[Sample], **fields: Any) -> list[float]:
    """The scale of each sample, nan for one without targets."""
    columns = [sample.columns[SCALE] for sample in normalized(batch, NormalizationSpec(**fields))]
    assert all(len(set(column.tolist())) <= 1 for column in columns)
    return [float(column[0]) if len(column) else float("nan") for column in columns]


def test_the_token_mean_divides_by_the_targets_of_the_whole_batch() -> None:
    targets = sum(sample.targets for sample in SAMPLES)
    np.testing.assert_allclose([x for x in scales(SAMPLES) if x == x], 1 / targets, rtol=1e-6)


def test_summed_micro_batches_are_as_many_times_too_large() -> None:
    batch = random_samples(16)
    plain = np.array(scales(batch))
    summed = np.array(scales(batch, sum_micro_batches=True, ranks=2, micro_batch_samples=2))
    np.testing.assert_allclose(summed, 4 * plain, rtol=1e-6)


def verl_loss(model: nn.Module, batch: list[Sample], ranks: int, size: int, summed: bool) -> Tensor:
    """The published trainer's loss in float64: fsdp_dft_trainer.py with balance_dp_token off.

    DistributedSampler deals the batch out to the ranks in turn; each rank splits its share in order, takes the token
    mean of each micro-batch, and FSDP averages over ranks. Its loop calls backward() before it divides by the number
    of micro-batches.
    """
    total = torch.zeros((), dtype=torch.float64)
    for rank in range(ranks):
        share = batch[rank::ranks]
        pieces = [share[start : start + size] for start in range(0, len(share), size)]
        for piece in pieces:
            losses = []
            for sample in piece:
                ids = torch.tensor([sample.ids])
                logp = model(input_ids=ids).logits[0, sample.prompt_length - 1 : -1].log_softmax(-1)
                logp = logp.gather(-1, ids[0, sample.prompt_length :, None]).squeeze(-1)
                losses.append(-logp.exp().detach() * logp)
            total = total + torch.cat(losses).mean() / (1 if summed else len(pieces))
    return total / ranks


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("micro_batch_tokens", [CONTEXT, 10_000])
def test_the_published_normalisation_whatever_our_own_packing_is(summed: bool, micro_batch_tokens: int) -> None:
    samples = random_samples(16, seed=3)
    samples[2] = random_samples(4, seed=8)[3]
    model = tiny_model().double()
    order = train_spec(batch_size=16, steps=1)
    batch = [samples[index] for index in batch_indices(1, order, 16)]
    verl_loss(model, batch, 2, 4, summed).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}

    policy, found = Policy(tiny_model()), {}
    normalization = {"kind": "micro_batch_means", "ranks": 2, "micro_batch_samples": 4, "sum_micro_batches": summed}
    settings = train_spec(batch_size=16, steps=1, normalization=normalization, optimizer={"clip_norm": 1e9})
    gradients = dict(policy.model.named_parameters())
    with before_each_step(lambda: found.update({name: p.grad.clone() for name, p in gradients.items()})):
        (metrics,) = curve(list(run_loop(policy, samples, settings, micro_batch_tokens=micro_batch_tokens)))
    assert worst_error(found, expected) <= 1e-5
    mean = verl_loss(tiny_model().double(), batch, 2, 4, False).item()
    assert metrics["train/objective"] == pytest.approx(mean, rel=1e-5), "logged without the multiplicity"


def test_the_legacy_clip_is_a_smaller_clip() -> None:
    """Twice the micro-batches under clip 1 is the mean under clip 1/2, as far as AdamW's epsilon allows."""

    def weights(normalization: dict[str, Any], clip_norm: float) -> Tensor:
        policy = Policy(tiny_model())
        settings = train_spec(
            batch_size=8, steps=3, normalization=normalization, optimizer={"clip_norm": clip_norm, "eps": 1e-30}
        )
        list(run_loop(policy, SAMPLES, settings))
        return policy.model.lm_head.weight

    legacy = {"sum_micro_batches": True, "ranks": 2, "micro_batch_samples": 2}
    torch.testing.assert_close(weights(legacy, 0.05), weights({}, 0.025), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(weights(legacy, 0.05), weights({}, 0.05), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("world_size", [1, 2, 3, 25])
def test_ranks_agree_on_the_number_of_micro_batches_and_share_every_sample(world_size: int) -> None:
    batch = normalized(SAMPLES, NormalizationSpec())
    policy = Policy(tiny_model())
    shares = [split_batch(batch, policy, execution(CONTEXT), Ranks(rank, world_size)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    members = sorted(member for share in shares for micro_batch in share for member in micro_batch.members)
    assert members == list(range(len(SAMPLES)))
    total = sum(float(one.columns[SCALE].astype(np.float64).sum()) for share in shares for one in share)
    assert total == pytest.approx(1.0, rel=1e-6)


def test_a_batch_without_any_target_is_refused() -> None:
    with pytest.raises(ValueError, match="without a target token"):
        normalized([Sample((3, 4), 2)], NormalizationSpec())
