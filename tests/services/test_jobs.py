"""Jobs that wait for their turn, and jobs of a cluster that is gone. Ray's side is written down, not run."""

from __future__ import annotations

import asyncio
import errno
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.dashboard.modules.job.pydantic_models import JobDetails, JobType

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from services.allowed import Limits
from services.checking import Busy, CheckedSpec, Rerun
from services.jobs import SweepJob, SweepJobs
from services.submissions import RunsSomethingElse, submit
from services.submitted_files import LOG, StoredJob, store_job, stored_jobs
from services.waiting import changing, join, leave, waiting

ID = "s-0123456789abcdef"


class RayJobs:
    """What `ray.job_submission.JobSubmissionClient` would answer of a cluster that is new."""

    def __init__(self) -> None:
        self.known: dict[str, JobDetails] = {}

    def list_jobs(self) -> list[JobDetails]:
        return list(self.known.values())

    def get_job_info(self, id_: str) -> JobDetails:
        if id_ not in self.known:
            raise RuntimeError(f"Request failed with status code 404: Job {id_} does not exist.")
        return self.known[id_]

    get_job_logs = get_job_info

    def stop_job(self, id_: str) -> bool:
        return self.known[id_].status == "RUNNING"

    def submit_job(self, submission_id: str, metadata: dict[str, str], **_: object) -> None:
        self.set(submission_id, "RUNNING", metadata)

    def set(self, id_: str, status: str, metadata: dict[str, str] | None = None) -> None:
        metadata = metadata or self.known[id_].metadata
        self.known[id_] = JobDetails(
            type=JobType.SUBMISSION, submission_id=id_, status=status, entrypoint="", metadata=metadata,
            start_time=1000 + len(self.known),
        )  # fmt: skip


@pytest.fixture
def ray() -> RayJobs:
    return RayJobs()


@pytest.fixture
def jobs(tmp_path: Path, ray: RayJobs) -> SweepJobs:
    jobs = SweepJobs(None, tmp_path)
    vars(jobs)["_client"] = ray
    return jobs


def spec(number: int) -> CheckedSpec:
    return CheckedSpec(f"s-{number:016x}", "mine", "m", 2, ("t-1",), "name: mine\n", {})


def submitted(jobs: SweepJobs, storage: Path, number: int, at_once: int = 1) -> SweepJob:
    checked = spec(number)
    job, created = submit(checked, jobs, storage, Limits(at_once=at_once, sweeps=5), set)
    assert submit(checked, jobs, storage, Limits(at_once=at_once, sweeps=5), set) == (job, False) and created
    return job


def statuses(jobs: SweepJobs, numbers: range) -> list[str]:
    found = [jobs.last(f"s-{number:016x}") for number in numbers]
    return [job.status for job in found if job]


def test_one_whose_turn_comes_while_it_is_looked_up_is_never_gone(
    jobs: SweepJobs, ray: RayJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (submitted(jobs, tmp_path, number) for number in (0, 1))
    ray.set(first.submission_id, "SUCCEEDED")
    before = RayJobs.list_jobs

    def turn_comes(self: RayJobs) -> list[JobDetails]:
        told = before(self)
        monkeypatch.setattr(RayJobs, "list_jobs", before)
        jobs.start_waiting(1)
        return told

    for look in (lambda: jobs.last(second.sweep_id), lambda: jobs.all()[-1]):
        ray.known.pop(second.submission_id, None)
        with changing(tmp_path):
            leave(tmp_path, second.submission_id)
            join(tmp_path, second.submission_id)
        monkeypatch.setattr(RayJobs, "list_jobs", turn_comes)
        found = look()
        assert found and (found.submission_id, found.status) == (second.submission_id, "PENDING")
        assert waiting(tmp_path) == [] and jobs.last(second.sweep_id).status == "RUNNING"


def test_one_runs_and_the_others_wait_in_the_order_in_which_they_came(
    jobs: SweepJobs, ray: RayJobs, tmp_path: Path
) -> None:
    ids = [submitted(jobs, tmp_path, number).submission_id for number in (3, 1, 2)]
    assert [job.status for job in jobs.all()] == ["RUNNING", "PENDING", "PENDING"]
    assert [job.submission_id for job in jobs.all()] == ids and list(ray.known) == ids[:1]
    for number in range(3):
        jobs.start_waiting(1)
        assert list(ray.known) == ids[: number + 1]
        ray.set(ids[number], "FAILED")
    jobs.start_waiting(1)
    assert statuses(jobs, range(1, 4)) == ["FAILED"] * 3
    assert submitted(jobs, tmp_path, 1).submission_id == f"{ids[1][:-3]}-a2"


def test_two_at_a_time_and_no_more_than_are_allowed(jobs: SweepJobs, ray: RayJobs, tmp_path: Path) -> None:
    ids = [submitted(jobs, tmp_path, number, at_once=2).submission_id for number in range(1, 6)]
    assert statuses(jobs, range(1, 6)) == ["RUNNING"] * 2 + ["PENDING"] * 3
    with pytest.raises(Busy, match="5 sweeps run and wait"):
        submitted(jobs, tmp_path, 6, at_once=2)
    ray.set(ids[0], "SUCCEEDED")
    jobs.start_waiting(2)
    assert list(ray.known) == ids[:3]
    submitted(jobs, tmp_path, 6, at_once=2)


def test_a_waiting_sweep_is_cancelled_and_comes_back_at_the_end(jobs: SweepJobs, ray: RayJobs, tmp_path: Path) -> None:
    _, second, third = (submitted(jobs, tmp_path, number).submission_id for number in (1, 2, 3))
    assert jobs.stop(second)
    assert statuses(jobs, range(1, 4)) == ["RUNNING", "STOPPED", "PENDING"]
    assert submitted(jobs, tmp_path, 2).submission_id == f"{second[:-3]}-a2"
    assert [job.submission_id for job in jobs.all()][1:] == [third, f"{second[:-3]}-a2"]


def test_a_storage_that_takes_nothing_keeps_nobody_from_stopping_what_runs(
    jobs: SweepJobs, ray: RayJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, waits = (submitted(jobs, tmp_path, number) for number in (1, 2))

    def changing_nothing(storage: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(storage))

    monkeypatch.setattr("services.jobs.changing", changing_nothing)
    assert jobs.stop(runs.submission_id)
    with pytest.raises(OSError, match="Read-only"):
        jobs.stop(waits.submission_id)


def test_a_service_that_died_between_starting_one_and_noting_it_starts_it_once(
    jobs: SweepJobs, ray: RayJobs, tmp_path: Path
) -> None:
    first, second = (submitted(jobs, tmp_path, number).submission_id for number in (1, 2))
    ray.submit_job(second, {"sweep": "mine", "trials": "2"})
    ray.set(first, "SUCCEEDED")
    jobs.start_waiting(1)
    assert statuses(jobs, range(1, 3)) == ["SUCCEEDED", "RUNNING"]
    assert waiting(tmp_path) == []


def test_a_job_that_waits_serves_what_it_will_do_and_nothing_else(jobs: SweepJobs, tmp_path: Path) -> None:
    submitted(jobs, tmp_path, 1)
    part = replace(spec(2), rerun=Rerun(spec(2).sweep_id, cells=("train.learning_rate=1e-4",)))
    waits, _ = submit(part, jobs, tmp_path, Limits(), set)
    assert submit(part, jobs, tmp_path, Limits(), set) == (waits, False)
    with pytest.raises(
        RunsSomethingElse, match=f"{waits.submission_id} has not ended.*--cell=train.learning_rate=1e-4"
    ):
        submit(spec(2), jobs, tmp_path, Limits(), set)
    assert waiting(tmp_path) == [waits.submission_id]


def test_those_that_wait_outlive_their_cluster(jobs: SweepJobs, ray: RayJobs, tmp_path: Path) -> None:
    first, second = (submitted(jobs, tmp_path, number).submission_id for number in (1, 2))
    ray.known.clear()
    assert statuses(jobs, range(1, 3)) == ["GONE", "PENDING"]
    jobs.start_waiting(1)
    assert list(ray.known) == [second] and first != second


def test_a_job_outlives_its_cluster_on_the_storage(jobs: SweepJobs, tmp_path: Path) -> None:
    assert jobs.last(ID) is None and jobs.get(f"{ID}-a1") is None
    for attempt in (1, 2, 10):
        directory = store_job(tmp_path, StoredJob(ID, attempt, "mine", 4), "name: mine\n", False)
        (directory / LOG).write_text(f"attempt {attempt}\nüber\n", encoding="utf-8")
    assert jobs.last(ID) == SweepJob(f"{ID}-a10", ID, 10, "mine", 4, "GONE")
    assert jobs.get(f"{ID}-a2") == SweepJob(f"{ID}-a2", ID, 2, "mine", 4, "GONE")
    assert jobs.all() == []
    assert jobs.log(f"{ID}-a2") == "attempt 2\nüber\n"

    async def followed() -> list[str]:
        return [line async for line in jobs.follow(f"{ID}-a10")]

    assert asyncio.run(followed()) == ["attempt 10", "über"]


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("answer", [ConnectionError, RuntimeError])
def test_what_a_job_may_read_stays_unless_ray_refused_it(
    taken: bool, answer: type[Exception], jobs: SweepJobs, ray: RayJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = ray.submit_job

    def falls_silent(*_: object, **job: Any) -> None:
        if taken:
            take(**job)
        raise answer("broken off")

    monkeypatch.setattr(ray, "submit_job", falls_silent)
    with pytest.raises(ClusterUnavailable, match="broken off"):
        submit(spec(1), jobs, tmp_path, Limits(), set)
    assert (tmp_path / "submissions" / f"{spec(1).sweep_id}-a1" / "spec.yaml").exists() == (answer is ConnectionError)
    monkeypatch.undo()
    found, created = submit(spec(1), jobs, tmp_path, Limits(), set)
    assert (found.status, created) == ("RUNNING", not taken)


def test_a_job_that_is_stopped_before_it_hears_signals_ends_at_once(
    jobs: SweepJobs, ray: RayJobs, tmp_path: Path
) -> None:
    """Its process inherits Ray's deafness to the signal, until it has begun."""
    job = submitted(jobs, tmp_path, 1)
    jobs.stop(job.submission_id)
    directory = tmp_path / "submissions" / job.submission_id
    deaf = subprocess.run(
        [sys.executable, "-m", "dft_sweeps.cli.sweep_job", str(directory)],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (deaf.returncode, deaf.stdout, deaf.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("left", [b"", b'{"sweep_id": "s-01', b"\0" * 100, b"\xff"])
def test_a_damaged_file_of_a_job_is_told_of_and_stops_nothing(
    left: bytes, jobs: SweepJobs, ray: RayJobs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = (submitted(jobs, tmp_path, number).submission_id for number in (1, 2, 3))
    (tmp_path / "submissions" / second / "job.json").write_bytes(left)
    ray.set(first, "SUCCEEDED")
    for _ in range(2):
        assert [job.submission_id for job in jobs.all()] == [first, second, third]
    assert [f"{second}/job.json is damaged" in record.getMessage() for record in caplog.records] == [True]
    jobs.start_waiting(1)
    ray.set(second, "FAILED")  # it cannot read its file either
    jobs.start_waiting(1)
    assert list(ray.known) == [first, second, third]
    assert submitted(jobs, tmp_path, 2).submission_id == f"{second[:-3]}-a2"


@pytest.mark.parametrize("wanted", ["../x", "*", "s-*", "mine", "", f"{ID}/../x"])
def test_only_ids_of_sweeps_are_looked_up(wanted: str, jobs: SweepJobs, tmp_path: Path) -> None:
    store_job(tmp_path, StoredJob(ID, 1, "mine", 4), "name: mine\n", False)
    assert stored_jobs(tmp_path, wanted) == [] and jobs.last(wanted) is None
