"""`grade` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dft_sweeps.cli import grade
from dft_sweeps.spec.errors import SpecError

ROWS = [
    {"id": "q1", "answer": "27.0", "completion": r"so \boxed{2700}"},
    {"id": "q1", "answer": "27.0", "completion": r"so \boxed{27}"},
    {"id": 2, "answer": 42, "completion": r"so \boxed{((10!)!)!}"},
    {"answer": "9", "completion": "\x1b[31m so \\boxed{9\\mathrm{~cm}}\x1b[0m"},
    {"answer": "9", "completion": ""},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(grade.command, [*map(str, arguments), "--workers", "1"])


def test_json_is_one_object_a_line(file: Path) -> None:
    result = call(file, "--json")
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(each["row"], each["id"]) for each in found] == [(1, "q1"), (2, "q1"), (3, "2"), (4, None), (5, None)]
    assert [each["strict"] for each in found] == [False, True, None, True, False]
    assert [each["paper"] for each in found] == [True, True, None, False, False]
    assert [each["extracted"] for each in found[:2]] == ["2700", "27"]
    assert (found[4]["extracted"], found[4]["reason"]) == (None, "no answer found")
    assert found[2]["reason"] and found[2]["paper_reason"]


def test_the_table_has_both_graders_and_where_they_disagree(file: Path) -> None:
    result = call(file)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("5 completions of 4 questions")
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    strict, paper, *disagreements = cells
    assert (strict[:2], strict[4:]) == (["strict/math-verify-0.9.0-2", "37.5"], ["1", "1"])
    assert (paper[:2], paper[4:]) == (["paper/2", "25.0"], ["1", "1"])
    assert strict[2] != strict[3]  # both kinds of intervals
    assert "for new questions" in result.stdout and "for this fixed list" in result.stdout
    assert "The graders disagree on 2; all of them:" in result.stdout
    assert [(cell[0], cell[1], cell[3], cell[5]) for cell in disagreements] == [
        ("1", "q1", "wrong", "right"),
        ("4", "-", "right", "wrong"),
    ]
    assert "\x1b" not in result.stdout


def test_a_bad_row_is_found_before_anything_is_graded(file: Path) -> None:
    with file.open("a") as rows:
        rows.write('{"answer": "1"}\n')
    result = call(file, "--json")
    assert isinstance(result.exception, SpecError)
    assert str(result.exception).startswith(f"{file}: row 6: no text in field 'completion'")
    assert result.stdout == ""
