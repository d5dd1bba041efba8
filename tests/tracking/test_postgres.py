"""A sweep on PostgreSQL: as on SQLite, with two writers at once, and among a thousand others."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking import names
from dft_sweeps.tracking.reader import Reader, SweepRow, TrialRow
from dft_sweeps.tracking.store import TrackingUnavailable
from dft_sweeps.tracking.writer import MetricRow, Tracker
from services.sweep_views import FRESH_S
from tests.services.in_process_api import WrittenDown, running_api
from tests.tracking.conftest import NewDatabase
from tests.tracking.servers import PASSWORD
from tests.tracking.thousand_sweeps import SWEEPS, TRIALS, write_sweeps

pytestmark = pytest.mark.slow


def listed(*training_ids: str) -> list[dict[str, Any]]:
    return [{"training_id": id_, "name": f"seed={id_}", "axes": {"train.seed": id_}} for id_ in training_ids]


def points(count: int, factor: float = 1.0) -> list[MetricRow]:
    return [MetricRow("train/nll", step, factor / (1 + step), 1_000 + step) for step in range(count)]


def write(uri: str, artifacts: Path) -> tuple[list[Any], list[Any], list[tuple[int, float]]]:
    """A small sweep, and what is read of it, but for ids and times."""
    tracker = Tracker(uri, str(artifacts))
    first = tracker.open_sweep("first", "s-1", "name: first\n", listed("t-a", "t-b"), "m")
    run = tracker.open_trial(first, "t-a", "a", {"train.seed": "1", "p": "x" * 5_000}, {"dft.resumed_at": "4"})
    tracker.log(run, points(1_500))
    tracker.log(run, [MetricRow("train/grad_norm", 3, float("inf"), 5), MetricRow("train/nll", 0, 9.0, 9)])
    tracker.finish(run, "FINISHED")
    tracker.open_trial(first, "t-b", "b", {}, {})
    second = tracker.open_sweep("second", "s-2", "name: second\n", listed("t-b", "t-a"), "m")
    tracker.finish(tracker.open_trial(second, "t-b", "b", {}, {}), "FINISHED")
    tracker.finish(first, "KILLED")
    reader = Reader(uri)
    sweeps = [(row.sweep_id, row.name, row.status, row.finished, row.trials) for row in reader.sweeps()]
    trials = [_told(row) for row in reader.trials(reader.find_sweep("first"))]
    return sweeps, trials, reader.curve(reader.trials(reader.find_sweep("s-1"))[0].run_id or "", "train/nll")


def _told(row: TrialRow) -> tuple[Any, ...]:
    return row.training_id, row.status, row.params, row.metrics, row.steps, row.resumed_at


def test_what_is_written_is_read_as_from_sqlite(new_database: NewDatabase, tmp_path: Path) -> None:
    sqlite = write(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "sqlite")
    assert write(new_database(), tmp_path / "postgres") == sqlite
    assert sqlite[0] == [("s-2", "second", "RUNNING", 2, 2), ("s-1", "first", "KILLED", 2, 2)]


def test_two_writers_at_once_lose_nothing(new_database: NewDatabase, tmp_path: Path) -> None:
    uri = new_database()
    errors: list[Exception] = []

    def write_one(number: int) -> None:
        try:
            tracker = Tracker(uri, str(tmp_path))
            sweep = tracker.open_sweep("both", f"s-{number}", "", listed("t-shared", f"t-{number}"), "m")
            for trial in ("t-shared", f"t-{number}"):
                run = tracker.open_trial(sweep, trial, trial, {}, {})
                for start in range(0, 300, 10):
                    tracker.log(run, points(300, number + 1)[start : start + 10])
                tracker.finish(run, "FINISHED")
            tracker.finish(sweep, "FINISHED")
        except Exception as error:
            errors.append(error)

    Tracker(uri, None)._experiment("both")  # two that make it at once are MLflow's to settle: the later one fails
    threads = [threading.Thread(target=write_one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    reader = Reader(uri)
    assert {(row.sweep_id, row.finished, row.status) for row in reader.sweeps()} == {
        ("s-0", 2, "FINISHED"),
        ("s-1", 2, "FINISHED"),
    }
    for number in range(2):
        for trial in reader.trials(reader.find_sweep(f"s-{number}")):
            expected = [(row.step, row.value) for row in points(300, number + 1)]
            assert reader.curve(trial.run_id or "", "train/nll") == expected


class Queries:
    """Counts the statements that a reader's database is asked."""

    def __init__(self, reader: Reader) -> None:
        import sqlalchemy

        self.count = 0
        engine = reader._client._tracking_client.store.engine
        sqlalchemy.event.listen(engine, "before_cursor_execute", self._counted)

    def _counted(self, *_: object) -> None:
        self.count += 1

    def timed(self, what: str, ask: Callable[[], Any]) -> tuple[Any, int]:
        before, started, worked = self.count, time.perf_counter(), time.process_time()
        answer = ask()
        seconds = f"{time.perf_counter() - started:.3f} s, {time.process_time() - worked:.3f} s of them at work here"
        print(f"{what}: {seconds}; {self.count - before} statements")
        return answer, self.count - before


def test_a_thousand_sweeps_are_listed_with_few_queries(
    new_database: NewDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = new_database()
    started = time.perf_counter()
    write_sweeps(uri, tmp_path)
    with capsys.disabled():
        print(f"\n{SWEEPS} sweeps of {TRIALS} trials written in {time.perf_counter() - started:.1f} s")
        gc.freeze()  # a server has not the objects of all earlier tests, among which a pass takes a second
        reader = Reader(uri)
        queries = Queries(reader)
        queries.timed("list, the first after connecting", lambda: reader.newest_sweeps(50))
        (rows, older), for_list = queries.timed("list", lambda: reader.newest_sweeps(50))
        every, for_all = queries.timed("list --all", reader.sweeps)
        by_id, for_find = queries.timed("find by id", lambda: reader.find_sweep("s-000500"))
        by_name, _ = queries.timed("find by name", lambda: reader.find_sweep("sweep-007"))
        trials, for_trials = queries.timed("trials", lambda: reader.trials(by_id))
        ids = [trial.training_id for trial in trials]
        finished, for_finished = queries.timed("finished", lambda: reader.finished_trials(ids, by_id.measures))
        with pytest.raises(SpecError, match="and 990 more"):
            queries.timed("an unknown name", lambda: reader.find_sweep("none"))
        with running_api(tmp_path, WrittenDown(), tracking_uri=uri) as client:
            for path in ("/v1/sweeps", "/v1/sweeps?limit=1000", "/v1/sweeps/s-000500"):
                for which in ("first", "again"):
                    answer, _ = queries.timed(f"GET {path}, {which}", lambda path=path: client.get(path))
                    assert answer.status_code == 200
                    time.sleep(FRESH_S)  # no answer is given twice
            answered = client.get("/v1/sweeps?limit=1000").json()
        gc.unfreeze()
    assert (len(rows), older, len(every)) == (50, True, SWEEPS)
    assert [each["sweep_id"] for each in answered] == [row.sweep_id for row in every]
    assert rows == every[:50]
    assert [row.sweep_id for row in rows[:2]] == [f"s-{SWEEPS - 1:06d}", f"s-{SWEEPS - 2:06d}"]
    assert {(row.finished, row.trials) for row in every} == {(TRIALS - 2, TRIALS), (TRIALS, TRIALS)}
    assert by_name.name == "sweep-007" and by_name.sweep_id == max(r.sweep_id for r in every if r.name == "sweep-007")
    assert [trial.status for trial in trials] == ["FINISHED"] * (TRIALS - 2) + ["KILLED", "WAITING"]
    assert trials[0].steps["train/nll"] == 100 and len(finished) == TRIALS - 2
    # A statement for each run would be hundreds.
    assert max(for_list, for_all) <= 40 and for_find <= 40 and for_trials <= 60 and for_finished <= 10 * TRIALS + 10


def test_a_sweep_without_its_trials_in_tags_is_still_counted(new_database: NewDatabase, tmp_path: Path) -> None:
    """As those recorded by earlier versions."""
    uri = new_database()
    tracker = Tracker(uri, str(tmp_path))
    sweep = tracker.open_sweep("old", "s-old", "", listed("t-a", "t-b"), "m")
    tracker.finish(tracker.open_trial(sweep, "t-a", "a", {}, {}), "FINISHED")
    for training_id in ("t-a", "t-b"):
        tracker._client.delete_tag(sweep, f"{names.TRIAL_TAG}{training_id}")
    found: SweepRow = Reader(uri).find_sweep("s-old")
    assert (found.finished, found.trials) == (1, 2)


def test_a_refused_password_is_not_told(new_database: NewDatabase, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = new_database().replace(PASSWORD, "wr0ng-passw0rd")
    with pytest.raises(TrackingUnavailable, match="password authentication failed") as caught:
        Reader(wrong)
    told = str(caught.value) + "".join(capfd.readouterr())
    assert "wr0ng-passw0rd" not in told and "sweeper:***@" in told
