from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dft_sweeps.data.arithmetic import problems
from dft_sweeps.evaluation import benchmarks
from dft_sweeps.evaluation.benchmarks import Benchmark, benchmark_names, load_benchmark
from dft_sweeps.evaluation.gold_answers import Gold
from dft_sweeps.evaluation.grading import GRADERS
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import BenchmarkSpec

FILES = Path(benchmarks.__file__).parent / "benchmark_files"
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
    fields = {"problem": "q", "question": "q", "solution": r"\boxed{7}", "answer": "#### 7", "final_answer": ["7"]}
    path = write_lines(tmp_path / "rows.jsonl", [fields])
    assert benchmark_names() == [
        "aime24", "amc23", "arithmetic_1", "arithmetic_2", "arithmetic_3", "gsm8k", "math500", "minerva_math",
        "olympiadbench",
    ]  # fmt: skip
    for name in benchmark_names():
        assert load(name, path).grader in GRADERS
        lines = [line for line in (FILES / f"{name}.yaml").read_text(encoding="utf-8").splitlines() if line]
        assert len(lines) <= 15


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


def test_blanks_around_a_question_go_as_in_the_published_harness(tmp_path: Path) -> None:
    rows = [{"question": question, "answer": 7} for question in ("What?", " \nWhat?\t ")]
    first, second = load("amc23", write_lines(tmp_path / "rows.jsonl", rows)).questions
    assert second.prompt_text == first.prompt_text
    assert first.prompt_text.startswith("What?\nPlease")


def test_a_dataset_without_a_revision_is_said_to_be_read_at_its_newest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"question": "q", "problem": "p", "answer": "#### 7", "solution": r"\boxed{7}"}
    monkeypatch.setattr(benchmarks, "read_hub_rows", lambda *source: [row])
    load("gsm8k")
    assert caplog.messages == []
    load("minerva_math")
    [message] = caplog.messages
    assert message.startswith("minerva_math is read at the newest revision of the dataset svc-huggingface/minerva-math")
    assert "{name: minerva_math, path: FILE.jsonl}" in message


def test_numbers_become_text(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": answer} for answer in (27.0, -1.0, 0.5, 12)]
    benchmark = load("amc23", write_lines(tmp_path / "rows.jsonl", rows))
    assert [question.answer for question in benchmark.questions] == ["27", "-1", "0.5", "12"]


@pytest.mark.parametrize(
    ("name", "count", "number", "answer"),
    [
        ("math500", 500, 0, r"\left( 3, \frac{\pi}{2} \right)"),
        ("minerva_math", 272, 1, "4.5e33"),
        ("olympiadbench", 675, 13, "$69$,$84$"),
        ("aime24", 30, 7, "025"),
        ("amc23", 40, 3, "3159"),
        ("gsm8k", 1319, 0, "18"),
    ],
)
def test_the_shared_files_load_whole(shared_benchmarks: Path, name: str, count: int, number: int, answer: str) -> None:
    benchmark = load(name, shared_benchmarks / f"{name}.jsonl")
    assert len(benchmark.questions) == count
    assert benchmark.questions[number].answer == answer
    assert benchmark.grader == "strict"
    suffix = "\nPlease reason step by step, and put your final answer within \\boxed{}."
    assert all(question.prompt_text.endswith(suffix) for question in benchmark.questions)


def test_golds_of_the_shared_files_carry_what_the_graders_need(shared_benchmarks: Path) -> None:
    minerva, olympiad, aime, math = (
        load(name, shared_benchmarks / f"{name}.jsonl").questions
        for name in ("minerva_math", "olympiadbench", "aime24", "math500")
    )
    assert minerva[1].gold == Gold(r"4.5 \times 10^{33}", "4.5e33", tolerance=0.4999999e32, keeps_units=True)
    assert minerva[20].gold == Gold("6630", "6630", keeps_units=True)
    assert olympiad[13].gold == Gold("69,84", "69,84", several=True)
    assert olympiad[316].gold == Gold("4.2", "4.2", tolerance=0.1, unit="%")
    assert sum(question.gold.several for question in olympiad) == 94
    assert sum(question.gold.unit != "" for question in olympiad) == 8
    assert aime[7].gold == Gold("025", "25")
    assert math[383].gold.paper == r"x\in[-2,7]"


def test_a_solution_without_a_box_and_a_senseless_error_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "minerva.jsonl", [{"problem": "q", "solution": "It is 7."}])
    with pytest.raises(SpecError, match=r"row 1: field 'solution' has no .boxed.. with an answer"):
        load("minerva_math", path)
    for error in ("much", "-1", "nan"):
        path = write_lines(tmp_path / "olympiad.jsonl", [{"question": "q", "final_answer": ["7"], "error": error}])
        with pytest.raises(SpecError, match=f"row 1: field 'error' holds '{error}', no positive number"):
            load("olympiadbench", path)
    path = write_lines(tmp_path / "olympiad.jsonl", [{"question": "q", "final_answer": ["7", "8"]}])
    with pytest.raises(SpecError, match="no text or number in field 'final_answer'"):
        load("olympiadbench", path)


def test_what_only_the_graders_need_changes_the_digest(tmp_path: Path) -> None:
    row = {"question": "q", "final_answer": ["1,2"], "is_multiple_answer": True, "unit": None, "error": None}
    rows = [row, row | {"is_multiple_answer": False}, row | {"error": "0.5"}, row | {"unit": "km"}]
    digests = {
        load("olympiadbench", write_lines(tmp_path / f"{at}.jsonl", [each])).digest for at, each in enumerate(rows)
    }
    assert len(digests) == len(rows)


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
    with pytest.raises(SpecError, match=r"unknown benchmark 'zzz'; valid are aime24, amc23, .*, olympiadbench$"):
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
