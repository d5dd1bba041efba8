"""The picture of a search and its best points: what is drawn where, chosen on what, and which trials are left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from dft_sweeps.report.best import best_points, sentences
from dft_sweeps.report.collect import dimensions
from dft_sweeps.report.curves import Measured, SweepCurves
from dft_sweeps.report.searched import by_arm, search_figure
from dft_sweeps.report.write import write_report
from tests.report.test_figures import BATCH, OBJECTIVE, RATE, SAMPLED, made_up, texts

DFT, SFT = "#0072B2", "#D55E00"
SEARCH = {
    "kind": "random",
    "space": {
        RATE: {"kind": "log_uniform", "low": 1e-5, "high": "1e-2"},  # as PyYAML reads a number without a point
        BATCH: {"kind": "choice", "values": [8, 16]},
        "train.seed": {"kind": "choice", "values": [1, 2]},
    },
}
KEY = ("eval", "average")


def searched(held_out: bool = False) -> SweepCurves:
    """Of each objective two points, at the last step 60 and 50 percent for SFT, 70 and 80 for DFT; on held-out
    questions it is the other way round."""
    made = made_up({OBJECTIVE: ["sft", "dft"], RATE: ["1e-4", "5e-3"]}, ("average", "gsm8k"))
    values = {
        ("sft", "1e-4"): (0.6, "8"), ("sft", "5e-3"): (0.5, "16"),
        ("dft", "1e-4"): (0.7, "16"), ("dft", "5e-3"): (0.8, "8"),
    }  # fmt: skip
    trials = []
    for trial in made.trials:
        accuracy, batch = values[trial.values[OBJECTIVE], trial.values[RATE]]
        last = Measured(60, accuracy, accuracy - 0.04, accuracy + 0.05, accuracy - 0.02, accuracy + 0.02,
                        selection=1 - accuracy if held_out else None)  # fmt: skip
        first = Measured(0, 0.3, 0.2, 0.4, selection=0.3 if held_out else None)
        own = {**trial.values, BATCH: batch}
        trials.append(replace(trial, values=own, accuracy=trial.accuracy | {KEY: [first, last]}))
    axes = (*made.axes, BATCH)
    return replace(
        made, axes=axes, trials=tuple(trials), searched=dimensions(SEARCH, axes),
        selection_share=0.4 if held_out else None,
    )  # fmt: skip


def marks(ax: Axes, marker: str) -> dict[tuple[str, float, float], tuple[float, float] | None]:
    """Colour, place and percent of every mark of this kind, to the ends of its bar."""
    found: dict[tuple[str, float, float], tuple[float, float] | None] = {}
    for container in ax.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, bars = container.lines
        if line.get_marker() == marker:
            [(x, y)] = line.get_xydata()  # type: ignore[misc]
            ends = bars[0].get_segments()[0][:, 1] if bars else None
            colour = str(line.get_color())
            found[colour, float(x), round(float(y), 6)] = None if ends is None else (ends[0], ends[1])
    return found


def test_every_point_is_drawn_against_every_dimension_and_the_best_of_each_arm_with_its_interval() -> None:
    figure = search_figure(searched(), SAMPLED)
    assert figure is not None
    rates, sizes = figure.axes
    assert (rates.get_xscale(), rates.get_xlabel(), sizes.get_xlabel()) == ("log", "learning rate", "batch size")
    low, high = rates.get_xlim()
    assert low < 1e-5 and high > 1e-2  # all that could have been drawn
    assert [label.get_text() for label in sizes.get_xticklabels()] == ["8", "16"]
    assert marks(rates, "o") == {(SFT, 5e-3, 50.0): None, (DFT, 1e-4, 70.0): None}
    stars = {(SFT, 1e-4, 60.0): pytest.approx((56.0, 65.0)), (DFT, 5e-3, 80.0): pytest.approx((76.0, 85.0))}
    assert marks(rates, "*") == stars
    assert set(marks(sizes, "*")) == {(SFT, 0.0, 60.0), (DFT, 0.0, 80.0)}
    words = " ".join(text.get_text() for text in texts(figure))
    assert "chosen on these very questions" in " ".join(words.split())


def test_on_held_out_questions_another_point_is_the_best_and_its_accuracy_is_of_the_others() -> None:
    curves = searched(held_out=True)
    found = [(each.arm, each.trial, each.accuracy, each.candidates, each.bias) for each in best_points(curves, SAMPLED)]
    assert found == [("sft", "sft 5e-3", 0.5, 2, 0.0), ("dft", "dft 1e-4", 0.7, 2, 0.0)]
    figure = search_figure(curves, SAMPLED)
    assert figure is not None and set(marks(figure.axes[0], "*")) == {(SFT, 5e-3, 50.0), (DFT, 1e-4, 70.0)}
    said = sentences(curves)
    assert (
        "Best point of dft under sampled (average): dft 1e-4 at step 60, 70.0% (66.0-75.0), measured on the questions "
        "that are not held out; chosen of 2 points at their last steps on the 40% that are (30.0% there)."
    ) in said


def test_chosen_on_the_test_questions_the_best_is_said_to_be_too_high() -> None:
    [_, of_sft, of_dft] = sentences(searched())
    assert of_sft.startswith("Best point of sft under sampled (average): sft 1e-4 at step 60, 60.0% (56.0-65.0).")
    assert "chosen of 2 points at their last steps on the test questions themselves" in of_dft and "too high" in of_dft


def test_trials_that_were_stopped_or_failed_are_no_points() -> None:
    curves = searched()
    first, second, third, fourth = curves.trials
    ended = replace(first, stopped_at=60), replace(second, status="FAILED"), replace(third, status="RUNNING"), fourth
    left = replace(curves, trials=ended)
    assert best_points(left, SAMPLED) == []  # one point is no choice
    figure = search_figure(left, SAMPLED)
    assert figure is not None and set(marks(figure.axes[0], "o")) == {(DFT, 5e-3, 80.0)}
    assert any("Not shown: 1 that the scheduler stopped" in text.get_text() for text in texts(figure))
    none = replace(curves, trials=(replace(first, status="FAILED"),))
    assert search_figure(none, SAMPLED) is None


def test_a_cell_of_which_a_seed_was_stopped_is_no_point() -> None:
    """At the last step there are only the seeds that did well before."""
    curves = searched()
    of_two = [replace(cell, seeds=(cell, cell)) for cell in curves.trials]
    first = curves.trials[0]
    of_two[0] = replace(of_two[0], seeds=(first, replace(first, stopped_at=30)))
    left = replace(curves, means=tuple(of_two))
    assert [each.arm for each in best_points(left, SAMPLED)] == ["dft"]
    figure = search_figure(left, SAMPLED)
    assert figure is not None and any("Not shown: 1 that the" in text.get_text() for text in texts(figure))


def test_several_axes_beside_the_search_make_one_arm_and_one_colour_each(tmp_path: Path) -> None:
    curves = searched()
    named = [
        replace(trial, values={**trial.values, "variant": name})
        for name in ("noisy", "clean")
        for trial in curves.trials
    ]
    both = replace(curves, axes=(*curves.axes, "variant"), trials=tuple(named))
    assert by_arm(both).levels("arm") == ["sft, noisy", "dft, noisy", "sft, clean", "dft, clean"]
    figure = search_figure(both, SAMPLED)
    assert figure is not None and len({colour for colour, _, _ in marks(figure.axes[0], "*")}) == 4
    names = {path.name for path in write_report(both, ["average"], tmp_path)}
    assert {"search_sampled.png", "accuracy_sampled.png"} <= names
    assert not any(name.startswith("ablation") for name in names)


def test_without_a_search_nothing_is_drawn_or_changed() -> None:
    plain = made_up({OBJECTIVE: ["sft", "dft"], RATE: ["1e-4", "5e-3"]}, ("average", "gsm8k"))
    assert search_figure(plain, SAMPLED) is None
    assert best_points(plain, SAMPLED) == []
    assert by_arm(plain).axes == plain.axes
