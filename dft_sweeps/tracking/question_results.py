"""What MLflow keeps of an evaluated checkpoint question by question: one JSON artifact per step, on the trial's run."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dft_sweeps.evaluation.intervals import LEVEL, Array
from dft_sweeps.evaluation.results import BenchmarkResult, Judgements
from dft_sweeps.evaluation.selection import held_out

FOLDER = "evaluations"


@dataclass(frozen=True)
class QuestionResults:
    """One grader's verdicts on one checkpoint, benchmark and sampling, counted by question."""

    sampling: str
    benchmark: str
    benchmark_digest: str
    grader: str
    """``name/version``."""
    evaluation_id: str
    grade_id: str
    """Completions and verdicts stand on storage under these."""
    own: bool
    """Whether this is the benchmark's own grader."""
    samples: int
    """Per question."""
    questions: tuple[str, ...]
    """Ids, in the benchmark's order."""
    right: tuple[int, ...]
    """Per question, how many of its samples are right."""
    settings: Mapping[str, Any] | None = None
    """The SamplingSpec, every field of it; None in artifacts of an earlier version."""
    held_out: tuple[str, ...] = ()
    """Ids of the questions that `evaluation.selection_share` holds out, on which accuracies do not stand."""

    @property
    def correct(self) -> list[list[bool]]:
        """Per question a row of verdicts, right ones first."""
        return [[sample < right for sample in range(self.samples)] for right in self.right]

    @property
    def counts(self) -> tuple[Array, Array]:
        """Right samples and samples, both [questions]."""
        import numpy as np

        return np.array(self.right, dtype=np.float64), np.full(len(self.right), float(self.samples))

    @property
    def level(self) -> float:
        """Of its 95% intervals: a higher one where sampling was adaptive, so that they hold at every look."""
        from dft_sweeps.evaluation.adaptive import look_level, looks

        adaptive = self.settings is not None and self.settings.get("adaptive") is not None
        return look_level(looks(self.settings["samples"])) if adaptive and self.settings else LEVEL

    def without(self, left_out: Collection[str]) -> QuestionResults:
        """The same of the other questions alone."""
        if not left_out:
            return self
        left_out = frozenset(left_out)
        kept = [(id_, right) for id_, right in zip(self.questions, self.right, strict=True) if id_ not in left_out]
        return replace(
            self,
            questions=tuple(id_ for id_, _ in kept),
            right=tuple(right for _, right in kept),
            held_out=tuple(id_ for id_ in self.held_out if id_ not in left_out),
        )


def artifact_name(step: int) -> str:
    """E.g. ``step-00000060.json``."""
    return f"step-{step:08d}.json"


def step_of(name: str) -> int:
    """The inverse of `artifact_name`."""
    return int(name.removeprefix("step-").removesuffix(".json"))


def to_json(results: Mapping[str, Sequence[Judgements]], selection_share: float | None = None) -> str:
    """Of one checkpoint, by sampling; `selection_share` as in the spec."""
    tables = [
        _counted(name, result, own=index == 0, selection_share=selection_share)
        for name, benchmarks in results.items()
        for judged in benchmarks
        for index, result in enumerate(judged.values())
    ]
    return json.dumps([asdict(table) for table in tables])


def from_json(text: str) -> list[QuestionResults]:
    """The inverse of `to_json`."""
    tables: list[dict[str, Any]] = json.loads(text)
    return [
        QuestionResults(**table | {name: tuple(table.get(name, ())) for name in ("questions", "right", "held_out")})
        for table in tables
    ]


def _counted(sampling: str, result: BenchmarkResult, own: bool, selection_share: float | None) -> QuestionResults:
    ids = tuple(question.question_id for question in result.questions)
    chosen = held_out(result.key.benchmark, ids, selection_share) if selection_share else frozenset()
    return QuestionResults(
        sampling=sampling,
        benchmark=result.key.benchmark,
        benchmark_digest=result.key.benchmark_digest,
        grader=result.grader,
        evaluation_id=result.key.id,
        grade_id=result.id,
        own=own,
        samples=result.samples,
        questions=ids,
        right=tuple(map(sum, result.correct)),
        settings=result.key.sampling.model_dump(mode="json"),
        held_out=tuple(id_ for id_ in ids if id_ in chosen),
    )
