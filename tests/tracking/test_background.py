"""The background writer: outages change nothing of what MLflow holds in the end, and block nobody meanwhile.

MLflow is real here; what fails is the tracker's call before or after it has reached MLflow, as when an answer is lost.
Servers that are killed are in test_outages.py.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking import background
from dft_sweeps.tracking.background import Background
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.store import TrackingUnavailable
from dft_sweeps.tracking.writer import MetricRow, Tracker

TRIALS = [{"training_id": f"t-{index}", "name": f"trial {index}", "axes": {}} for index in range(2)]


class Unsteady(Tracker):
    """Its answers get lost while `down`, or by chance; what was asked is done or not, by chance too."""

    def __init__(self, uri: str, artifacts: str, seed: int = 0) -> None:
        super().__init__(uri, artifacts)
        self.down, self.share = False, 0.0
        self.chance = random.Random(seed)

    def _unsteady(self, call: Callable[[], Any]) -> Any:
        fails = self.down or self.chance.random() < self.share
        if fails and self.chance.random() < 0.5:
            raise TrackingUnavailable("no answer, and nothing was done")
        answer = call()
        if fails:
            raise TrackingUnavailable("no answer, though it was done")
        return answer

    def open_trial(self, *given: Any) -> str:
        return self._unsteady(lambda: Tracker.open_trial(self, *given))

    def send(self, *given: Any) -> None:
        return self._unsteady(lambda: Tracker.send(self, *given))

    def tag(self, *given: Any) -> None:
        return self._unsteady(lambda: Tracker.tag(self, *given))

    def log_text(self, *given: Any) -> None:
        return self._unsteady(lambda: Tracker.log_text(self, *given))

    def finish(self, *given: Any) -> None:
        return self._unsteady(lambda: Tracker.finish(self, *given))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture
def tracker(storage: Path) -> Unsteady:
    return Unsteady(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts"))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def writer(tracker: Unsteady, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Background:
    monkeypatch.setattr(background, "PAUSES_S", (0.005, 0.01))
    monkeypatch.setattr(background, "TELL_AFTER_S", 0.2)
    return Background(tracker, tmp_path / "spool", said.append, patience_s=2.0)


def rows(steps: range) -> list[MetricRow]:
    values = {"train/nll": lambda step: 1 / (1 + step), "train/grad_norm": lambda step: math.inf}
    return [MetricRow(key, step, value(step), 1_000 + step) for step in steps for key, value in values.items()]


def write_trial(writer: Background, parent: str, index: int) -> str:
    run = writer.open_trial(parent, f"t-{index}", f"trial {index}", {"p": "1"}, {"axis": str(index)})
    for start in range(0, 60, 7):
        writer.log(run, rows(range(start, min(60, start + 10))))  # they overlap
    writer.tag(run, {"dft.threads": "2"})
    writer.log_text(run, '{"a": 1}', "evaluations/step-00000003.json")
    return run


def read_back(tracker: Tracker, sweep: str) -> list[Any]:
    """Of each run below the sweep what MLflow holds, doubled points included."""
    client, found = tracker._client, []
    parent = Reader(tracker.address).find_sweep(sweep)
    for run in client.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'"):
        histories = {
            key: sorted((p.step, p.timestamp, p.value) for p in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        texts = [item.path for item in client.list_artifacts(run.info.run_id, "evaluations")]
        tags = {key: run.data.tags.get(key) for key in ("axis", "dft.threads", "dft.training_id")}
        found.append((run.info.status, run.data.params, tags, histories, texts))
    return sorted(found, key=lambda each: each[2]["dft.training_id"])


def test_lost_answers_lose_and_double_nothing(writer: Background, tracker: Unsteady, tmp_path: Path) -> None:
    expected: list[Any] = []
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    for sweep, share in (("s-steady", 0.0), ("s-unsteady", 0.5)):
        parent = writer.open_sweep("background", sweep, "", TRIALS, "m")
        tracker.share, tracker.chance = share, random.Random(seed)
        runs = [write_trial(writer, parent, index) for index in range(2)]
        for run in runs:
            writer.finish(run, "FINISHED")
        writer.finish(parent, "FINISHED")
        writer.flush()
        assert sorted(writer.ended()) == sorted([*runs, parent])
        tracker.share = 0.0
        found = read_back(tracker, sweep)
        expected = expected or found
        assert found == expected
        assert len(found[0][3]["train/nll"]) == 60 and [each[0] for each in found] == ["FINISHED"] * 2
        assert not list((tmp_path / "spool").iterdir())
    assert Reader(tracker.address).find_sweep("s-unsteady").finished == 2


def test_an_outage_is_said_once_and_blocks_nobody(
    writer: Background, tracker: Unsteady, said: list[str], tmp_path: Path
) -> None:
    parent = writer.open_sweep("background", "s-outage", "", TRIALS, "m")
    tracker.down = True
    started = time.monotonic()
    run = write_trial(writer, parent, 0)
    assert time.monotonic() - started < 5
    while not said and time.monotonic() - started < 20:
        time.sleep(0.05)
    time.sleep(0.3)
    [line] = said
    assert line.startswith("MLflow does not answer since ") and f"rows wait in {tmp_path}/spool/" in line
    tracker.down = False
    writer.finish(run, "FINISHED")
    writer.flush()
    assert [each[0] for each in read_back(tracker, "s-outage")] == ["FINISHED"]
    assert len(said) == 2 and said[1].startswith("MLflow answers again, and has caught up after ")


def test_down_to_the_end_is_sent_by_the_next_process(
    writer: Background, tracker: Unsteady, said: list[str], tmp_path: Path
) -> None:
    parent = writer.open_sweep("background", "s-end", "", TRIALS, "m")
    first = write_trial(writer, parent, 0)
    writer.finish(first, "FINISHED")
    writer.flush()
    tracker.down = True
    writer.finish(write_trial(writer, parent, 1), "FINISHED")
    with pytest.raises(TrackingUnavailable, match=r"rows wait in .* the same command, or any other run"):
        writer.flush()
    with pytest.raises(TrackingUnavailable, match="rows wait in"):
        writer.tag(first, {"too": "late"})
    tracker.down = False
    again = Background(tracker, tmp_path / "spool", said.append)
    again.recover()
    assert "rows that an earlier run left are in MLflow now" in said[-1]
    found = read_back(tracker, "s-end")
    assert [each[0] for each in found] == ["FINISHED"] * 2
    assert found[0][3] == found[1][3] and len(found[1][3]["train/nll"]) == 60
    assert again.reconcile("s-end") == [parent]
    again.recover()
    assert not list((tmp_path / "spool").iterdir())


def test_an_interrupt_amid_a_write_leaves_nothing_waiting_for_ever(
    writer: Background, tracker: Unsteady, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = writer.open_trial(writer.open_sweep("torn", "s-torn", "", TRIALS, "m"), "t-0", "trial 0", {}, {})
    fsync = os.fsync

    def interrupted(file: int) -> None:
        fsync(file)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.tag(run, {"dft.threads": "2"})
    monkeypatch.setattr(os, "fsync", fsync)
    writer.flush()
    writer.finish(run, "KILLED")
    writer.flush()
    [(status, _, tags, _, _)] = read_back(tracker, "s-torn")
    assert (status, tags["dft.threads"]) == ("KILLED", "2")
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_flush_may_be_given_more_patience_and_says_so_once(
    writer: Background, tracker: Unsteady, said: list[str]
) -> None:
    parent = writer.open_sweep("background", "s-patient", "", TRIALS, "m")
    tracker.down = True
    writer.finish(write_trial(writer, parent, 0), "FINISHED")
    back = threading.Timer(4.0, lambda: setattr(tracker, "down", False))  # the writer's own patience is 2 s
    back.start()
    writer.flush(patience_s=120.0)
    assert [each[0] for each in read_back(tracker, "s-patient")] == ["FINISHED"]
    assert [line for line in said if "waiting" in line] == ["waiting for MLflow for up to 2 minutes"]


def test_what_mlflow_refuses_is_raised_and_does_not_poison_later_runs(
    writer: Background, tracker: Unsteady, said: list[str], tmp_path: Path
) -> None:
    parent = writer.open_sweep("background", "s-refused", "", TRIALS, "m")
    run = writer.open_trial(parent, "t-0", "trial 0", {}, {})
    writer.flush()
    [made] = list(tracker._client.search_runs(["1"], f"tags.`dft.attempt` = '{run}'"))
    tracker._client.delete_run(made.info.run_id)
    writer.log(run, rows(range(1)))
    with pytest.raises(Exception, match="must be in the 'active' state"):
        writer.flush()
    again = Background(tracker, tmp_path / "spool", said.append)
    again.recover()
    again.recover()
    assert len(said) == 1 and said[0].startswith("MLflow refuses what an earlier run left, kept in ")


def test_a_spool_of_another_mlflow_is_left_alone(writer: Background, tracker: Unsteady, tmp_path: Path) -> None:
    parent = writer.open_sweep("background", "s-other", "", TRIALS, "m")
    tracker.down = True
    writer.open_trial(parent, "t-0", "trial 0", {}, {})
    with pytest.raises(TrackingUnavailable):
        writer.flush()
    said: list[str] = []
    other = Unsteady(f"sqlite:///{tmp_path}/other.db", str(tmp_path))
    elsewhere = Background(other, tmp_path / "spool", said.append)
    elsewhere.recover()
    elsewhere.recover()
    [line] = said
    assert f"wait for another MLflow, {tracker.address}" in line
    assert list((tmp_path / "spool").glob("*.jsonl"))


def test_params_that_mlflow_would_cut_are_refused_at_once(writer: Background) -> None:
    with pytest.raises(SpecError, match="MLflow keeps at most"):
        writer.open_trial("parent", "t-0", "trial", {"p": "x" * 7_000}, {})
