"""Sweeps of several seeds, written to a real MLflow store with verdicts by question, and reported."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dft_sweeps.cli import report
from dft_sweeps.evaluation.intervals import over_seeds, over_seeds_of_counts, seed_half_width
from dft_sweeps.report.best import best
from dft_sweeps.report.collect import collect
from dft_sweeps.report.curves import SweepCurves
from dft_sweeps.report.figures import accuracy_figure, training_figure
from dft_sweeps.report.probabilities import probability_figure
from dft_sweeps.report.tables import accuracy_table, csv_text, markdown
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Tracker
from tests.report.synthetic_seeds import SEED_AXIS, SEED_VARIANTS, SEEDS, SIZES, STEPS, tables, write_seeds
from tests.report.test_figures import texts

NEW, FIXED = "new_questions", "fixed_list"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("storage")
    tracker = Tracker(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts"))
    write_seeds(tracker)
    write_seeds(tracker, SEED_VARIANTS, "variants", share=0.3)
    write_seeds(tracker, SEED_AXIS, "uneven", short={2: 20}, without_verdicts=(0,))
    return storage


def read(storage: Path, name: str) -> SweepCurves:
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    return collect(reader, reader.find_sweep(name))


@pytest.fixture(scope="module")
def curves(storage: Path) -> SweepCurves:
    return read(storage, "seeds")


@pytest.mark.parametrize("kind", [NEW, FIXED])
def test_a_cells_interval_is_that_over_its_seeds_verdicts(curves: SweepCurves, kind: str) -> None:
    dft = curves.cells[1]
    assert (dft.name, len(dft.seeds), dft.training_id) == ("objective=dft", 3, "")
    for benchmark in SIZES:
        point = dft.accuracy["eval", benchmark][-1]
        rows = [next(t for t in tables("dft", seed, STEPS[-1]) if t.benchmark == benchmark).correct for seed in SEEDS]
        expected = over_seeds(rows, kind=kind)  # type: ignore[arg-type]
        found = (point.low, point.high) if kind == NEW else (point.fixed_low, point.fixed_high)
        assert (point.accuracy, *found) == pytest.approx((expected.mean, expected.low, expected.high))
        assert (point.seeds, point.of_seeds, point.by_question) == (3, 3, True)


def test_the_averages_interval_holds_that_benchmarks_share_the_seed(curves: SweepCurves) -> None:
    point = curves.cells[0].accuracy["eval", "average"][-1]
    found = [[table.counts for table in tables("sft", seed, STEPS[-1])] for seed in SEEDS]
    stacked = [tuple(np.stack(each) for each in zip(*seeds, strict=True)) for seeds in zip(*found, strict=True)]
    expected = over_seeds_of_counts(stacked)  # type: ignore[arg-type]
    assert (point.accuracy, point.low, point.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_the_base_model_is_measured_once_however_many_seeds(curves: SweepCurves) -> None:
    cell = curves.cells[0]
    point, alone = cell.accuracy["eval", "amc23"][0], cell.seeds[0].accuracy["eval", "amc23"][0]
    assert (point.accuracy, point.low, point.fixed_low) == (alone.accuracy, alone.low, alone.fixed_low)


def test_variants_that_set_the_seed_make_the_same_cells(storage: Path, curves: SweepCurves) -> None:
    found = read(storage, "variants")
    assert [cell.name for cell in found.cells] == [cell.name for cell in curves.cells]
    assert found.axes == curves.axes == ("train.objective.kind",)
    assert (found.trial_axes, curves.trial_axes) == (("variant",), ("train.objective.kind", "train.seed"))
    table = accuracy_table(found, found.samplings[0], "average")
    assert [values for values, _ in table.rows] == [("sft",), ("dft",)]


def test_without_verdicts_of_a_seed_the_interval_stands_on_accuracies_and_says_so(storage: Path) -> None:
    curves = read(storage, "uneven")
    cell = curves.cells[1]
    *_, at_20, at_30 = cell.accuracy["eval", "math500"]
    alone = [seed.accuracy["eval", "math500"][2] for seed in cell.seeds]
    half = seed_half_width(np.array([each.accuracy for each in alone]))
    above = np.mean([(each.high or 0) - each.accuracy for each in alone])
    assert at_20.high == pytest.approx(at_20.accuracy + np.hypot(half, above))
    assert (at_20.seeds, at_30.seeds, at_30.of_seeds, at_20.by_question) == (3, 2, 3, False)
    notes = " ".join(curves.accuracy_notes)
    assert "Verdicts by question are not recorded of every seed" in notes
    assert "Measured at some steps of fewer seeds than there are: objective=sft, objective=dft." in notes
    assert "2/3 seeds)" in markdown(accuracy_table(curves, curves.samplings[0], "math500"), [])
    assert [len(cell.training["nll"]) for cell in curves.cells] == [20, 20]


def test_the_table_has_a_row_per_cell_and_says_what_it_is(curves: SweepCurves) -> None:
    text = markdown(accuracy_table(curves, curves.samplings[0], "average"), curves.accuracy_notes)
    assert "sampled (temperature 1, 4 samples per question), means over 3 seeds**" in text
    assert "95% intervals for new questions and other seeds." in text
    assert "with 95% intervals that hold the spread over seeds" in text
    rows = [line for line in text.splitlines() if line.startswith(("| sft", "| dft"))]
    point = curves.cells[1].accuracy["eval", "average"][-1]
    assert len(rows) == 2
    assert f"{100 * point.accuracy:.1f} ({100 * (point.low or 0):.1f}-{100 * (point.high or 0):.1f})" in rows[1]


def test_csv_and_json_keep_single_trials_and_add_the_cells(storage: Path, curves: SweepCurves) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(curves))))
    assert {row["train.seed"] for row in rows if row["training_id"]} == {"0", "1", "2"}
    means = [row for row in rows if not row["training_id"]]
    assert len(rows) == 3 * len(SIZES | {"average": 0}) * len(STEPS) * 2 + len(means)
    assert {(row["train.objective.kind"], row["train.seed"], row["seeds"]) for row in means} == {
        ("sft", "", "3"),
        ("dft", "", "3"),
    }
    result = CliRunner().invoke(report.command, ["variants", "--storage", str(storage), "--json"])
    document = json.loads(result.stdout)
    assert {record["seeds"] for record in document["curves"]} == {1, 3}
    assert {record["axes"].get("variant") for record in document["curves"]} >= {"dft-0", None}
    [chosen] = document["best"]
    assert (chosen["trial"], chosen["bias"]) == ("objective=dft", 0.0)
    assert 0 < chosen["selection_accuracy"] < 1


def test_figures_draw_single_seeds_thin_behind_their_mean(curves: SweepCurves) -> None:
    figure = accuracy_figure(curves, curves.samplings[0])
    assert figure is not None
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == len(STEPS)]
    thin, strong = ([line for line in lines if (line.get_linewidth() < 1) is is_thin] for is_thin in (True, False))
    assert (len(thin), len(strong)) == (6, 2)
    assert max(line.get_zorder() for line in thin) < min(line.get_zorder() for line in strong)
    means = np.mean([line.get_ydata() for line in thin if line.get_color() == strong[0].get_color()], axis=0)
    assert strong[0].get_ydata() == pytest.approx(means)
    for found in (figure, training_figure(curves), probability_figure(curves)):
        assert found is not None
        words = " ".join(text.get_text() for text in texts(found))
        assert "over 3 seeds" in words and "hin lines: single seeds" in words


def test_held_out_questions_choose_and_the_others_report(storage: Path) -> None:
    curves = read(storage, "variants")
    found = best(curves, curves.samplings[0])
    assert found is not None
    points = [(cell, point) for cell in curves.cells for point in cell.accuracy["eval", "average"]]
    cell, point = max(points, key=lambda each: each[1].selection or 0)
    assert (found.trial, found.step, found.accuracy) == (cell.name, point.step, point.accuracy)
    kept = [table.without(table.held_out) for table in tables("dft", 0, found.step, 0.3)]
    assert [len(table.questions) for table in kept] == [28, 84]
    expected = np.mean([np.mean(table.right) / 4 for table in kept])
    assert cell.seeds[0].accuracy["eval", "average"][STEPS.index(found.step)].accuracy == pytest.approx(expected)
    assert any("leave out the 30% of each benchmark's questions" in note for note in curves.accuracy_notes)
