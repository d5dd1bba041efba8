from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dft_sweeps.data.arithmetic import problems
from dft_sweeps.evaluation.benchmarks import Benchmark, benchmark_names, load_benchmark
from dft_sweeps.evaluation.grading import GRADERS
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import BenchmarkSpec

ROWS = [
    {"question": "How many legs have two cats?", "answer": "Each has 4. #### is the mark.\n#### 8"},
    {"question": "What is 1000 + 450?", "answer": "#### 1,450"},
]


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))  # the last line has no newline
    return path


def load(name: str, path: Path | str | None = None, limit: int | None = None) -> Benchmark:
    return load_benchmark(BenchmarkSpec(name=name, path=str(path) if path else None, limit=limit), Path("/nowhere"))


def test_every_shipped_file_is_valid_and_names_a_grader(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", ROWS)
    assert benchmark_names() == ["amc23", "arithmetic_1", "arithmetic_2", "arithmetic_3", "gsm8k"]
    for name in benchmark_names():
        assert load(name, path).grader in GRADERS


@pytest.mark.parametrize("level", [1, 2, 3])
def test_embedded_benchmark_asks_the_held_out_problems_without_a_suffix(level: int) -> None:
    benchmark = load(f"arithmetic_{level}")
    heldout = problems(level, 50, 0, split="heldout")
    assert [question.prompt_text for question in benchmark.questions] == [problem.question for problem in heldout]
    assert [question.answer for question in benchmark.questions] == [problem.answer for problem in heldout]
    assert len({question.id for question in benchmark.questions}) == 50
    assert benchmark.grader == "exact"
    assert not benchmark.limited


def test_gsm8k_answer_is_what_follows_the_last_mark(tmp_path: Path) -> None:
    benchmark = load("gsm8k", write_lines(tmp_path / "rows.jsonl", ROWS))
    assert [question.answer for question in benchmark.questions] == ["8", "1,450"]
    suffix = "\nPlease reason step by step, and put your final answer within \\boxed{}."
    assert benchmark.questions[0].prompt_text == "How many legs have two cats?" + suffix


def test_numbers_become_text(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": answer} for answer in (27.0, -1.0, 0.5, 12)]
    benchmark = load("amc23", write_lines(tmp_path / "rows.jsonl", rows))
    assert [question.answer for question in benchmark.questions] == ["27", "-1", "0.5", "12"]


def test_the_shared_files_load_whole(shared_benchmarks: Path) -> None:
    gsm8k = load("gsm8k", shared_benchmarks / "gsm8k.jsonl")
    amc23 = load("amc23", shared_benchmarks / "amc23.jsonl")
    assert (len(gsm8k.questions), len(amc23.questions)) == (1319, 40)
    assert gsm8k.questions[0].answer == "18"
    assert amc23.questions[3].answer == "3159"
    for benchmark in (gsm8k, amc23):
        assert all(int(question.answer.replace(",", "")) is not None for question in benchmark.questions)


def test_relative_path_starts_at_the_base_directory_and_parquet_equals_json_lines(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", ROWS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    first, second = (
        load_benchmark(BenchmarkSpec(name="gsm8k", path=f"rows.{ending}"), tmp_path) for ending in ("jsonl", "parquet")
    )
    assert first == second


def test_digest_follows_the_content_and_the_name(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", ROWS)
    changed = write_lines(tmp_path / "changed.jsonl", [ROWS[0], ROWS[1] | {"answer": "#### 1451"}])
    benchmark = load("gsm8k", path)
    digests = {load("amc23", path).digest, load("gsm8k", changed).digest, load("gsm8k", path, limit=1).digest}
    assert len(digests | {benchmark.digest}) == 4
    moved = write_lines(tmp_path / "moved.json", ROWS)
    assert load("gsm8k", moved).digest == benchmark.digest


def test_embedded_digest_is_golden() -> None:
    assert load("arithmetic_1").digest == "d68ed83bb99448dc94b1ed043e35f4b5b9b92c0395167891d0d10fc52f1d29db"


@pytest.mark.parametrize(("limit", "kept", "limited"), [(1, 1, True), (2, 2, False), (99, 2, False)])
def test_limit_is_stated_only_where_it_leaves_something_out(
    tmp_path: Path, limit: int, kept: int, limited: bool
) -> None:
    benchmark = load("gsm8k", write_lines(tmp_path / "rows.jsonl", ROWS), limit=limit)
    assert (len(benchmark.questions), benchmark.limited) == (kept, limited)


def test_unknown_name_is_refused_with_the_nearest_and_all(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^unknown benchmark 'gsm8'; did you mean 'gsm8k'\?$"):
        load("gsm8")
    with pytest.raises(SpecError, match=r"unknown benchmark 'zzz'; valid are amc23, arithmetic_1, .*, gsm8k$"):
        load("zzz")
    with pytest.raises(SpecError, match=r"unknown benchmark '\.\./gsm8k'"):
        load("../gsm8k")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"question": "q"}, "no text or number in field 'answer': it has 'question'"),
        ({"answer": "#### 1"}, "no text or number in field 'question': it has 'answer'"),
        ({"question": "  ", "answer": "#### 1"}, "'question': found '  '"),
        ({"question": "q", "answer": None}, "'answer': found None"),
        ({"question": "q", "answer": True}, "'answer': found True"),
        ({"question": "q", "answer": "no mark, 7"}, "has no '####' before an answer"),
        ({"question": "q", "answer": "#### "}, "holds no answer"),
    ],
)
def test_bad_row_is_named_with_its_file_and_number(tmp_path: Path, row: dict, problem: str) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ROWS[0], ROWS[1], row])
    with pytest.raises(SpecError) as caught:
        load("gsm8k", path)
    assert f"{path}: row 3" in str(caught.value)
    assert problem in str(caught.value)


def test_blank_lines_count_in_messages_but_not_in_ids(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in ROWS]
    (tmp_path / "blanks.jsonl").write_text(f"\n{lines[0]}\n\n{lines[1]}\n")
    assert load("gsm8k", tmp_path / "blanks.jsonl") == load("gsm8k", write_lines(tmp_path / "rows.jsonl", ROWS))
    (tmp_path / "bad.jsonl").write_text(f"\n{lines[0]}\n\n{{}}\n")
    with pytest.raises(SpecError, match=r"bad\.jsonl: row 4: no text or number in field 'question'"):
        load("gsm8k", tmp_path / "bad.jsonl")


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"absent\.jsonl"):
        load("gsm8k", tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(SpecError, match=r"empty\.jsonl: no questions"):
        load("gsm8k", tmp_path / "empty.jsonl")


def test_unreachable_hub_says_to_give_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(SpecError, match=r"openai/gsm8k.*\{name: gsm8k, path: FILE.jsonl\}"):
        load("gsm8k")
