"""What the sweep API answers, in this process: submissions, statuses, logs and events; and its own schema."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from dft_sweeps.data.durable import NO_MORE_WRITES
from dft_sweeps.tracking.writer import Tracker
from services.jobs import Refused
from services.sweep_views import FRESH_S
from tests.report.synthetic_sweep import write_sweep
from tests.services.in_process_api import SPEC, WrittenDown, running_api

RECORDED = "s-0123456789abcdef"


@pytest.fixture(scope="module")
def all_jobs() -> WrittenDown:
    return WrittenDown()


@pytest.fixture
def jobs(all_jobs: WrittenDown) -> WrittenDown:
    """None yet."""
    all_jobs.known.clear()
    return all_jobs


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One recorded sweep of six trials."""
    storage = tmp_path_factory.mktemp("storage")
    write_sweep(Tracker(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts")))
    return storage


@pytest.fixture(scope="module")
def client(storage: Path, all_jobs: WrittenDown) -> Iterator[TestClient]:
    with running_api(storage, all_jobs) as client:
        yield client


def submitted(client: TestClient, *overrides: str) -> tuple[int, dict[str, object]]:
    answer = client.post("/v1/sweeps", json={"spec": SPEC, "set": overrides})
    return answer.status_code, answer.json()


def test_a_sweep_is_submitted_once_until_it_has_ended_with_something_missing(
    client: TestClient, jobs: WrittenDown, storage: Path
) -> None:
    code, first = submitted(client)
    sweep_id = str(first["sweep_id"])
    assert (code, first["created"], first["submission_id"]) == (201, True, f"{sweep_id}-a1")
    assert submitted(client) == (200, first | {"created": False})
    jobs.end(f"{sweep_id}-a1", "FAILED")
    assert submitted(client)[1]["submission_id"] == f"{sweep_id}-a2"

    directory = storage / "submissions" / f"{sweep_id}-a2"
    plan = client.post("/v1/plans", json={"spec": (directory / "spec.yaml").read_text()}).json()
    assert plan["sweep"] == sweep_id
    assert json.loads((directory / "job.json").read_text())["storage"] == str(storage)
    assert submitted(client, "name=other")[1]["submission_id"] != sweep_id


def test_a_job_that_does_not_start_leaves_nothing(
    client: TestClient, jobs: WrittenDown, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise Refused("Ray Jobs: no")

    monkeypatch.setattr(jobs, "start", refuse)
    before = {path.name for path in (storage / "submissions").glob("s-*")}
    code, body = submitted(client, "trial.train.steps=7")
    assert (code, body["error"]) == (503, "Ray Jobs: no")
    assert {path.name for path in (storage / "submissions").glob("s-*")} == before
    monkeypatch.undo()
    assert submitted(client, "trial.train.steps=7")[0] == 201


@pytest.mark.parametrize("number", sorted(NO_MORE_WRITES))
def test_a_storage_that_takes_no_more_is_an_outage_and_keeps_nothing(
    number: int, client: TestClient, jobs: WrittenDown, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/a/file")

    before = set((storage / "submissions").glob("*"))
    monkeypatch.setattr(os, "fsync", fails)
    code, body = submitted(client, "trial.train.steps=9")
    assert (code, body["error"]) == (503, f"the storage fails: {os.strerror(number)}")
    assert {path for path in (storage / "submissions").glob("*") if path.is_dir()} <= before and jobs.known == {}


def test_a_name_means_the_sweep_that_waits_where_an_older_one_had_it(client: TestClient, jobs: WrittenDown) -> None:
    waits = "s-ffffffffffffffff"
    jobs.start(f"{waits}-a1", Path(), "quickstart", 3)
    assert client.post("/v1/sweeps/quickstart/cancel").json() == {
        "sweep_id": waits, "submission_id": f"{waits}-a1", "status": "STOPPED", "cancelled": True,
    }  # fmt: skip
    time.sleep(FRESH_S)  # who asks for this name within that time gets this answer


def test_statuses_are_what_mlflow_has_and_the_jobs_beside_it(client: TestClient, jobs: WrittenDown) -> None:
    jobs.start(f"{RECORDED}-a1", Path(), "quickstart", 6)
    (recorded,) = [row for row in client.get("/v1/sweeps").json() if row["sweep_id"] == RECORDED]
    assert (recorded["finished"], recorded["trials"], recorded["status"]) == (5, 6, "FINISHED")
    assert recorded["job"]["status"] == "RUNNING"
    for name in (RECORDED, RECORDED[:6], "quickstart"):
        status = client.get(f"/v1/sweeps/{name}").json()
        assert status["sweep"] == recorded
        assert [trial["status"] for trial in status["trials"]] == ["FINISHED"] * 5 + ["RUNNING"]
    assert client.get("/v1/sweeps/nothing").status_code == 404

    jobs.start("s-ffffffffffffffff-a1", Path(), "waiting", 3)
    status = client.get("/v1/sweeps/waiting").json()
    assert (status["sweep"]["status"], status["sweep"]["trials"], status["trials"]) == ("PENDING", 3, [])


def events(text: str) -> list[tuple[str, str, dict[str, object]]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line[:1] not in ("", ":"))
        if fields:
            found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


def test_logs_and_events_go_on_where_they_were_left(client: TestClient, jobs: WrittenDown) -> None:
    jobs.start(f"{RECORDED}-a1", Path(), "quickstart", 6)
    jobs.end(f"{RECORDED}-a1", "SUCCEEDED")
    path = f"/v1/sweeps/{RECORDED}"
    assert client.get(f"{path}/logs").text == "first\nsecond\nthird\n"
    assert client.get(f"{path}/logs", params={"skip": 2}).text == "third\n"
    assert client.get(f"{path}/logs", params={"follow": True, "skip": 1}).text == "second\nthird\n"

    whole = events(client.get(f"{path}/events").text)
    lines = [(id_, data["line"]) for id_, kind, data in whole if kind == "log"]
    assert [line for _, line in lines] == ["first", "second", "third"]
    assert [kind for _, kind, _ in whole][-1] == "end" and whole[-1][2]["status"] == "SUCCEEDED"
    (trials,) = [data for _, kind, data in whole if kind == "trials"]
    assert len(trials["trials"]) == 6
    for seen, (id_, _) in enumerate(lines, start=1):
        again = events(client.get(f"{path}/events", headers={"Last-Event-ID": id_}).text)
        assert [(i, data["line"]) for i, kind, data in again if kind == "log"] == lines[seen:]

    jobs.start(f"{RECORDED}-a2", Path(), "quickstart", 6)
    jobs.end(f"{RECORDED}-a2", "FAILED")
    taken_up = events(client.get(f"{path}/events", headers={"Last-Event-ID": lines[1][0]}).text)
    assert [id_ for id_, kind, _ in taken_up if kind == "log"] == [
        f"{RECORDED}-a1/3",
        *(f"{RECORDED}-a2/{number}" for number in (1, 2, 3)),
    ]


def test_what_runs_is_cancelled_and_what_does_not_is_left(client: TestClient, jobs: WrittenDown) -> None:
    first = str(submitted(client, "trial.train.steps=8")[1]["submission_id"])
    cancelled = client.post(f"/v1/sweeps/{first.split('-a')[0]}/cancel").json()
    assert (cancelled["status"], cancelled["cancelled"]) == ("STOPPED", True)
    again = client.post(f"/v1/sweeps/{first.split('-a')[0]}/cancel").json()
    assert (again["status"], again["cancelled"]) == ("STOPPED", False)
    assert client.post(f"/v1/sweeps/{RECORDED}/cancel").json()["status"] == "NONE"
