"""Grading a file of completions: in order, in little memory, with every mistake in it named by its row."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dft_sweeps.evaluation.grade_file import Tally, check_file, graded
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.intervals import interval
from dft_sweeps.spec.errors import SpecError


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(timeout_s=1.0) as pool:
        yield pool


def write(folder: Path, rows: list[Any]) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(answer: Any, completion: str, **more: Any) -> dict[str, Any]:
    return {"answer": answer, "completion": completion, **more}


def test_verdicts_come_in_the_files_order_whatever_block_they_are_in(pool: GraderPool, tmp_path: Path) -> None:
    rows = [row(number, f"\\boxed{{{number + number % 3 % 2}}}") for number in range(600)]
    done: list[int] = []
    path = write(tmp_path, ["", *rows])
    assert check_file(path) == 600
    found = list(graded(path, pool, done.append))
    assert [each.row.number for each in found] == list(range(2, 602))  # the blank line counts
    assert [each.strict.correct for each in found] == [number % 3 % 2 == 0 for number in range(600)]
    assert [each.strict.extracted for each in found] == [str(number + number % 3 % 2) for number in range(600)]
    assert done == [128, 256, 384, 512, 600]


def test_rows_of_one_id_are_samples_of_one_question(pool: GraderPool, tmp_path: Path) -> None:
    rows = [
        row(27.0, r"\boxed{27}", id="a"),
        row("27", r"\boxed{2700}", id="a"),
        row("1/2", "I do not know", id=7),
        row("42", r"\boxed{9**9**9**9!}"),
        row("42", r"\boxed{42}"),
    ]
    path, tally = write(tmp_path, rows), Tally()
    assert check_file(path) == 5
    for judged in graded(path, pool):
        tally.add(judged)
    assert (tally.completions, tally.questions) == (5, 4)
    strict, paper = tally.summary("strict"), tally.summary("paper")
    assert strict.new_questions == interval([[True, False], [False], [False], [True]])
    assert strict.fixed_list == interval([[True, False], [False], [False], [True]], kind="fixed_list")
    assert paper.new_questions.mean == 2 / 4
    assert (strict.no_answer, strict.ungradable + paper.ungradable > 0) == (1, True)
    assert tally.first_disagreements[0].row.number == 2
    assert tally.first_disagreements[0].paper.correct is True


def test_memory_does_not_grow_with_the_file(pool: GraderPool, tmp_path: Path) -> None:
    text = "word " * 4000 + "\\boxed{1}"
    path = write(tmp_path, [row(number % 7, text) for number in range(3000)])
    assert path.stat().st_size > 55e6
    list(graded(write_first(path), pool))  # imports and starts what grading needs
    tracemalloc.start()
    check_file(path)
    tally = Tally()
    for judged in graded(path, pool):
        tally.add(judged)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tally.completions == 3000
    assert peak < 20e6


def write_first(path: Path) -> Path:
    first = path.with_name("first.jsonl")
    with path.open() as lines:
        first.write_text(next(lines))
    return first


BAD = {
    "no answer": ([row("1", "1"), {"completion": "1"}], "row 2: no text or number in field 'answer': it has 'completi"),
    "empty answer": ([row(" ", "1")], "row 1: no text or number in field 'answer': found ' '"),
    "dollars only": ([row("1", "1"), row("$", "1")], "row 2: the answer '$' says nothing"),
    "empty text": ([row(r"\text{ }", "")], "row 1: the answer '\\\\text{ }' says nothing"),
    "no completion": ([{"answer": "1"}], "row 1: no text in field 'completion': it has 'answer'"),
    "several completions": ([row("1", ["1", "2"])], "row 1: no text in field 'completion': found ['1', '2']"),
    "odd id": ([row("1", "1", id=1.5)], "row 1: field 'id' holds 1.5, neither text nor a whole number"),
    "one id, two answers": ([row("1", "1", id="a"), row("2", "1", id="a")], "row 2: another answer than in row 1, whi"),
    "no JSON": ([row("1", "1"), "", "{nope"], "row 3: not JSON ("),
    "no object": (["[1]"], "row 1: expected a JSON object, found list"),
    "brackets": (["[" * 100_000], "row 1: JSON that cannot be read ("),
    "digits": (['{"answer": ' + "9" * 5000 + "}"], "row 1: JSON that cannot be read ("),
    "nothing": (["", " "], "no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_named_by_its_row(case: str, tmp_path: Path) -> None:
    rows, message = BAD[case]
    path = write(tmp_path, rows)
    with pytest.raises(SpecError) as caught:
        check_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no file"):
        check_file(tmp_path / "nope.jsonl")
