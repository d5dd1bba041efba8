"""What an evaluation yields: completions as generated, then verdicts on them, and the numbers that follow.

Completions and verdicts are separate records, so that a new grader judges old completions without generating
again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from dft_sweeps.evaluation.adaptive import look_level, looks
from dft_sweeps.evaluation.generator import FinishReason
from dft_sweeps.evaluation.grading import Verdict
from dft_sweeps.evaluation.intervals import LEVEL, Interval, Kind, average, interval
from dft_sweeps.evaluation.metrics import mean_majority_at_k, mean_pass_at_k
from dft_sweeps.spec.identity import evaluation_id, grade_id
from dft_sweeps.spec.models import SamplingSpec


class EngineSampling(SamplingSpec):
    """How engines sample that do not compute in float32: no field of a spec's samplings, but part of their identity."""

    dtype: Literal["bfloat16"]


def stored_sampling(fields: Mapping[str, Any]) -> SamplingSpec:
    """The sampling of a stored identity. Raises ValueError (pydantic's) where it is none."""
    return (EngineSampling if "dtype" in fields else SamplingSpec).model_validate(fields)


@dataclass(frozen=True)
class EvaluationKey:
    """What was sampled from and how: equal keys mean the same completions."""

    weights_digest: str
    benchmark: str
    benchmark_digest: str
    template_digest: str
    """`Prompts.full_digest`."""
    sampling: SamplingSpec

    @property
    def id(self) -> str:
        return evaluation_id(self.weights_digest, self.benchmark_digest, self.template_digest, self.sampling)


@dataclass(frozen=True)
class CompletionRow:
    """One sampled answer to one question."""

    question_id: str
    sample: int
    """Index among the question's samples; its random stream is that of `seed`."""
    seed: int
    prompt_hash: str
    """SHA-256 of the user's turn."""
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class Completions:
    """All completions of one evaluation: questions in the benchmark's order, then samples."""

    key: EvaluationKey
    rows: tuple[CompletionRow, ...]

    @property
    def samples(self) -> int:
        """Per question: `key.sampling.samples`, or fewer where sampling was adaptive."""
        return len(self.rows) // max(1, len({row.question_id for row in self.rows}))


@dataclass(frozen=True)
class GradedSample:
    verdict: Verdict
    finish_reason: FinishReason
    tokens: int


@dataclass(frozen=True)
class GradedQuestion:
    question_id: str
    answer: str
    samples: tuple[GradedSample, ...]


@dataclass(frozen=True)
class BenchmarkResult:
    """Accuracy of one checkpoint on one benchmark, with every question's samples and verdicts."""

    key: EvaluationKey
    grader: str
    """``name/version``."""
    limited: bool
    """Whether only the benchmark's first questions were asked."""
    questions: tuple[GradedQuestion, ...]

    @property
    def id(self) -> str:
        return grade_id(self.key.id, self.grader)

    @property
    def correct(self) -> list[list[bool]]:
        """Per question, whether each sample is right; ungradable ones are not."""
        return [[sample.verdict.correct is True for sample in question.samples] for question in self.questions]

    @property
    def _samples(self) -> list[GradedSample]:
        return [sample for question in self.questions for sample in question.samples]

    @cached_property
    def interval(self) -> Interval:
        """Accuracy and its 95% interval for new questions. Ungradable completions count as wrong.

        Where sampling was adaptive, both intervals hold at all looks together, so wherever it stopped.
        """
        return interval(self.correct, self._level)

    @cached_property
    def fixed_interval(self) -> Interval:
        """Accuracy and its 95% interval for other samples on these questions."""
        return interval(self.correct, self._level, "fixed_list")

    @property
    def _level(self) -> float:
        sampling = self.key.sampling
        return LEVEL if sampling.adaptive is None else look_level(looks(sampling.samples))

    @property
    def accuracy(self) -> float:
        """Mean over questions of the mean over samples, in [0, 1]."""
        return self.interval.mean

    @property
    def samples(self) -> int:
        """Per question: the k of `pass_at_k` and `majority_at_k`. Where sampling was adaptive, where it stopped."""
        return len(self.questions[0].samples)

    def among(self, question_ids: Collection[str]) -> BenchmarkResult:
        """The same on these questions alone."""
        return replace(self, questions=tuple(each for each in self.questions if each.question_id in question_ids))

    @property
    def saved(self) -> float:
        """Share of the most samples that adaptive sampling did without; 0 where it was not adaptive."""
        return 1 - self.samples / self.key.sampling.samples

    @cached_property
    def pass_at_k(self) -> float:
        """Share of questions with a right one among their samples."""
        right = [sum(row) for row in self.correct]
        return mean_pass_at_k(right, [self.samples] * len(right), self.samples)

    @cached_property
    def majority_at_k(self) -> float:
        """Share of questions whose commonest answer is right; of answers that tie each counts its part."""
        votes = [
            [(s.verdict.extracted, s.verdict.correct is True) for s in question.samples] for question in self.questions
        ]
        return mean_majority_at_k(votes, self.samples)

    @property
    def truncated(self) -> float:
        """Share of completions that hit the length limit."""
        return _share([sample.finish_reason == "length" for sample in self._samples])

    @property
    def no_answer(self) -> float:
        """Share of completions in which the grader found no answer; ungradable ones are not among them."""
        return _share([s.verdict.correct is False and s.verdict.extracted is None for s in self._samples])

    @property
    def ungradable(self) -> int:
        """Number of completions without a verdict; they count as wrong in `accuracy`."""
        return sum(sample.verdict.correct is None for sample in self._samples)

    @property
    def tokens(self) -> int:
        """Tokens generated."""
        return sum(sample.tokens for sample in self._samples)


Judgements = dict[str, BenchmarkResult]
"""One evaluation's results by grader, the benchmark's own first."""


def macro_average(results: Sequence[BenchmarkResult], kind: Kind = "new_questions") -> Interval:
    """Unweighted mean of the accuracies of several benchmarks, with its 95% interval."""
    return average([result.interval if kind == "new_questions" else result.fixed_interval for result in results])


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
