"""The part of a trial's spec that says how its checkpoints are measured."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from dft_sweeps.spec.data_models import TemplateName
from dft_sweeps.spec.spec_model import PathName, SpecModel
from dft_sweeps.spec.yaml_lines import shown


def _metric_name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", value):
        raise ValueError(f"{value!r} cannot name a sampling: at most 64 of a-z, 0-9 and `_`, beginning with a letter")
    return value


class BenchmarkSpec(SpecModel):
    """A benchmark by its name, e.g. `gsm8k`, or with a local file and a limit."""

    name: str = Field(min_length=1)
    path: PathName | None = None
    """Local file to read instead of the benchmark's own source; relative to the spec file."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many questions; said on every table."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict | BenchmarkSpec):
            raise ValueError("a benchmark is given by its name, or by a mapping with its `name`")
        return value


class AdaptiveSpec(SpecModel):
    """Sampling in rounds, which ends when the accuracy is known closely enough."""

    half_width: float = Field(gt=0.0, le=50.0)
    """In percentage points: no more samples once the 95% interval of a benchmark's accuracy, for other samples on the
    same questions, reaches no further than this to either side. The interval holds at every look, so that stopping
    early is no error; `samples` is the most that any question gets."""


class SamplingSpec(SpecModel):
    samples: int = Field(default=1, ge=1, le=1024)
    """Completions per question."""
    samples_between: int | None = Field(default=None, ge=1, le=1024)
    """Completions per question where a curve is only to be followed: at all evaluated steps but 0, the last and
    `evaluation.key_steps`. By default as many as at those."""
    temperature: float = Field(default=1.0, ge=0.0, le=10.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_new_tokens: int = Field(default=4096, ge=1)
    seed: int = Field(default=0, ge=0)
    adaptive: AdaptiveSpec | None = None
    """By default as `evaluation.adaptive` has it; of no effect on a single sample."""
    context: int | None = Field(default=None, ge=16)
    """Longest prompt plus completion, in tokens. By default `pool.max_model_len`, where that cuts completions off."""

    @model_validator(mode="after")
    def _samples_that_differ(self) -> SamplingSpec:
        if self.temperature == 0.0 and self.samples > 1:
            raise ValueError("at temperature 0 every sample is the same: set `samples: 1`")
        if self.samples_between is not None and self.samples_between > self.samples:
            raise ValueError(f"samples_between is {self.samples_between}, more than samples, which is {self.samples}")
        if self.adaptive is not None and self.samples == 1:
            raise ValueError("adaptive sampling chooses how many samples to draw: set `samples` to the most it may")
        return self


class HistogramSpec(SpecModel):
    """The shares of target tokens by their probability under the policy: the paper's Figure 2."""

    every: int | None = Field(default=None, ge=1)
    """Every so many steps; at the evaluated steps by default."""
    samples: int = Field(default=32, ge=1)
    """Training samples whose targets are counted, the same in every trial of one data."""
    edges: tuple[float, ...] = (0.0, 1e-4, 1e-3, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Where the bins of probability begin and end, from 0 to 1; the paper's by default."""

    @field_validator("edges")
    @classmethod
    def _cover_all_probabilities(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if len(edges) < 2:
            raise ValueError(f"should have at least two edges, found {shown(list(edges))}")
        if (edges[0], edges[-1]) != (0, 1):
            raise ValueError(f"should go from 0 to 1, found {edges[0]} to {edges[-1]}")
        for low, high in itertools.pairwise(edges):
            if low >= high:
                raise ValueError(f"should rise from edge to edge, found {high} after {low}")
        return edges


class EvaluationSpec(SpecModel):
    benchmarks: tuple[BenchmarkSpec, ...] = Field(min_length=1)
    every: int | None = Field(default=None, ge=1)
    """Evaluate every so many steps. Step 0 (the base model) and the last step are always evaluated."""
    steps: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Further steps to evaluate."""
    key_steps: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Further steps to evaluate, with as many samples as step 0 and the last step (`samples_between`)."""
    samplings: dict[Annotated[str, AfterValidator(_metric_name)], SamplingSpec] = Field(
        default={"sampled": SamplingSpec(samples=16), "greedy": SamplingSpec(temperature=0.0)}, min_length=1
    )
    """Ways to sample, by name. The first one gives `eval/<benchmark>/accuracy`, any other
    `eval_<name>/<benchmark>/accuracy`."""
    adaptive: AdaptiveSpec | None = None
    """Draw samples only until accuracies are known this closely: for every sampling of several samples that does not
    say otherwise. Numbers that are compared with published ones need fixed samples."""
    selection_share: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of each benchmark's questions that are held out to choose a trial or a step by; accuracies are those on the
    other questions. By default there is no such split, and `report` says that a choice was made on the test."""
    template: TemplateName = "auto"
    """How questions are written for the model: `chat` by its tokenizer's chat template, any other as the published
    harness writes them for that family; `auto` chooses by the model."""
    histogram: HistogramSpec = HistogramSpec()

    @field_validator("benchmarks")
    @classmethod
    def _distinct(cls, benchmarks: tuple[BenchmarkSpec, ...]) -> tuple[BenchmarkSpec, ...]:
        names = [benchmark.name for benchmark in benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"benchmark named twice: {', '.join(twice)}")
        return benchmarks

    def due(self, last: int) -> tuple[int, ...]:
        """Steps to evaluate in a trial of `last` steps: 0, multiples of `every`, `steps`, `key_steps`, and `last`."""
        chosen = {0, last, *self.steps, *self.key_steps, *range(0, last, self.every or last)}
        return tuple(sorted(chosen))

    def sampling_at(self, name: str, step: int, last: int) -> SamplingSpec:
        """How step `step` of `last` is sampled: with its number of samples, adaptive or not."""
        sampling = self.samplings[name]
        key = step in (0, last, *self.key_steps)
        samples = sampling.samples if key else sampling.samples_between or sampling.samples
        adaptive = (sampling.adaptive or self.adaptive) if samples > 1 else None
        return sampling.model_copy(update={"samples": samples, "samples_between": None, "adaptive": adaptive})
