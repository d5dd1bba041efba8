"""What MLflow keeps of an evaluated checkpoint question by question: one JSON artifact per step, on the trial's run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dft_sweeps.evaluation.results import BenchmarkResult, Judgements

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

    @property
    def correct(self) -> list[list[bool]]:
        """Per question a row of verdicts, right ones first."""
        return [[sample < right for sample in range(self.samples)] for right in self.right]


def artifact_name(step: int) -> str:
    """E.g. ``step-00000060.json``."""
    return f"step-{step:08d}.json"


def step_of(name: str) -> int:
    """The inverse of `artifact_name`."""
    return int(name.removeprefix("step-").removesuffix(".json"))


def to_json(results: Mapping[str, Sequence[Judgements]]) -> str:
    """Of one checkpoint, by sampling."""
    tables = [
        _counted(name, result, own=index == 0)
        for name, benchmarks in results.items()
        for judged in benchmarks
        for index, result in enumerate(judged.values())
    ]
    return json.dumps([asdict(table) for table in tables])


def from_json(text: str) -> list[QuestionResults]:
    """The inverse of `to_json`."""
    tables: list[dict[str, Any]] = json.loads(text)
    return [
        QuestionResults(**table | {"questions": tuple(table["questions"]), "right": tuple(table["right"])})
        for table in tables
    ]


def _counted(sampling: str, result: BenchmarkResult, own: bool) -> QuestionResults:
    return QuestionResults(
        sampling=sampling,
        benchmark=result.key.benchmark,
        benchmark_digest=result.key.benchmark_digest,
        grader=result.grader,
        evaluation_id=result.key.id,
        grade_id=result.id,
        own=own,
        samples=result.samples,
        questions=tuple(question.question_id for question in result.questions),
        right=tuple(map(sum, result.correct)),
    )
