from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.bench import harness
from tests.bench.harness import RUNS, cases, row_of
from tests.bench.questions import benchmark_of, sampling_of, write_task
from tests.bench.row import Machine

DRAFT = {"name": "evaluation_vs_lm_eval", "peer_name": "lm-eval", "unit": "questions/s", "detail": "a model"}
SAMPLING = sampling_of({"samples": 4, "temperature": 1.0, "max_new_tokens": 112, "seed": 1})


def run(seconds: float, right: float = 0.5, prompts: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    rows = [[index < 100 * right] * 4 for index in range(100)]
    times = {"seconds": seconds, "without_start": seconds / 2, "start": 30.0, "grading": 0.1}
    return times | {"tokens": 9000, "right": rows, "prompts": [list(prompts)] * 100, "told": {"enforce_eager": True}}


def test_the_median_run_counts() -> None:
    found = {"ours": [run(10), run(90), run(20)], "theirs": [run(40), run(50), run(80)]}
    row = row_of(DRAFT, "seconds", found, Machine())
    assert (row.ours, row.peer) == (100 / 20, 100 / 50)
    assert row_of(DRAFT, "without_start", found, Machine()).ours == 100 / 10
    assert "enforce_eager=True" in row.detail


@pytest.mark.parametrize("changed", [{"prompts": (1, 3)}, {"right": 0.9}])
def test_other_prompts_or_another_accuracy_give_no_figures(changed: dict[str, Any]) -> None:
    row = row_of(DRAFT, "seconds", {"ours": [run(10)], "theirs": [run(40, **changed)]}, Machine())
    assert row.ratio is None and (row.not_run or "").startswith("invalid")


def test_without_the_harness_every_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    rows = list(harness.rows(Machine(full=True)))
    assert [row.name for row in rows] == [
        f"evaluation_vs_lm_eval{case}{what}"
        for case in ("", "_trained", "_arithmetic", "_full", "_trained_full")
        for what in ("", "_without_starts")
    ]
    assert all("lm-eval is not installed" in (row.not_run or "") for row in rows)


def test_all_of_gsm8k_is_measured_once_and_only_if_asked() -> None:
    assert [case.runs for case in cases(Machine(full=True))] == [RUNS, RUNS, RUNS, 1, 1]
    assert [case.suffix for case in cases(Machine())] == ["", "_trained", "_arithmetic"]


def test_a_task_asks_what_the_benchmark_asks(tmp_path: Path) -> None:
    benchmark = benchmark_of({"name": "arithmetic_2", "limit": 5})
    name = write_task(benchmark, SAMPLING, tmp_path)
    class_of: Any = type("Loader", (yaml.SafeLoader,), {})
    class_of.add_constructor("!function", lambda loader, node: node.value)
    task = yaml.load((tmp_path / f"{name}.yaml").read_text(), class_of)
    rows = [json.loads(line) for line in Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()]
    assert [(row["prompt"], row["answer"]) for row in rows] == [
        (question.prompt_text, question.answer) for question in benchmark.questions
    ]
    assert task["generation_kwargs"]["max_gen_toks"] == 112 and task["generation_kwargs"]["temperature"] == 1.0
    assert (task["repeats"], task["num_fewshot"]) == (4, 0)


def test_a_task_grades_every_sample(tmp_path: Path) -> None:
    write_task(benchmark_of({"name": "arithmetic_1", "limit": 1}), SAMPLING, tmp_path)
    utils = ModuleType("bench_utils")
    exec((tmp_path / "bench_utils.py").read_text(), utils.__dict__)
    found = utils.mean_right({"answer": "1234"}, [["1,234", " 1234 ", "[invalid]", "234"]])
    assert found == {"right": [True, True, False, False]}
    assert utils.mean([[True, True, False, False], [True, True, True, True]]) == 0.75
