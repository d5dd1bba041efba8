"""`compare` against a real MLflow store: two sweeps whose verdicts are made by hand."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dft_sweeps.cli import compare
from dft_sweeps.evaluation.paired import compare as compare_rows
from dft_sweeps.evaluation.paired import compare_average, holm
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import SamplingSpec
from dft_sweeps.tracking import question_results
from dft_sweeps.tracking.question_results import QuestionResults
from dft_sweeps.tracking.writer import Tracker

SAMPLES = 4
SETTINGS = SamplingSpec(samples=SAMPLES).model_dump(mode="json")
SIZES = {"amc23": 40, "math500": 120}
SWEEPS = {"study": "s-00000000000000aa", "again": "s-00000000000000bb"}
TRIALS = {"objective=sft": 0.4, "objective=dft": 0.6}


def results(
    trial: str, sweep: str, step: int, graders: tuple[str, ...] = ("strict/1", "paper/1")
) -> list[QuestionResults]:
    found = []
    for sampling in ("sampled", "other"):
        for benchmark, questions in SIZES.items():
            for index, grader in enumerate(graders):
                noise = random.Random(f"{trial}{sweep}{step}{sampling}{benchmark}{grader}")
                difficulty = random.Random(benchmark)
                right = tuple(
                    sum(noise.random() < (TRIALS[trial] + difficulty.random()) / 2 for _ in range(SAMPLES))
                    for _ in range(questions)
                )
                ids = tuple(map(str, range(questions)))
                table = QuestionResults(
                    *(sampling, benchmark, f"digest of {benchmark}", grader, "e-1", "g-1"),
                    *(index == 0, SAMPLES, ids, right, SETTINGS),
                )
                found.append(table)
    return found


def write(tracker: Tracker, run: str, step: int, tables: list[QuestionResults]) -> None:
    text = json.dumps([vars(table) for table in tables])
    tracker.log_text(run, text, f"{question_results.FOLDER}/{question_results.artifact_name(step)}")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sweeps of two trials each, evaluated at steps 10 and 120; a third trial of the first has not begun."""
    storage = tmp_path_factory.mktemp("storage")
    tracker = Tracker(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts"))
    for sweep, id_ in SWEEPS.items():
        listed = [
            {"training_id": f"t-{sweep}-{name[-3:]}", "name": name, "axes": {"objective": name}} for name in TRIALS
        ]
        if sweep == "study":
            listed.append({"training_id": "t-waits", "name": "objective=power", "axes": {"objective": "power"}})
        parent = tracker.open_sweep(sweep, id_, "name: x", listed, "m")
        for trial in listed[:2]:
            run = tracker.open_trial(parent, trial["training_id"], trial["name"], {}, {})
            for step in (10, 120):
                write(tracker, run, step, results(trial["name"], sweep, step))
            tracker.finish(run, "FINISHED")
        tracker.finish(parent, "FINISHED")
    return storage


def call(storage: Path, *arguments: str) -> Result:
    return CliRunner().invoke(compare.command, ["--storage", str(storage), *arguments])


def differences(storage: Path, *arguments: str) -> list[dict[str, Any]]:
    result = call(storage, *arguments, "--json")
    assert result.exit_code == 0, result.exception
    found: list[dict[str, Any]] = json.loads(result.stdout)["differences"]
    return found


def rows(
    trial: str, step: int, benchmark: str, sampling: str = "sampled", grader: str = "strict/1"
) -> list[list[bool]]:
    [table] = [
        table
        for table in results(trial, "study", step)
        if (table.sampling, table.benchmark, table.grader) == (sampling, benchmark, grader)
    ]
    return table.correct


def test_trials_of_a_sweep_are_paired_by_question(storage: Path) -> None:
    found = differences(storage, "objective=dft", "t-study-sft", "--sweep", "study")
    assert [each["benchmark"] for each in found] == ["amc23", "math500", "average"]
    pairs = [(rows("objective=dft", 120, name), rows("objective=sft", 120, name)) for name in SIZES]
    for each, expected in zip(found, [*(compare_rows(*pair) for pair in pairs), compare_average(pairs)], strict=True):
        assert [each[name] for name in ("difference", "ci_low", "ci_high", "p_value")] == pytest.approx(
            [expected.difference, expected.low, expected.high, expected.p_value]
        )
        assert each["accuracy_a"] - each["accuracy_b"] == pytest.approx(each["difference"])
    fixed = compare_rows(*pairs[0], kind="fixed_list")
    assert (found[0]["fixed_low"], found[0]["fixed_high"]) == pytest.approx((fixed.low, fixed.high))
    assert [each["p_corrected"] for each in found] == pytest.approx(holm([each["p_value"] for each in found]))
    assert found[2]["difference"] > 0.05 and found[2]["p_corrected"] < 0.05
    assert {(each["grader"], each["sampling"], each["step_a"]) for each in found} == {("strict/1", "sampled", 120)}


def test_step_sampling_and_grader_can_be_chosen(storage: Path) -> None:
    chosen = ("--sweep", "study", "--step", "10", "--sampling", "other", "--grader", "paper")
    found = differences(storage, "objective=dft", "objective=sft", *chosen)[0]
    a, b = (rows(f"objective={name}", 10, "amc23", "other", "paper/1") for name in ("dft", "sft"))
    assert found["difference"] == pytest.approx(compare_rows(a, b).difference)
    assert (found["step_a"], found["sampling"], found["grader"]) == (10, "other", "paper/1")


def test_sweeps_are_compared_trial_by_trial_as_one_family(storage: Path) -> None:
    result = call(storage, "study", "again", "--json")
    document = json.loads(result.stdout)
    assert [(each["a"], each["b"]) for each in document["differences"][::3]] == [(name, name) for name in TRIALS]
    p_values = [each["p_value"] for each in document["differences"]]
    assert [each["p_corrected"] for each in document["differences"]] == pytest.approx(holm(p_values))
    assert document["notes"] == ["in one sweep only: objective=power"]
    assert differences(storage, "t-study-dft", "t-again-sft")[0]["a"] == "objective=dft"


def test_the_table(storage: Path) -> None:
    text = call(storage, "objective=dft", "objective=sft", "--sweep", "study").stdout
    parts = (
        "objective=dft minus objective=sft: accuracy (%) at step 120, sampled",
        "95% for new questions",
        "strict/1",
    )
    assert [part for part in (*parts, "p (holm)", "corrected for 3 comparisons") if part not in text] == []
    [average] = [line for line in text.splitlines() if "│ average" in line]
    found = differences(storage, "objective=dft", "objective=sft", "--sweep", "study")[2]
    assert f"{100 * found['difference']:+.1f}" in average


REFUSED = {
    "no such thing": (("nope", "study"), "no sweep 'nope'; choose one of:"),
    "no such trial": (
        ("nope", "objective=sft", "--sweep", "study"),
        "no trial 'nope' in the sweep 'study'; it has\n  t-s",
    ),
    "several": (("objective=dft", "study"), "'objective=dft' fits several trials; choose one by its id, or its sweep"),
    "one trial": (
        ("t-study-dft", "objective=dft", "--sweep", "study"),
        "'t-study-dft' and 'objective=dft' are one trial",
    ),
    "trial and sweep": (("t-study-dft", "again"), "a trial is compared with a trial, a sweep with a sweep"),
    "not begun": (("t-waits", "t-study-dft"), "the trial 'objective=power' (waiting) has no results question by quest"),
    "no such step": (
        ("t-study-dft", "t-study-sft", "--step", "7"),
        "the trial 'objective=dft' was not evaluated at ste",
    ),
    "no such sampling": (
        ("t-study-dft", "t-study-sft", "--sampling", "x"),
        "no sampling 'x' in the trial 'objective=df",
    ),
    "one sweep": (("study", "study"), "the sweeps have no trials of equal names to compare; the same trial in both"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared(case: str, storage: Path) -> None:
    arguments, message = REFUSED[case]
    result = call(storage, *arguments)
    assert isinstance(result.exception, SpecError)
    assert str(result.exception).startswith(message)


def test_other_questions_or_graders_are_left_out_aloud(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    listed = [{"training_id": f"t-{name[-3:]}", "name": name, "axes": {}} for name in TRIALS]
    parent = tracker.open_sweep("study", "s-1", "name: x", listed, "m")
    for trial in listed:
        run = tracker.open_trial(parent, trial["training_id"], trial["name"], {}, {})
        tables = results(trial["name"], "study", 5, ("strict/1",))
        if trial["name"] == "objective=sft":
            tables = [replace(t, benchmark_digest="x") if t.benchmark == "amc23" else t for t in tables]
        write(tracker, run, 5, tables)
    result = call(tmp_path, "objective=dft", "objective=sft", "--sweep", "study", "--json")
    document = json.loads(result.stdout)
    assert [each["benchmark"] for each in document["differences"]] == ["math500"]
    assert document["notes"] == ["amc23 has other questions in objective=dft than in objective=sft"]
    result = call(tmp_path, "objective=dft", "objective=sft", "--grader", "paper")
    assert "the grader paper judged none of the benchmarks" in str(result.exception)
