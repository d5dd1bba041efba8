"""Trials that a scheduler stopped: in MLflow, for their own sweep and for others, and in tables, notes and figures."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from dft_sweeps.cli.status import progress_of
from dft_sweeps.report.ablation import ablation_figures
from dft_sweeps.report.cells import cells
from dft_sweeps.report.collect import collect
from dft_sweeps.report.curves import SweepCurves
from dft_sweeps.report.figures import accuracy_figure
from dft_sweeps.report.sides import trial_side
from dft_sweeps.report.tables import accuracy_table, csv_text, markdown, rich_table
from dft_sweeps.tracking import names
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import MetricRow, Tracker
from tests.report.synthetic_seeds import tables, write_tables

RATES = (1e-4, 1e-3, 1e-2)
STOPPED = {1e-4: 4, 1e-2: 8}
SPEC = {
    "name": "halved",
    "trial": {"evaluation": {"benchmarks": ["arithmetic_2"], "samplings": {"sampled": {"samples": 4}}}},
    "scheduler": {"kind": "asha", "rungs": [4, 8]},
}
ACCURACY, HELD_OUT = (names.eval_metric("eval", names.AVERAGE, name) for name in ("accuracy", "selection_accuracy"))


def listed() -> list[dict[str, object]]:
    return [
        {"training_id": f"t-{rate}", "name": f"learning_rate={rate}", "axes": {"train.learning_rate": rate}}
        for rate in RATES
    ]


def write(tracker: Tracker, parent: str, rate: float, last: int) -> str:
    run = tracker.open_trial(parent, f"t-{rate}", f"learning_rate={rate}", {"resolved.steps": "12"}, {})
    steps = range(0, last + 1, 4)
    rows = [MetricRow(names.train_metric("nll"), step, 1 / step, step) for step in range(1, last + 1)]
    for benchmark in ("arithmetic_2", names.AVERAGE):
        key = names.eval_metric("eval", benchmark, "accuracy")
        rows += [MetricRow(key, step, 0.5 + 10 * rate * bool(step), step) for step in steps]
    tracker.log(run, rows)
    return run


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sweep of three trials, of which two were stopped, and another sweep of the same trials."""
    storage = tmp_path_factory.mktemp("storage")
    uri = f"sqlite:///{storage}/mlflow.db"
    tracker = Tracker(uri, str(storage / "artifacts"))
    other = tracker.open_sweep("other", "s-other", "name: other\n", listed(), "m")
    parent = tracker.open_sweep("halved", "s-halved", yaml.safe_dump(SPEC), listed(), "m")
    for rate in RATES:
        run = write(tracker, parent, rate, STOPPED.get(rate, 12))
        if rate in STOPPED:
            tracker.tag(run, {names.STOPPED_AT_TAG: str(STOPPED[rate])})
        tracker.finish(run, "FINISHED")
    tracker.finish(parent, "FINISHED")
    tracker.finish(other, "KILLED")
    return uri


@pytest.fixture(scope="module")
def curves(uri: str) -> SweepCurves:
    reader = Reader(uri)
    return collect(reader, reader.find_sweep("halved"))


def test_a_stopped_trial_is_finished_in_its_own_sweep_alone(uri: str) -> None:
    reader = Reader(uri)
    halved, other = reader.find_sweep("halved"), reader.find_sweep("other")
    assert (halved.finished, other.finished) == (3, 1)
    assert [(row.status, row.stopped_at) for row in reader.trials(halved)] == [
        ("FINISHED", 4),
        ("FINISHED", None),
        ("FINISHED", 8),
    ]
    assert [row.status for row in reader.trials(other)] == ["WAITING", "FINISHED", "WAITING"]
    ids = [f"t-{rate}" for rate in RATES]
    assert set(reader.finished_trials(ids, "m", "s-halved")) == set(ids)
    assert set(reader.finished_trials(ids, "m", "s-other")) == set(reader.finished_trials(ids, "m")) == {ids[1]}


def test_a_sweep_that_is_opened_again_knows_its_stopped_trials(uri: str) -> None:
    tracker = Tracker(uri, None)
    for name, finished in (("halved", 3), ("other", 1)):
        tracker.finish(tracker.open_sweep(name, f"s-{name}", yaml.safe_dump(SPEC), listed(), "m"), "FINISHED")
        assert Reader(uri).find_sweep(name).finished == finished


def test_what_trials_have_shown_is_read_of_all_their_attempts(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    parent = tracker.open_sweep("halved", "s-halved", yaml.safe_dump(SPEC), listed(), "m")
    killed, again = write(tracker, parent, 1e-3, 8), write(tracker, parent, 1e-3, 4)
    tracker.log(again, [MetricRow(HELD_OUT, 4, 0.25, 1)])
    tracker.finish(killed, "KILLED")
    write(tracker, tracker.open_sweep("else", "s-else", "", listed(), "other measures"), 1e-2, 12)
    reader = Reader(f"sqlite:///{tmp_path}/mlflow.db")
    ids = [f"t-{rate}" for rate in RATES]
    assert reader.accuracy_at(ids, "m", "eval") == {"t-0.001": {0: 0.5, 4: 0.25, 8: 0.51}}
    assert reader.trained_steps(ids, "m") == {"t-0.001": 8}
    assert reader.accuracy_at(ids, "m", "eval_greedy") == {}
    assert reader.failed_trials(ids, "m") == set()
    tracker.finish(again, "FAILED")
    assert reader.failed_trials(ids, "m") == {"t-0.001"}
    tracker.finish(write(tracker, parent, 1e-3, 4), "KILLED")
    assert reader.failed_trials(ids, "m") == set()


def test_a_comparison_says_that_a_trial_was_stopped(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker(uri, str(tmp_path / "artifacts"))
    parent = tracker.open_sweep("halved", "s-halved", yaml.safe_dump(SPEC), listed(), "m")
    run = write(tracker, parent, 1e-4, 4)
    write_tables(tracker, run, 4, tables("dft", 0, 4))
    tracker.tag(run, {names.STOPPED_AT_TAG: "4"})
    tracker.finish(run, "FINISHED")
    reader = Reader(uri)
    [cell, *_] = cells(reader.trials(reader.find_sweep("halved")), yaml.safe_dump(SPEC))
    side = trial_side(reader, cell, None, paper=False)
    assert (side.step, side.notes) == (
        4,
        ("stopped by its sweep's scheduler, so that this is not its last step: learning_rate=0.0001 (step 4)",),
    )
    assert trial_side(reader, cell, 4, paper=False).notes == ()


def test_tables_say_where_it_was_stopped(curves: SweepCurves) -> None:
    table = accuracy_table(curves, curves.samplings[0], "arithmetic_2")
    assert table.steps == (0, 4, 8, 12)
    lines = [line for line in markdown(table, curves.notes).splitlines() if line.startswith("| 0.") or "e-" in line]
    assert [line.split(" | ")[1:5] for line in lines] == [
        ["50.0", "50.1", "stopped at 4", "stopped at 4"],
        ["50.0", "51.0", "51.0", "51.0"],
        ["50.0", "60.0", "60.0", "stopped at 8"],
    ]
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(rich_table(table, 100))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()  # with the best step of each
    assert (text.count("stopped"), text.count("at 4"), text.count("at 8"), " - " in text) == (3, 5, 1, False)


def test_notes_and_records_say_so_too(curves: SweepCurves) -> None:
    [note] = curves.notes
    stopped = "at step 4 learning_rate=0.0001; at step 8 learning_rate=0.01"
    assert note == f"Stopped by the scheduler before their last step: {stopped}."
    assert "was decided on the same questions as the accuracies shown" in curves.accuracy_notes[-1]
    rows = list(csv.DictReader(io.StringIO(csv_text(curves))))
    assert {(row["training_id"], row["stopped_at"]) for row in rows} == {
        ("t-0.0001", "4"),
        ("t-0.001", ""),
        ("t-0.01", "8"),
    }


def test_status_has_the_step(uri: str) -> None:
    reader = Reader(uri)
    told = [progress_of(row) for row in reader.trials(reader.find_sweep("halved"))]
    assert [json.loads(json.dumps(each))["stopped_at"] for each in told] == [4, None, 8]


def test_figures_mark_the_end_and_take_it_for_no_last_step(curves: SweepCurves) -> None:
    figure = accuracy_figure(curves, curves.samplings[0])
    assert figure is not None
    crosses = [line.get_xdata() for ax in figure.axes for line in ax.lines if line.get_marker() == "x"]
    assert sorted(map(list, crosses)) == [[4], [8]]
    [ablation] = ablation_figures([curves]).values()
    assert ablation is not None
    points = {
        tuple(line.get_xdata()) for ax in ablation.axes for line in ax.lines if line.get_marker() not in ("", "None")
    }
    assert {x for xs in points for x in xs} <= {1e-3}
