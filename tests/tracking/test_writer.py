"""The tracker against a real SQLite store: every call can be repeated, and nothing is doubled or cut."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.params import flatten
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.store import TrackingUnavailable
from dft_sweeps.tracking.writer import MetricRow, Tracker

TRIALS = [{"training_id": f"t-{index}", "name": f"trial {index}", "axes": {"train.seed": index}} for index in range(2)]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def uri(storage: Path) -> str:
    return f"sqlite:///{storage}/mlflow.db"


@pytest.fixture
def tracker(uri: str, storage: Path) -> Tracker:
    """A new one each time, as after a restart: it knows only what MLflow knows."""
    return Tracker(uri, str(storage / "artifacts"))


def restarted(tracker: Tracker, uri: str, storage: Path) -> Tracker:
    del tracker
    return Tracker(uri, str(storage / "artifacts"))


def open_one(tracker: Tracker, sweep: str) -> tuple[str, str]:
    parent = tracker.open_sweep("writer", sweep, "name: writer\n", TRIALS, "m")
    return parent, tracker.open_trial(parent, f"t-{sweep}", "a trial", {"train.seed": "0"}, {"variant": "clean"})


def points(tracker: Tracker, run: str, key: str) -> list[tuple[int, float]]:
    """As MLflow holds them, repeats included."""
    return [(point.step, point.value) for point in tracker._client.get_metric_history(run, key)]


def test_a_sweep_is_found_again_and_an_attempt_at_a_trial_never(tracker: Tracker, uri: str, storage: Path) -> None:
    """Two attempts may differ in their bits, so their rows are never mixed in one run."""
    parent, run = open_one(tracker, "s-twice")
    tracker.finish(run, "KILLED")
    tracker.finish(parent, "KILLED")
    again = restarted(tracker, uri, storage)
    same, other = open_one(again, "s-twice")
    assert same == parent
    assert other != run
    assert again._client.get_run(parent).info.status == "RUNNING"
    assert again._client.get_run(run).info.status == "KILLED"
    assert again._client.get_run(other).data.tags["mlflow.parentRunId"] == parent


def test_a_sweep_that_cannot_be_opened_is_not_left_running(tracker: Tracker, storage: Path) -> None:
    (storage / "artifacts").mkdir(exist_ok=True)
    (storage / "artifacts" / "blocked").write_text("in the way of the experiment's artifacts")
    with pytest.raises(OSError):
        tracker.open_sweep("blocked", "s-blocked", "", TRIALS, "m")
    experiment = tracker._client.get_experiment_by_name("blocked")
    assert [run.info.status for run in tracker._client.search_runs([experiment.experiment_id])] == ["FAILED"]


def test_replay_never_doubles_a_point(tracker: Tracker) -> None:
    _, run = open_one(tracker, "s-replay")
    rows = [MetricRow("train/nll", step, 1 / step, 1_000 + step) for step in range(1, 1_501)]
    assert tracker.log(run, rows[:1_200]) == 1_200
    assert tracker.log(run, rows[1_000:1_200]) == 0
    replayed = [MetricRow(row.key, row.step, row.value * 1.001, row.timestamp_ms + 99) for row in rows[900:]]
    assert tracker.log(run, replayed) == 300
    assert sorted(points(tracker, run, "train/nll"))[:1_200] == [(row.step, row.value) for row in rows[:1_200]]
    assert len(points(tracker, run, "train/nll")) == 1_500


def test_the_first_of_two_rows_in_one_call_counts(tracker: Tracker) -> None:
    _, run = open_one(tracker, "s-first")
    assert tracker.log(run, [MetricRow("train/nll", 1, 0.5, 1), MetricRow("train/nll", 1, 0.7, 2)]) == 1
    assert points(tracker, run, "train/nll") == [(1, 0.5)]


def test_values_that_are_not_finite_come_back(tracker: Tracker, uri: str) -> None:
    _, run = open_one(tracker, "s-nan")
    values = [math.nan, math.inf, -math.inf, 1.0]
    tracker.log(run, [MetricRow("train/grad_norm", step, value, 1) for step, value in enumerate(values)])
    read = [value for _, value in Reader(uri).curve(run, "train/grad_norm")]
    assert math.isnan(read[0]) and read[1:] == values[1:]


def test_reconcile_kills_what_a_dead_coordinator_left(tracker: Tracker, uri: str, storage: Path) -> None:
    parent, run = open_one(tracker, "s-dead")
    done = tracker.open_trial(parent, "t-other", "done", {}, {})
    tracker.finish(done, "FINISHED")
    _, elsewhere = open_one(tracker, "s-alive")
    again = restarted(tracker, uri, storage)
    assert sorted(again.reconcile("s-dead")) == sorted([parent, run])
    status = {id_: again._client.get_run(id_).info.status for id_ in (parent, run, done, elsewhere)}
    assert status == {parent: "KILLED", run: "KILLED", done: "FINISHED", elsewhere: "RUNNING"}
    assert again.reconcile("s-dead") == []


def test_more_params_than_a_batch_holds(tracker: Tracker) -> None:
    parent, _ = open_one(tracker, "s-params")
    params = {f"p.{index}": str(index) for index in range(230)}
    run = tracker.open_trial(parent, "t-many", "many", params, {})
    assert tracker._client.get_run(run).data.params == params


def test_tags_are_set_over_those_of_the_same_names(tracker: Tracker) -> None:
    _, run = open_one(tracker, "s-tags")
    tracker.tag(run, {"dft.threads": "1", "variant": "noisy"})
    tracker.tag(run, {"dft.threads": "2"})
    tags = tracker._client.get_run(run).data.tags
    assert (tags["dft.threads"], tags["variant"], tags["dft.training_id"]) == ("2", "noisy", "t-s-tags")
    with pytest.raises(SpecError, match="MLflow keeps at most"):
        tracker.tag(run, {"dft.mixed_provenance": "x" * 6_001})


@pytest.mark.parametrize(("key", "value"), [("data.source.path", "x" * 6_001), ("k" * 251, "x")])
def test_params_that_mlflow_would_cut_are_refused(tracker: Tracker, key: str, value: str) -> None:
    parent, _ = open_one(tracker, "s-long")
    with pytest.raises(SpecError, match="MLflow keeps at most"):
        tracker.open_trial(parent, "t-long", "long", {key: value}, {})


def test_a_deleted_experiment_is_named(tracker: Tracker) -> None:
    tracker.open_sweep("deleted", "s-1", "", TRIALS, "m")
    experiment = tracker._client.get_experiment_by_name("deleted")
    assert experiment is not None
    tracker._client.delete_experiment(experiment.experiment_id)
    with pytest.raises(SpecError, match="was deleted in MLflow: restore it"):
        tracker.open_sweep("deleted", "s-1", "", TRIALS, "m")


def test_flatten_writes_every_leaf_once() -> None:
    fields = {
        "train": {"learning_rate": 3e-4, "objective": {"kind": "dft"}, "epochs": None},
        "tags": [1, "a"],
        "e": {},
    }
    assert flatten(fields) == {
        "train.learning_rate": "0.0003",
        "train.objective.kind": "dft",
        "train.epochs": "null",
        "tags": '[1, "a"]',
        "e": "{}",
    }


def test_two_processes_may_create_the_database_at_once(tmp_path: Path) -> None:
    code = "from dft_sweeps.tracking.writer import Tracker; "
    code += f"Tracker('sqlite:///{tmp_path}/deep/mlflow.db', None)"
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said == ["", ""]  # nor do MLflow's migrations talk


@pytest.fixture
def failing_server() -> Iterator[str]:
    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_fails_is_unavailable(failing_server: str) -> None:
    with pytest.raises(TrackingUnavailable, match=failing_server):
        Tracker(failing_server, None)


@pytest.mark.parametrize("scheme", ["http", "postgresql", "mysql+pymysql"])
def test_nothing_at_the_address_is_unavailable(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(TrackingUnavailable):
            Tracker(f"{scheme}://127.0.0.1:{port}/x", None)


def test_a_file_where_the_folder_should_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(TrackingUnavailable, match="cannot keep an MLflow database"):
        Tracker(f"sqlite:///{tmp_path}/taken/mlflow.db", None)
