"""The objectives a spec can name; fields are the keyword arguments of the functions in `dft_sweeps.objectives`.

There p is the probability of a target token under the policy and sg() stops the gradient.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dft_sweeps.spec.spec_model import SpecModel

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Thresholded(SpecModel):
    min_probability: Probability = 0.0
    max_probability: Probability = 1.0
    """Targets whose probability lies outside of [min_probability, max_probability] have no loss."""

    @model_validator(mode="after")
    def _in_order(self) -> _Thresholded:
        if self.min_probability > self.max_probability:
            raise ValueError(
                f"min_probability should be at most max_probability, "
                f"found {self.min_probability:g} and {self.max_probability:g}"
            )
        return self


class SftObjective(_Thresholded):
    """Supervised fine-tuning: -log p."""

    kind: Literal["sft"]


class DftObjective(_Thresholded):
    """Dynamic fine-tuning, Eq. 9 of arXiv 2508.05629: -sg(p) log p."""

    kind: Literal["dft"]


class PowerObjective(SpecModel):
    """(1 - p^alpha) / alpha: the gradient of SFT weighted by p^alpha."""

    kind: Literal["power"]
    alpha: float = Field(ge=0.0, le=10.0)
    """0 is SFT and 1 is DFT."""


class FocalObjective(SpecModel):
    """-(1 - p)^gamma log p: the opposite bet to DFT."""

    kind: Literal["focal"]
    gamma: float = Field(default=2.0, ge=0.0, le=10.0)
    """0 is SFT."""


class EaftObjective(SpecModel):
    """-sg(H^alpha) log p, with H the entropy of the `top` likeliest tokens among themselves over its largest value."""

    kind: Literal["eaft"]
    alpha: float = Field(default=1.0, ge=0.0, le=10.0)
    """0 is SFT."""
    top: int = Field(default=20, ge=2, le=1000)


class PsftObjective(SpecModel):
    """Proximal SFT: the ratio of the policy to an older one, clipped to [low, high] as in PPO."""

    kind: Literal["psft"]
    low: float = Field(default=0.8, ge=0.0, le=1.0)
    high: float = Field(default=1.28, ge=1.0)
    refresh: int = Field(default=8, ge=1)
    """Optimizer steps after which the older policy is replaced by the present one."""

    @model_validator(mode="after")
    def _in_order(self) -> PsftObjective:
        _check_bounds(self.low, self.high)
        return self


class AsftObjective(SpecModel):
    """Anchored SFT: DFT plus beta times the KL divergence between the policy and the initial policy."""

    kind: Literal["asft"]
    beta: float = Field(default=0.03, ge=0.0)
    """0 is DFT."""
    direction: Literal["reference_to_policy", "policy_to_reference"] = "reference_to_policy"
    """KL(reference || policy), as in the published code, or KL(policy || reference)."""


class IwSftObjective(SpecModel):
    """Importance-weighted SFT: -sg(w) log p, with w the clamped ratio of the policy to the initial policy."""

    kind: Literal["iw_sft"]
    level: Literal["trajectory", "token"] = "trajectory"
    """One ratio per sample (the geometric mean over its tokens), or one per token."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Power of the ratio."""
    low: float = Field(default=0.0, ge=0.0)
    """Smallest ratio; by default 0 for trajectories and 0.2 for tokens."""
    high: float = Field(default=16.0, gt=0.0)
    """Largest ratio; by default 16 for trajectories and 1.8 for tokens."""

    @model_validator(mode="before")
    @classmethod
    def _bounds_of_tokens(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("level") == "token":
            return {"low": 0.2, "high": 1.8} | value
        return value

    @model_validator(mode="after")
    def _in_order(self) -> IwSftObjective:
        _check_bounds(self.low, self.high)
        return self


class SentenceWeightedObjective(SpecModel):
    """-sg(w) log p with one weight per sample: the paper's negative results (section 4.6)."""

    kind: Literal["sentence_weighted"]
    mean: Literal["none", "geometric"] = "none"
    """w is the product of the sample's probabilities, or their geometric mean."""


def _check_bounds(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"low should be less than high, found {low:g} and {high:g}")


Objective = Annotated[
    SftObjective
    | DftObjective
    | PowerObjective
    | FocalObjective
    | EaftObjective
    | PsftObjective
    | AsftObjective
    | IwSftObjective
    | SentenceWeightedObjective,
    Field(discriminator="kind"),
]
