"""Both graders' verdicts on completions in a JSON-lines file, made anywhere.

A row has an `answer` (text or a number), a `completion` and perhaps an `id`; rows of one id are samples of one
question. The file is read a block of rows at a time; kept are three numbers per question and, while it is checked, one
answer's hash per id.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dft_sweeps.data.sources import json_lines
from dft_sweeps.evaluation.benchmarks import text_field
from dft_sweeps.evaluation.gold_answers import clean
from dft_sweeps.evaluation.grading import GraderPool, Verdict
from dft_sweeps.evaluation.intervals import Interval, Kind, interval_of_counts
from dft_sweeps.spec.errors import SpecError

FILE_GRADERS = ("strict", "paper")
_BLOCK = 128
"""Rows graded together: a few seconds' work for one worker."""
_DISAGREEMENTS = 5
_NO_CONTENT = re.compile(r"\\(?:text|mathrm|mbox)(?![a-zA-Z])|\\[,;:! %]|[\s{}~.%]")
"""What a cleaned answer may hold and still be empty: no grader could meet it, or any empty prediction would."""


@dataclass(frozen=True)
class Row:
    number: int
    """Its line in the file, from 1."""
    id: str | None
    answer: str
    completion: str


@dataclass(frozen=True)
class Judged:
    row: Row
    strict: Verdict
    paper: Verdict


def check_file(path: Path) -> int:
    """Number of rows, once every one of them can be graded.

    Raises:
        SpecError: no such file, no rows, a row that lacks a field or whose answer is empty once it is cleaned, or rows
            of one id with different answers; names the row.
    """
    if not path.is_file():
        raise SpecError(f"no file {path}")
    answers: dict[str, tuple[int, int]] = {}
    count = 0
    for row in _rows(path):
        count += 1
        if not _NO_CONTENT.sub("", clean(row.answer)):
            raise SpecError(f"the answer {row.answer!r:.80} says nothing", f"{path}: row {row.number}")
        if row.id is None:
            continue
        first, known = answers.setdefault(row.id, (row.number, hash(row.answer)))
        if known != hash(row.answer):
            raise SpecError(
                f"another answer than in row {first}, which has the same id {row.id!r}; rows of one id are samples of "
                "one question",
                f"{path}: row {row.number}",
            )
    if not count:
        raise SpecError(f"{path}: no rows")
    return count


def graded(path: Path, pool: GraderPool, on_progress: Callable[[int], None] = lambda done: None) -> Iterator[Judged]:
    """Verdicts in the file's order; `on_progress` hears how many rows are done, every few seconds.

    Raises:
        SpecError: as `check_file`, should the file have changed.
    """
    rows, done = _rows(path), 0
    while block := list(islice(rows, _BLOCK)):
        items = [(row.answer, row.completion) for row in block]
        strict, paper = (pool.grade(items, grader) for grader in FILE_GRADERS)
        yield from map(Judged, block, strict, paper)
        done += len(block)
        on_progress(done)


@dataclass(frozen=True)
class GraderSummary:
    """What one grader says of a file. Ungradable completions count as wrong."""

    new_questions: Interval
    fixed_list: Interval
    ungradable: int
    no_answer: int


class Tally:
    """Sums up verdicts as they come."""

    def __init__(self) -> None:
        self.completions = 0
        self.disagreements = 0
        self.first_disagreements: list[Judged] = []
        self._question_of: dict[str, int] = {}
        self._samples = array("I")
        self._right = {grader: array("I") for grader in FILE_GRADERS}
        self._ungradable = dict.fromkeys(FILE_GRADERS, 0)
        self._no_answer = dict.fromkeys(FILE_GRADERS, 0)

    @property
    def questions(self) -> int:
        return len(self._samples)

    def add(self, judged: Judged) -> None:
        question = self._question(judged.row.id)
        self.completions += 1
        self._samples[question] += 1
        for grader, verdict in zip(FILE_GRADERS, (judged.strict, judged.paper), strict=True):
            self._right[grader][question] += verdict.correct is True
            self._ungradable[grader] += verdict.correct is None
            self._no_answer[grader] += verdict.correct is False and verdict.extracted is None
        if judged.strict.correct != judged.paper.correct:
            self.disagreements += 1
            if len(self.first_disagreements) < _DISAGREEMENTS:
                self.first_disagreements.append(judged)

    def summary(self, grader: str) -> GraderSummary:
        """Of at least one verdict."""

        def interval(kind: Kind) -> Interval:
            right, samples = (np.array(counts, dtype=np.float64) for counts in (self._right[grader], self._samples))
            return interval_of_counts(right, samples, kind=kind)

        fixed, new = interval("fixed_list"), interval("new_questions")
        return GraderSummary(new, fixed, self._ungradable[grader], self._no_answer[grader])

    def _question(self, id_: str | None) -> int:
        known = None if id_ is None else self._question_of.get(id_)
        if known is not None:
            return known
        for counts in (self._samples, *self._right.values()):
            counts.append(0)
        if id_ is not None:
            self._question_of[id_] = self.questions - 1
        return self.questions - 1


def _rows(path: Path) -> Iterator[Row]:
    for number, row in json_lines(path):
        where = f"{path}: row {number}"
        answer, completion = text_field(row, "answer", where).strip(), row.get("completion")
        if not isinstance(completion, str):
            found = f"found {completion!r:.80}" if "completion" in row else f"it has {', '.join(map(repr, row))}"
            raise SpecError(f"no text in field 'completion': {found}", where)
        yield Row(number, _id(row.get("id"), where), answer, completion)


def _id(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SpecError(f"field 'id' holds {value!r:.80}, neither text nor a whole number", where)
    return str(value)
