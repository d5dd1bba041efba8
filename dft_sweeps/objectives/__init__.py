"""Objectives: pure functions from per-token log-probabilities to per-token losses, by the kind they have in a spec.

The keyword arguments of each factory are the fields of that kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from dft_sweeps.objectives import rows, sequence, token
from dft_sweeps.objectives.objective import Objective, RowTerm, Targets
from dft_sweeps.objectives.token import dft, sft

__all__ = ["OBJECTIVES", "Objective", "RowTerm", "Targets", "dft", "make_objective", "sft"]


def _thresholded(loss: Callable[[Tensor], Tensor], min_probability: float, max_probability: float) -> Objective:
    if (min_probability, max_probability) == (0.0, 1.0):
        return Objective(lambda targets: loss(targets.logp))
    return Objective(lambda targets: loss(targets.logp) * token.within(targets.logp, min_probability, max_probability))


def _sft(min_probability: float = 0.0, max_probability: float = 1.0) -> Objective:
    return _thresholded(sft, min_probability, max_probability)


def _dft(min_probability: float = 0.0, max_probability: float = 1.0) -> Objective:
    return _thresholded(dft, min_probability, max_probability)


def _power(alpha: float) -> Objective:
    return Objective(lambda targets: token.power(targets.logp, alpha))


def _focal(gamma: float = 2.0) -> Objective:
    return Objective(lambda targets: token.focal(targets.logp, gamma))


def _eaft(alpha: float = 1.0, top: int = 20) -> Objective:
    def loss(targets: Targets) -> Tensor:
        assert targets.top_entropy is not None
        return token.eaft(targets.logp, targets.top_entropy, alpha, top)

    return Objective(loss, needs=frozenset({"top_entropy"}), entropy_top=top)


def _psft(low: float = 0.8, high: float = 1.28, refresh: int = 8) -> Objective:
    """`refresh`, the optimizer steps between two looks at the old policy, is the loop's."""

    def loss(targets: Targets) -> Tensor:
        assert targets.old_logp is not None
        return token.psft(targets.logp, targets.old_logp, low, high)

    return Objective(loss, needs=frozenset({"old_logp"}))


def _asft(
    beta: float = 0.03,
    direction: Literal["reference_to_policy", "policy_to_reference"] = "reference_to_policy",
) -> Objective:
    """DFT plus beta times a KL divergence over the whole row (arXiv 2509.23753)."""
    divergence = {
        "reference_to_policy": rows.kl_reference_to_policy,
        "policy_to_reference": rows.kl_policy_to_reference,
    }[direction]
    return Objective(lambda targets: dft(targets.logp), row_term=RowTerm(beta, divergence))


def _iw_sft(
    level: Literal["trajectory", "token"] = "trajectory",
    temperature: float = 1.0,
    low: float | None = None,
    high: float | None = None,
) -> Objective:
    default_low, default_high = {"trajectory": (0.0, 16.0), "token": (0.2, 1.8)}[level]
    low, high = default_low if low is None else low, default_high if high is None else high

    def loss(targets: Targets) -> Tensor:
        assert targets.reference_logp is not None
        if level == "token":
            return token.iw_sft_token(targets.logp, targets.reference_logp, temperature, low, high)
        return sequence.iw_sft_trajectory(targets.logp, targets.reference_logp, targets.sample, temperature, low, high)

    return Objective(loss, needs=frozenset({"reference_logp"}), whole_samples=level == "trajectory")


def _sentence_weighted(mean: Literal["none", "geometric"] = "none") -> Objective:
    return Objective(lambda targets: sequence.sentence_weighted(targets.logp, targets.sample, mean), whole_samples=True)


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "sft": _sft,
    "dft": _dft,
    "power": _power,
    "focal": _focal,
    "eaft": _eaft,
    "psft": _psft,
    "asft": _asft,
    "iw_sft": _iw_sft,
    "sentence_weighted": _sentence_weighted,
}
"""Factories by the kind an objective has in a spec."""


def make_objective(kind: str, **fields: Any) -> Objective:
    """The objective of a spec's `objective` section."""
    return OBJECTIVES[kind](**fields)
