from __future__ import annotations

from dataclasses import replace
from math import log, sqrt

import pytest

from dft_sweeps.report.best import best, best_step, sentence, sentences
from dft_sweeps.report.curves import Measured, SweepCurves
from dft_sweeps.report.tables import accuracy_table, csv_text, markdown
from tests.report.test_figures import OBJECTIVE, SAMPLED, made_up

CURVE = {"sft": [0.3, 0.5, 0.45], "dft": [0.3, 0.6, 0.7]}
HELD_OUT = {"sft": [0.2, 0.5, 0.4], "dft": [0.2, 0.8, 0.6]}


def sweep(share: float | None = None, curve: dict[str, list[float]] = CURVE) -> SweepCurves:
    made = made_up({OBJECTIVE: ["sft", "dft"]}, ("gsm8k",))
    trials = []
    for trial in made.trials:
        pairs = zip(curve[trial.name], HELD_OUT[trial.name], strict=True)
        points = [
            Measured(10 * index, value, value - 0.03, value + 0.03, value - 0.0196, value + 0.0196,
                     selection=chosen if share else None)
            for index, (value, chosen) in enumerate(pairs)
        ]  # fmt: skip
        trials.append(replace(trial, accuracy={("eval", "gsm8k"): points}))
    return replace(made, trials=tuple(trials), selection_share=share)


def test_a_choice_on_the_test_questions_says_how_far_it_is_too_high() -> None:
    curves = sweep()
    found = best(curves, SAMPLED)
    assert found is not None
    assert (found.trial, found.step, found.accuracy, found.candidates) == ("dft", 20, 0.7, 5)
    assert found.standard_error == pytest.approx(0.01, rel=1e-4)
    assert found.bias == pytest.approx(0.01 * sqrt(2 * log(5)), rel=1e-4)
    assert sentence(curves, found) == (
        "Best under sampled (gsm8k): dft at step 20, 70.0% (67.0-73.0). It was chosen of 5 checkpoints on the test "
        "questions themselves, and the highest of so many is too high, on average by up to 1.8 points if all are "
        "equally good (standard error 1.0 x sqrt(2 ln 5)). `evaluation.selection_share` holds questions out for the "
        "choice."
    )


def test_a_choice_on_held_out_questions_is_reported_on_the_others() -> None:
    curves = sweep(share=0.2)
    found = best(curves, SAMPLED)
    assert found is not None
    assert (found.trial, found.step, found.accuracy, found.selection_accuracy, found.bias) == ("dft", 10, 0.6, 0.8, 0.0)
    assert sentence(curves, found) == (
        "Best under sampled (gsm8k): dft at step 10, 60.0% (57.0-63.0), measured on the questions that are not held "
        "out; chosen of 5 checkpoints on the 20% that are (80.0% there)."
    )
    assert csv_text(curves).splitlines()[0].endswith(",selection_accuracy")


def test_the_column_names_each_trials_best_step_and_stars_the_best_of_all() -> None:
    text = markdown(accuracy_table(sweep(), SAMPLED, "gsm8k"), [])
    assert "| best on test |" in text
    assert "| 50.0 at 10 |" in text and "| 70.0* at 20 |" in text
    text = markdown(accuracy_table(sweep(share=0.2), SAMPLED, "gsm8k"), [])
    assert "| best held-out |" in text
    assert "| 60.0* at 10 |" in text


def test_the_base_model_can_be_the_best() -> None:
    curves = sweep(curve={"sft": [0.3, 0.2, 0.1], "dft": [0.3, 0.1, 0.2]})
    found = best(curves, SAMPLED)
    assert found is not None and (found.trial, found.step) == ("the base model", 0)
    assert sentence(curves, found).startswith("Best under sampled (gsm8k): the base model, 30.0%")
    assert "30.0 at base" in markdown(accuracy_table(curves, SAMPLED, "gsm8k"), [])


def test_without_a_choice_nothing_is_called_best() -> None:
    curves = sweep()
    first = [replace(each, accuracy={key: points[:1] for key, points in each.accuracy.items()})
             for each in curves.trials]  # fmt: skip
    alone = replace(curves, trials=tuple(first))
    assert sentences(alone) == [] and best_step(alone, SAMPLED, alone.trials[0]) is None
    assert "best" not in markdown(accuracy_table(alone, SAMPLED, "gsm8k"), [])
