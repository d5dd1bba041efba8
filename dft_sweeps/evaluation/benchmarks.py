"""Benchmarks: questions with answers, each benchmark declared by one short file in `benchmark_files/`.

A benchmark file says where the rows come from, which fields hold question and answer, how the answer is cut
out, how closely it must be met, what is appended to the question, and which grader judges.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from dft_sweeps.data.arithmetic import problems
from dft_sweeps.data.sources import numbered_rows, read_hub_rows
from dft_sweeps.evaluation.gold_answers import Gold, clean, half_last_digit, paper_gold, paper_gold_of_solution
from dft_sweeps.evaluation.graders.extract import last_boxed
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.identity import digest
from dft_sweeps.spec.models import BenchmarkSpec, SpecModel
from dft_sweeps.spec.schema import nearest

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    id: str
    """Unique within the benchmark, and the same wherever its rows were read from."""
    prompt_text: str
    """The user's turn: the question and the benchmark's suffix."""
    answer: str
    gold: Gold
    """The answer as the graders need it."""


@dataclass(frozen=True)
class Benchmark:
    name: str
    questions: tuple[Question, ...]
    grader: str
    limited: bool
    """Whether `limit` left questions out."""
    digest: str
    """Hash of name, questions and answers, in their order: everything but the grader. What the graders need is in it
    where it does not follow from the answer."""

    @property
    def graders(self) -> tuple[str, ...]:
        """Its own grader; then the published harness's, unless answers are compared as they are written."""
        return (self.grader,) if self.grader == "exact" else (self.grader, "paper")


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


class PaperGold(SpecModel):
    """What the published harness compares with, where that is not the answer."""

    solution: str
    """Field with the solution in which it looks for the answer."""
    keeps_units: bool = False
    """Whether it leaves units on predictions."""


class BenchmarkFile(SpecModel):
    """What a file in `benchmark_files/` can say."""

    source: Annotated[ArithmeticQuestions | HubQuestions, Field(discriminator="kind")]
    question: str = "question"
    """Field with the question."""
    answer: str = "answer"
    """Field with the answer: text, a number, or a list of one."""
    answer_after: str | None = None
    """The answer is what follows the last of these marks in its field."""
    answer_boxed: bool = False
    """The answer is in the last box in its field."""
    several: str | None = None
    """Field that says whether there are several answers, separated by commas."""
    unit: str | None = None
    """Field with the answer's unit, if it has one."""
    tolerance: Literal["exact", "last_digit"] = "exact"
    """last_digit: a measured number is met by what rounds to it."""
    error: str | None = None
    """Field with the largest absolute error accepted, if there is one."""
    paper: PaperGold | None = None
    grader: str
    prompt_suffix: str = ""
    """Appended to every question."""
    assumed_accuracy: float = Field(0.5, gt=0, lt=1)
    """What the smallest difference that can be shown is reckoned from, before anything is measured; one half, the
    cautious value, where nothing better is known."""


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
        path = base_directory / os.path.expanduser(spec.path)
        questions = _from_rows(numbered_rows(path), declared, str(path))
    elif isinstance(declared.source, HubQuestions):
        rows = list(enumerate(_hub_rows(spec.name, declared.source), start=1))
        questions = _from_rows(rows, declared, f"dataset {declared.source.id}")
    else:
        questions = _from_generator(declared.source, declared.prompt_suffix)
    kept = questions[: spec.limit]
    content = [spec.name, [_content(question) for question in kept]]
    return Benchmark(spec.name, kept, declared.grader, len(kept) < len(questions), digest(content))


def _content(question: Question) -> list[Any]:
    content = [question.id, question.prompt_text, question.answer]
    return content if question.gold == Gold.of(question.answer) else [*content, asdict(question.gold)]


def prompt_suffix(name: str) -> str:
    """What a shipped benchmark appends to every question. Raises SpecError on an unknown name."""
    return _declared(name).prompt_suffix


def assumed_accuracy(name: str) -> float:
    """An accuracy to plan with on a shipped benchmark. Raises SpecError on an unknown name."""
    return _declared(name).assumed_accuracy


def _files() -> Any:
    return resources.files(__package__) / "benchmark_files"


def _declared(name: str) -> BenchmarkFile:
    names = benchmark_names()
    if name not in names:
        raise SpecError(f"unknown benchmark {name!r}; {nearest(name, names)}")
    return BenchmarkFile.model_validate(yaml.safe_load((_files() / f"{name}.yaml").read_text(encoding="utf-8")))


def _hub_rows(name: str, source: HubQuestions) -> list[dict[str, Any]]:
    if source.revision is None:
        _logger.warning(
            "%s is read at the newest revision of the dataset %s, for its file names none, so its questions may change "
            "from day to day; to settle them, give the benchmark's file: {name: %s, path: FILE.jsonl}",
            *(name, source.id, name),
        )
    try:
        return read_hub_rows(source.id, source.name, source.revision, source.split)
    except SpecError as error:
        advice = f"where there is no network, give the benchmark's file: {{name: {name}, path: FILE.jsonl}}"
        raise SpecError(f"{error}; {advice}") from error


def _from_generator(source: ArithmeticQuestions, suffix: str) -> tuple[Question, ...]:
    heldout = problems(source.level, source.count, source.seed, split="heldout")
    return tuple(
        Question(problem.id, problem.question + suffix, problem.answer, Gold.of(problem.answer)) for problem in heldout
    )


def _from_rows(rows: list[tuple[int, dict[str, Any]]], declared: BenchmarkFile, where: str) -> tuple[Question, ...]:
    """Rows come with their numbers in the file; ids count questions, so that blank lines do not change them."""
    if not rows:
        raise SpecError(f"{where}: no questions")
    return tuple(
        _question(row, str(index), declared, f"{where}: row {number}")
        for index, (number, row) in enumerate(rows, start=1)
    )


def _question(row: dict[str, Any], id_: str, declared: BenchmarkFile, where: str) -> Question:
    question = text_field(row, declared.question, where).strip()  # as the published harness does
    answer = _answer(row, declared, where)
    return Question(id_, question + declared.prompt_suffix, answer, _gold(row, answer, declared, where))


def _answer(row: dict[str, Any], declared: BenchmarkFile, where: str) -> str:
    answer = text_field(row, declared.answer, where)
    if declared.answer_after is not None:
        _, mark, answer = answer.rpartition(declared.answer_after)
        if not mark:
            mark = repr(declared.answer_after)
            raise SpecError(f"field {declared.answer!r} has no {mark} before an answer", where)
    if declared.answer_boxed:
        boxed = last_boxed(answer)
        if boxed is None:
            raise SpecError(f"field {declared.answer!r} has no \\boxed{{}} with an answer", where)
        answer = boxed
    if not answer.strip():
        raise SpecError(f"field {declared.answer!r} holds no answer", where)
    return answer.strip()


def _gold(row: dict[str, Any], answer: str, declared: BenchmarkFile, where: str) -> Gold:
    text = clean(answer)
    tolerance = half_last_digit(text) if declared.tolerance == "last_digit" else 0.0
    if declared.error is not None and row.get(declared.error) is not None:
        tolerance = _positive(row[declared.error], declared.error, where)
    paper = paper_gold(answer)
    if declared.paper is not None:
        paper = paper_gold_of_solution(text_field(row, declared.paper.solution, where), declared.paper.keeps_units)
    return Gold(
        text=text,
        paper=paper,
        several=declared.several is not None and row.get(declared.several) is True,
        tolerance=tolerance,
        unit=str(row.get(declared.unit) or "") if declared.unit is not None else "",
        keeps_units=declared.paper is not None and declared.paper.keeps_units,
    )


def _positive(value: Any, field: str, where: str) -> float:
    """An error bound such as "1e-1"."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise SpecError(f"field {field!r} holds {value!r}, no positive number", where)
    return number


def text_field(row: dict[str, Any], field: str, where: str) -> str:
    """A field as text, alone or as a list's only item; a whole number is written without a point (27.0 is "27")."""
    value = row.get(field)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        found = f"it has {', '.join(map(repr, row))}" if field not in row else f"found {value!r}"
        raise SpecError(f"no text or number in field {field!r}: {found}", where)
    return value
