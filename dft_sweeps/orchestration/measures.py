"""What the points of a sweep mean: two runs of a trial whose points mean the same have the same points."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation.benchmarks import Benchmark
from dft_sweeps.evaluation.evaluate import evaluation_key
from dft_sweeps.evaluation.grading import grader_version
from dft_sweeps.evaluation.results import EngineSampling
from dft_sweeps.spec.identity import digest
from dft_sweeps.spec.models import EvaluationSpec, HistogramSpec, SamplingSpec


def in_context(sampling: SamplingSpec, context: int, dtype: str) -> SamplingSpec:
    """The sampling on engines that take `context` tokens and compute in `dtype`."""
    sampling = sampling.model_copy(update={"context": sampling.context or context})
    return sampling if dtype == "float32" else EngineSampling.model_validate(sampling.model_dump() | {"dtype": dtype})


def measures_of(
    evaluation: EvaluationSpec,
    benchmarks: Mapping[str, Benchmark],
    prompts: Prompts,
    context: int,
    dtype: str,
    ends: Collection[int],
) -> str:
    """Hash of what a sweep's points mean. The order of the samplings counts, for the first one's points have the
    plainer name. What is at its default, or without effect, is left out, so that older runs keep their hashes.

    Args:
        context: tokens that engines take. dtype: what they compute in.
        ends: tokens at which the model's directory ends a completion (`model_files.end_tokens`).
    """
    asked = [benchmarks[spec.name] for spec in evaluation.benchmarks]
    own: dict[str, Any] = evaluation.model_dump(
        include={"adaptive", "key_steps", "selection_share"}, exclude_defaults=True
    )
    if evaluation.histogram != HistogramSpec():
        own["histogram"] = evaluation.histogram.model_dump()
    if dtype != "float32":
        own["dtype"] = dtype
    if further := sorted(set(ends) - set(prompts.stop_token_ids)):
        own["ends"] = further
    samplings = [in_context(sampling, context, dtype) for sampling in evaluation.samplings.values()]
    contexts = [
        evaluation_key("", benchmark, sampling, prompts).sampling.context
        for sampling in samplings
        for benchmark in asked
    ]
    if any(contexts):
        own["contexts"] = contexts
    return digest(
        own
        | {
            "benchmarks": [[b.name, b.digest, *map(grader_version, b.graders)] for b in asked],
            "samplings": [[name, s.model_dump(exclude_defaults=True)] for name, s in evaluation.samplings.items()],
            "every": evaluation.every,
            "steps": sorted(set(evaluation.steps)),
            "template": prompts.digest,
        }
    )
