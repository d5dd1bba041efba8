"""Mistakes other trainers shipped: each test has a criterion, the mistake, and shows that the one sees the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dft_sweeps.objectives import dft
from dft_sweeps.objectives.rows import kl_policy_to_reference, kl_reference_to_policy
from dft_sweeps.objectives.sequence import iw_sft_trajectory, sentence_weighted
from dft_sweeps.objectives.token import eaft, iw_sft_token, psft, within

SampleLosses = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From logp, reference_logp and sample, [tokens] each."""


def slopes(loss: Callable[[Tensor], Tensor], logp: Tensor) -> Tensor:
    """d(loss) / d(logp) of each token."""
    leaf = logp.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf).sum(), leaf)[0]


def test_the_weight_of_dft_is_detached() -> None:
    """modelscope/twinkle#291: where it is not, targets of p < 1/e are pushed down."""
    logp = torch.log(torch.tensor([0.9, 1 / math.e - 0.01, 0.1, 1e-4], dtype=torch.float64))

    def every_target_is_pushed_up(loss: Callable[[Tensor], Tensor]) -> bool:
        return bool((slopes(loss, logp) < 0).all())

    assert every_target_is_pushed_up(dft)
    assert not every_target_is_pushed_up(lambda logp: -logp.exp() * logp)


def test_the_weight_of_token_level_iw_sft_is_detached() -> None:
    logp, reference = torch.tensor([-3.0, -2.0, -0.5]), torch.tensor([-2.9, -2.2, -0.4])

    def the_slope_is_minus_the_weight(loss: Callable[[Tensor], Tensor]) -> bool:
        return torch.allclose(slopes(loss, logp), -(logp - reference).exp())

    assert the_slope_is_minus_the_weight(lambda logp: iw_sft_token(logp, reference))
    assert not the_slope_is_minus_the_weight(lambda logp: -(logp - reference).exp().clamp(0.2, 1.8) * logp)


def test_the_entropy_of_eaft_is_over_its_largest_value() -> None:
    """axolotl's eaft_loss has the entropy in nats, which makes losses 3 times those of the paper."""
    logp = torch.tensor([-1.0, -4.0])
    even_choice = torch.full((2,), math.log(20))

    def losses_lie_between_nothing_and_sft(losses: Tensor) -> bool:
        return bool((losses <= -logp * (1 + 1e-6)).all())

    assert losses_lie_between_nothing_and_sft(eaft(logp, even_choice))
    assert not losses_lie_between_nothing_and_sft(-even_choice * logp)


def three_samples() -> tuple[Tensor, Tensor, Tensor]:
    """Three samples of three targets each, log-probabilities under policy and reference."""
    random = torch.Generator().manual_seed(0)
    logp = -torch.rand(9, generator=random, dtype=torch.float64)
    reference = logp + 0.5 * torch.randn(9, generator=random, dtype=torch.float64)
    return logp, reference, torch.arange(3).repeat_interleave(3)


def samples_keep_to_themselves(losses: SampleLosses) -> bool:
    """Whether each sample's losses are the same alone and beside the others."""
    logp, reference, sample = three_samples()
    together = losses(logp, reference, sample)
    alone = [losses(logp[own], reference[own], sample[own]) for own in (sample == index for index in range(3))]
    return torch.allclose(together, torch.cat(alone))


def test_the_weight_of_iw_sft_goes_to_its_own_sample() -> None:
    """emmyqin/iw_sft, bounding_trainers.py: weights [B, 1] on losses [B, T, 1] go by position in the sequence, not by
    sample, wherever B happens to be T."""

    def broadcast(logp: Tensor, reference: Tensor, sample: Tensor) -> Tensor:
        logp, reference = logp.reshape(-1, 3, 1), reference.reshape(-1, 3, 1)
        weights = (logp - reference).mean(1).exp().clamp(0, 16)
        return -(weights * logp).flatten()

    assert samples_keep_to_themselves(iw_sft_trajectory)
    assert not samples_keep_to_themselves(broadcast)


@pytest.mark.parametrize("mean", ["none", "geometric"])
def test_sentence_weights_do_not_mix_samples(mean: str) -> None:
    """A packed row holds many samples; a weight over the row is not a sentence's."""

    def over_the_row(logp: Tensor, reference: Tensor, sample: Tensor) -> Tensor:
        total = logp.sum() if mean == "none" else logp.mean()
        return -total.exp() * logp

    assert samples_keep_to_themselves(lambda logp, _, sample: sentence_weighted(logp, sample, mean))  # type: ignore
    assert not samples_keep_to_themselves(over_the_row)


def test_the_weights_of_samples_are_detached() -> None:
    logp, reference, sample = three_samples()

    def slopes_within_a_sample_are_equal(loss: Callable[[Tensor], Tensor]) -> bool:
        found = slopes(loss, logp).reshape(3, 3)
        return torch.allclose(found, found[:, :1].expand(3, 3)) and bool((found < 0).all())

    def leaky(logp: Tensor) -> Tensor:
        sums = torch.zeros(3, dtype=logp.dtype).index_add(0, sample, logp)
        return -sums.exp()[sample] * logp

    assert slopes_within_a_sample_are_equal(lambda logp: iw_sft_trajectory(logp, reference, sample))
    assert slopes_within_a_sample_are_equal(lambda logp: sentence_weighted(logp, sample))
    assert slopes_within_a_sample_are_equal(lambda logp: sentence_weighted(logp, sample, "geometric"))
    assert not slopes_within_a_sample_are_equal(leaky)


def test_samples_without_targets_between_others_do_no_harm() -> None:
    logp, reference, sample = three_samples()
    spaced = 2 * sample + 1
    for losses in (iw_sft_trajectory(logp, reference, spaced), iw_sft_trajectory(logp, reference, sample)):
        torch.testing.assert_close(losses, iw_sft_trajectory(logp, reference, sample), rtol=0, atol=0)


def test_the_divergences_of_asft_have_their_directions() -> None:
    """The paper's text has KL(policy || reference); `F.kl_div(log policy, reference)`, as its code has it, is the
    other one: it alone is infinite where the policy has ruled out what the reference may say."""
    policy = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    reference = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log()

    def minds_what_the_policy_has_ruled_out(divergence: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> bool:
        return math.isinf(divergence(policy, reference)[0].item())

    assert minds_what_the_policy_has_ruled_out(kl_reference_to_policy)
    assert not minds_what_the_policy_has_ruled_out(kl_policy_to_reference)
    assert kl_policy_to_reference(policy, reference)[0].item() == pytest.approx(0.5 * math.log(2))
    soft = (0.9 * policy.exp() + 0.1 / 3).log()
    published = torch.nn.functional.kl_div(soft, reference.exp(), reduction="sum")
    assert kl_reference_to_policy(soft, reference)[0].item() == pytest.approx(published.item())
    assert kl_policy_to_reference(soft, reference)[0].item() != pytest.approx(published.item(), rel=0.1)


def test_words_that_both_models_rule_out_add_nothing_to_the_divergence() -> None:
    policy = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    reference = torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64).log()
    for divergence in (kl_reference_to_policy, kl_policy_to_reference):
        values, gradient = divergence(policy, reference)
        expected, slope = divergence(policy[:, :2], reference[:, :2])
        assert values.tolist() == expected.tolist()
        assert gradient.tolist() == [[*slope[0].tolist(), 0.0]]


def test_psft_stops_at_the_upper_bound_and_only_there() -> None:
    """With the maximum of the two terms, or an advantage of -1, it is the lower bound that stops the gradient."""
    old = torch.full((3,), -2.0)
    logp = old + torch.log(torch.tensor([0.5, 1.0, 2.0]))  # below, between and above the bounds

    def pushes_up_what_has_not_risen_enough(loss: Callable[[Tensor], Tensor]) -> bool:
        return torch.sign(slopes(loss, logp)).tolist() == [-1.0, -1.0, 0.0]

    def trapped(pick: Callable[[Tensor, Tensor], Tensor], sign: float) -> Callable[[Tensor], Tensor]:
        def loss(logp: Tensor) -> Tensor:
            ratio = (logp - old).exp()
            return sign * pick(ratio, ratio.clamp(0.8, 1.28))

        return loss

    assert pushes_up_what_has_not_risen_enough(lambda logp: psft(logp, old))
    assert not pushes_up_what_has_not_risen_enough(trapped(torch.maximum, -1.0))
    assert not pushes_up_what_has_not_risen_enough(trapped(torch.minimum, 1.0))
    assert not pushes_up_what_has_not_risen_enough(trapped(torch.maximum, 1.0))


def test_a_threshold_leaves_the_denominator_alone() -> None:
    """A mean over the tokens that pass would weigh a batch the more, the fewer of its tokens do."""
    logp = torch.log(torch.tensor([0.05, 0.1, 0.5, 0.9], dtype=torch.float64))

    def adds_up_over_parts(mask: Callable[[Tensor], Tensor]) -> bool:
        whole = (-logp * mask(logp)).sum()
        return torch.allclose(whole, sum((-part * mask(part)).sum() for part in logp.split(2)))  # type: ignore

    def renormalised(logp: Tensor) -> Tensor:
        mask = (logp.exp() >= 0.08).double()
        return mask * len(mask) / mask.sum()

    assert within(logp, 0.08, 1.0).tolist() == [0.0, 1.0, 1.0, 1.0]
    assert adds_up_over_parts(lambda logp: within(logp, 0.08, 1.0))
    assert not adds_up_over_parts(renormalised)
    assert within(torch.tensor([1e-7]), 0.5, 1.0).item() == 1.0  # p above 1 by rounding
