"""Benchmarks: questions with answers, each benchmark declared by one short file in `benchmark_files/`.

A benchmark file says where the rows come from, which fields hold question and answer, how the answer is cut
out, what is appended to the question, and which grader judges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from dft_sweeps.data.arithmetic import problems
from dft_sweeps.data.sources import numbered_rows, read_hub_rows
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.identity import digest
from dft_sweeps.spec.models import BenchmarkSpec, SpecModel
from dft_sweeps.spec.schema import nearest


@dataclass(frozen=True)
class Question:
    id: str
    """Unique within the benchmark, and the same wherever its rows were read from."""
    prompt_text: str
    """The user's turn: the question and the benchmark's suffix."""
    answer: str


@dataclass(frozen=True)
class Benchmark:
    name: str
    questions: tuple[Question, ...]
    grader: str
    limited: bool
    """Whether `limit` left questions out."""
    digest: str
    """Hash of name, questions and answers, in their order: everything but the grader."""


class ArithmeticQuestions(SpecModel):
    """Held-out problems of the embedded task."""

    kind: Literal["arithmetic"]
    level: Literal[1, 2, 3]
    count: int = Field(ge=1)
    seed: int = Field(ge=0)


class HubQuestions(SpecModel):
    """A split of a Hugging Face dataset."""

    kind: Literal["hub"]
    id: str
    name: str | None = None
    split: str
    revision: str | None = None


class BenchmarkFile(SpecModel):
    """What a file in `benchmark_files/` can say."""

    source: Annotated[ArithmeticQuestions | HubQuestions, Field(discriminator="kind")]
    question: str = "question"
    """Field with the question."""
    answer: str = "answer"
    """Field with the answer: text or a number."""
    answer_after: str | None = None
    """The answer is what follows the last of these marks in its field."""
    grader: str
    prompt_suffix: str = ""
    """Appended to every question."""


def benchmark_names() -> list[str]:
    """Names of all shipped benchmarks."""
    return sorted(file.name.removesuffix(".yaml") for file in _files().iterdir() if file.name.endswith(".yaml"))


def load_benchmark(spec: BenchmarkSpec, base_directory: Path) -> Benchmark:
    """Reads the questions of a benchmark; a relative `spec.path` starts at `base_directory`.

    Raises:
        SpecError: an unknown name, a source that cannot be read or is empty, or a row without question or
            answer (its number is named).
    """
    declared = _declared(spec.name)
    if spec.path is not None:
        path = base_directory / Path(spec.path).expanduser()
        questions = _from_rows(numbered_rows(path), declared, str(path))
    elif isinstance(declared.source, HubQuestions):
        rows = list(enumerate(_hub_rows(spec.name, declared.source), start=1))
        questions = _from_rows(rows, declared, f"dataset {declared.source.id}")
    else:
        questions = _from_generator(declared.source, declared.prompt_suffix)
    kept = questions[: spec.limit]
    content = [spec.name, [[question.id, question.prompt_text, question.answer] for question in kept]]
    return Benchmark(spec.name, kept, declared.grader, len(kept) < len(questions), digest(content))


def _files() -> Any:
    return resources.files(__package__) / "benchmark_files"


def _declared(name: str) -> BenchmarkFile:
    names = benchmark_names()
    if name not in names:
        raise SpecError(f"unknown benchmark {name!r}; {nearest(name, names)}")
    return BenchmarkFile.model_validate(yaml.safe_load((_files() / f"{name}.yaml").read_text(encoding="utf-8")))


def _hub_rows(name: str, source: HubQuestions) -> list[dict[str, Any]]:
    try:
        return read_hub_rows(source.id, source.name, source.revision, source.split)
    except SpecError as error:
        advice = f"where there is no network, give the benchmark's file: {{name: {name}, path: FILE.jsonl}}"
        raise SpecError(f"{error}; {advice}") from error


def _from_generator(source: ArithmeticQuestions, suffix: str) -> tuple[Question, ...]:
    heldout = problems(source.level, source.count, source.seed, split="heldout")
    return tuple(Question(problem.id, problem.question + suffix, problem.answer) for problem in heldout)


def _from_rows(rows: list[tuple[int, dict[str, Any]]], declared: BenchmarkFile, where: str) -> tuple[Question, ...]:
    """Rows come with their numbers in the file; ids count questions, so that blank lines do not change them."""
    if not rows:
        raise SpecError(f"{where}: no questions")
    return tuple(
        _question(row, str(index), declared, f"{where}: row {number}")
        for index, (number, row) in enumerate(rows, start=1)
    )


def _question(row: dict[str, Any], id_: str, declared: BenchmarkFile, where: str) -> Question:
    question = _text(row, declared.question, where)
    answer = _text(row, declared.answer, where)
    if declared.answer_after is not None:
        _, mark, answer = answer.rpartition(declared.answer_after)
        if not mark:
            mark = repr(declared.answer_after)
            raise SpecError(f"field {declared.answer!r} has no {mark} before an answer", where)
    if not answer.strip():
        raise SpecError(f"field {declared.answer!r} holds no answer", where)
    return Question(id_, question + declared.prompt_suffix, answer.strip())


def _text(row: dict[str, Any], field: str, where: str) -> str:
    """A field as text; a whole number is written without a point (27.0 is "27")."""
    value = row.get(field)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        found = f"it has {', '.join(map(repr, row))}" if field not in row else f"found {value!r}"
        raise SpecError(f"no text or number in field {field!r}: {found}", where)
    return value
