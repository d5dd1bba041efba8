"""From verdicts to metrics, on results made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dft_sweeps.evaluation.grading import Verdict
from dft_sweeps.evaluation.intervals import average, interval
from dft_sweeps.evaluation.results import BenchmarkResult, EvaluationKey, GradedQuestion, GradedSample, Judgements
from dft_sweeps.evaluation.selection import held_out
from dft_sweeps.orchestration.evaluation_metrics import evaluation_metrics, without_held_out
from dft_sweeps.spec.models import AdaptiveSpec, SamplingSpec

STRICT = [[True, False, True], [None, False, False], [True, True, True]]
PAPER = [[True, True, True], [None, False, False], [True, True, False]]


def result(benchmark: str, grader: str, verdicts: list[list[bool | None]]) -> BenchmarkResult:
    key = EvaluationKey("w", benchmark, "b", "t", SamplingSpec(samples=len(verdicts[0])))
    questions = tuple(
        GradedQuestion(str(index), "1", tuple(GradedSample(Verdict(v, "1", "made up"), "stop", 3) for v in row))
        for index, row in enumerate(verdicts)
    )
    return BenchmarkResult(key, grader, False, questions)


def judged(benchmark: str) -> Judgements:
    return {"strict": result(benchmark, "strict/1", STRICT), "paper": result(benchmark, "paper/1", PAPER)}


def right(rows: list[list[bool | None]]) -> list[list[bool]]:
    return [[verdict is True for verdict in row] for row in rows]


def test_both_graders_and_both_intervals_stand_side_by_side() -> None:
    found = evaluation_metrics("eval", [judged("amc23")])
    new, fixed = interval(right(STRICT)), interval(right(STRICT), kind="fixed_list")
    expected = {
        "accuracy": 5 / 9,
        "ci_low": new.low,
        "ci_high": new.high,
        "fixed_low": fixed.low,
        "fixed_high": fixed.high,
        "truncated": 0.0,
        "no_answer": 0.0,
        "ungradable": 1.0,
        # The harness rounds each run's accuracy: 66.7, 66.7 and 33.3.
        "paper_accuracy": (0.667 + 0.667 + 0.333) / 3,
        "paper_ci_high": interval(right(PAPER)).high,
        "paper_fixed_low": interval(right(PAPER), kind="fixed_list").low,
        "paper_ungradable": 1.0,
        "disagreement": 2 / 9,
    }
    assert {name: found[f"eval/amc23/{name}"] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_questions_held_out_for_selection_are_not_in_the_accuracies() -> None:
    ids = [str(index) for index in range(3)]
    chosen = held_out("amc23", ids, 1 / 3)
    assert len(chosen) == 1
    [index] = map(int, chosen)
    rest = [row for number, row in enumerate(STRICT) if number != index]
    found = evaluation_metrics("eval", [judged("amc23")], selection_share=1 / 3)
    assert found["eval/amc23/accuracy"] == found["eval/average/accuracy"] == interval(right(rest)).mean
    assert found["eval/amc23/ci_low"] == interval(right(rest)).low
    assert found["eval/amc23/selection_accuracy"] == pytest.approx(sum(right(STRICT)[index]) / 3)
    assert found["eval/average/selection_accuracy"] == found["eval/amc23/selection_accuracy"]
    assert without_held_out(judged("amc23"), 1 / 3)["paper"].correct == [
        row for number, row in enumerate(right(PAPER)) if number != index
    ]
    assert "eval/amc23/selection_accuracy" not in evaluation_metrics("eval", [judged("amc23")])


def test_adaptive_sampling_says_what_it_drew_and_saved() -> None:
    strict = result("amc23", "strict/1", STRICT)
    sampling = SamplingSpec(samples=12, adaptive=AdaptiveSpec(half_width=5))
    adaptive = replace(strict, key=replace(strict.key, sampling=sampling))
    found = evaluation_metrics("eval", [{"strict": adaptive}])
    assert (found["eval/amc23/samples"], found["eval/amc23/saved"], found["eval/amc23/tokens"]) == (3, 0.75, 27)
    assert "eval/amc23/pass_at_3" in found
    assert found["eval/amc23/ci_low"] < interval(right(STRICT)).low


def test_averages_are_of_equals() -> None:
    exact = {"exact": result("arithmetic_1", "exact/1", STRICT)}
    both = evaluation_metrics("eval", [judged("amc23"), judged("aime24")])
    assert both["eval/average/paper_accuracy"] == both["eval/amc23/paper_accuracy"]
    fixed = interval(right(STRICT), kind="fixed_list")
    assert both["eval/average/fixed_low"] == average([fixed, fixed]).low
    mixed = evaluation_metrics("eval_greedy", [judged("amc23"), exact])
    assert "eval_greedy/amc23/paper_accuracy" in mixed
    # The harness did not judge every benchmark, so there is no average of its accuracies.
    assert not [name for name in mixed if "paper" in name and ("average" in name or "arithmetic" in name)]
    assert mixed["eval_greedy/average/accuracy"] == pytest.approx(5 / 9)


def test_pass_and_majority_at_k_stand_where_there_are_several_samples() -> None:
    found = evaluation_metrics("eval", [judged("amc23"), {"strict": result("aime24", "strict/1", PAPER[:1])}])
    # Made-up answers are all the text "1": two wrong ones outvote a right one, and none else.
    assert found["eval/amc23/pass_at_3"] == pytest.approx(2 / 3)
    assert found["eval/amc23/majority_at_3"] == pytest.approx(2 / 3)
    assert found["eval/average/pass_at_3"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["eval/average/majority_at_3"] == pytest.approx((2 / 3 + 1) / 2)
    alone = evaluation_metrics("eval", [{"strict": result("amc23", "strict/1", [[True], [False]])}])
    assert not [name for name in alone if "_at_" in name]


def test_no_name_is_the_folder_of_another() -> None:
    """MLflow's file store keeps a metric as a file."""
    found = evaluation_metrics("eval", [judged("amc23")])
    assert not [(a, b) for a in found for b in found if b.startswith(f"{a}/")]
