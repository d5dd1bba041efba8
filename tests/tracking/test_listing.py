"""A search's list of trials in MLflow only ever grows."""

from __future__ import annotations

from pathlib import Path

from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Tracker

TRIALS = [{"training_id": f"t-{number}", "name": str(number), "axes": {"train.seed": number}} for number in range(6)]


def test_a_process_that_knows_less_of_a_search_takes_nothing_away(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker, text = Tracker(uri, str(tmp_path / "artifacts")), "trial: {}\n"
    reader = Reader(uri)
    for known, left, listed in ((2, 4, 2), (4, 2, 4), (2, 4, 4), (6, 0, 6), (2, 4, 6)):
        tracker.open_sweep("a", "s-1", text, TRIALS[:known], "m", left)
        row = reader.find_sweep("s-1")
        assert (row.trials, row.to_propose) == (listed, 6 - listed)
        assert [trial.training_id for trial in reader.trials(row)] == [f"t-{number}" for number in range(listed)]


def test_what_is_listed_has_the_names_that_it_has_now(tmp_path: Path) -> None:
    """By which a search tells its arms apart: all of one list are from one spec."""
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts"))
    tracker.open_sweep("a", "s-1", "trial: {}\n", TRIALS, "m", 0)
    tracker.open_sweep("a", "s-1", "trial: {}\n", [TRIALS[1] | {"name": "other"}], "m", 5)
    reader = Reader(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert [row.name for row in reader.trials(reader.find_sweep("s-1"))] == ["0", "other", "2", "3", "4", "5"]


def test_other_sweeps_have_nothing_to_propose(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts"))
    tracker.open_sweep("a", "s-1", "trial: {}\n", TRIALS, "m")
    tracker.open_sweep("a", "s-1", "trial: {}\n", TRIALS[:2], "m")
    row = Reader(f"sqlite:///{tmp_path / 'mlflow.db'}").find_sweep("s-1")
    assert row.to_propose == 0
