"""The reader against a real SQLite store: what is found by which name, and which run stands for a trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.reader import WAITING, Reader
from dft_sweeps.tracking.writer import MetricRow, Tracker


def listed(*training_ids: str) -> list[dict[str, object]]:
    return [{"training_id": id_, "name": f"seed={id_}", "axes": {"train.seed": id_}} for id_ in training_ids]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three sweeps of two names; trial t-shared is finished in the first and listed in the second."""
    storage = tmp_path_factory.mktemp("storage")
    uri = f"sqlite:///{storage}/mlflow.db"
    tracker = Tracker(uri, str(storage / "artifacts"))
    first = tracker.open_sweep("first", "s-11aa", "name: first\n", listed("t-shared", "t-killed"), "m")
    shared = tracker.open_trial(first, "t-shared", "shared", {"train.seed": "1"}, {"dft.resumed_at": "40"})
    tracker.log(shared, [MetricRow("train/nll", step, 1 / (1 + step), step) for step in (2, 0, 1)])
    tracker.finish(shared, "FINISHED")
    tracker.finish(tracker.open_trial(first, "t-killed", "killed", {}, {}), "KILLED")
    tracker.finish(first, "FAILED")
    second = tracker.open_sweep(
        "second", "s-11bb", "name: second\n", listed("t-new", "t-shared", "t-killed", "t-later"), "m"
    )
    tracker.open_trial(second, "t-new", "new", {}, {})
    tracker.open_trial(second, "t-killed", "killed again", {}, {})
    tracker.finish(tracker.open_sweep("second", "s-22cc", "name: second\n", listed("t-shared"), "m"), "FINISHED")
    return uri


@pytest.fixture
def reader(uri: str) -> Reader:
    return Reader(uri)


def test_sweeps_are_listed_newest_first_and_count_trials_of_other_sweeps(reader: Reader) -> None:
    rows = [(row.sweep_id, row.name, row.status, row.finished, row.trials) for row in reader.sweeps()]
    assert rows == [
        ("s-22cc", "second", "FINISHED", 1, 1),
        ("s-11bb", "second", "RUNNING", 1, 4),
        ("s-11aa", "first", "FAILED", 1, 2),
    ]


@pytest.mark.parametrize(
    ("wanted", "sweep_id"),
    [("s-11bb", "s-11bb"), ("second", "s-22cc"), ("s-2", "s-22cc"), ("fir", "s-11aa"), ("sec", "s-22cc")],
)
def test_a_sweep_is_found_by_id_name_or_beginning(reader: Reader, wanted: str, sweep_id: str) -> None:
    assert reader.find_sweep(wanted).sweep_id == sweep_id


def test_an_ambiguous_beginning_lists_those_it_fits(reader: Reader) -> None:
    with pytest.raises(SpecError) as raised:
        reader.find_sweep("s-11")
    assert str(raised.value) == "'s-11' fits several sweeps; choose one of:\n  s-11bb  second\n  s-11aa  first"


def test_an_unknown_sweep_lists_all(reader: Reader) -> None:
    with pytest.raises(SpecError) as raised:
        reader.find_sweep("third")
    assert str(raised.value) == (
        "no sweep 'third'; choose one of:\n  s-22cc  second\n  s-11bb  second\n  s-11aa  first"
    )


def test_trials_come_in_grid_order_with_the_best_run_of_any_sweep(reader: Reader) -> None:
    rows = reader.trials(reader.find_sweep("s-11bb"))
    assert [(row.training_id, row.status) for row in rows] == [
        ("t-new", "RUNNING"),
        ("t-shared", "FINISHED"),
        ("t-killed", "RUNNING"),
        ("t-later", WAITING),
    ]
    assert rows[1].params == {"train.seed": "1"}
    assert rows[1].metrics == {"train/nll": 1 / 3}
    assert rows[1].axes == {"train.seed": "t-shared"}
    assert rows[3].run_id is None
    assert [row.resumed_at for row in rows] == [None, 40, None, None]
    assert {row.mixed_provenance for row in rows} == {None}


def test_the_first_sweep_keeps_its_own_killed_run(reader: Reader) -> None:
    rows = reader.trials(reader.find_sweep("first"))
    assert [row.status for row in rows] == ["FINISHED", "KILLED"]


def test_curve_is_sorted_by_step(reader: Reader) -> None:
    run = reader.finished_trials(["t-shared"], "m")["t-shared"]
    assert reader.curve(run, "train/nll") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert reader.curve(run, "train/entropy") == []


def test_only_finished_trials_are_finished(reader: Reader) -> None:
    assert set(reader.finished_trials(["t-shared", "t-new", "t-killed", "t-unheard-of"], "m")) == {"t-shared"}


def test_a_trial_measured_otherwise_is_another_matter(reader: Reader) -> None:
    """Its points bear the same names and mean something else."""
    assert reader.finished_trials(["t-shared"], "other measures") == {}


def test_reading_does_not_create_a_database(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no tracking database .*absent\.db"):
        Reader(f"sqlite:///{tmp_path}/absent.db")
    assert not (tmp_path / "absent.db").exists()
