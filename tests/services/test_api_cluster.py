"""`serve`, `submit`, `logs`, `cancel` and `rerun` on a real cluster, over TLS: Ray Jobs, Serve, vLLM and MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.reader import Reader
from services.waiting import waiting
from tests.end_to_end.running import SPEC, marked, of_kind, title
from tests.services.served import UNKILLED, Service, serve, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]
TEXT = SPEC.read_text()
SHORT = ("trial.train.steps=2", "trial.evaluation.every=2", "trial.evaluation.benchmarks=[arithmetic_1]")
LASTING = ("trial.train.steps=20000", "trial.evaluation.every=20000", "execution.save_every_s=0")
LONG = ("trial.train.steps=400", "trial.evaluation.every=200", "execution.save_every_s=0")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    # The operator uses the clients, too; jobs that did would ask the service for what they are to do.
    environment = UNKILLED | {"DFT_SWEEPS_SERVER": "http://127.0.0.1:9"}
    service = serve(tmp_path_factory.mktemp("served") / "storage", environment=environment)
    yield service
    if service.process.poll() is None:
        service.end()


def processes(service: Service, word: str) -> list[int]:
    return [process.pid for process in of_kind(service.mark, word)]


def job_status(service: Service, sweep_id: str) -> str:
    return str(service.client().status(sweep_id)["sweep"]["job"]["status"])


def test_nobody_gets_in_without_the_token(service: Service) -> None:
    url, verify = f"{service.url}/v1/sweeps", str(service.certificate)
    assert requests.get(url, verify=verify).status_code == 401
    assert requests.get(url, verify=verify, headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert requests.post(url, verify=verify, data=b"x" * 5_000_000).status_code == 401
    assert requests.get(f"{service.url}/v1/health", verify=verify).json()["status"] == "ok"
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(url)
    with pytest.raises(SpecError, match="more than 262,144 bytes"):
        service.client().submit("#" * 300_000)
    refused = service.call("submit", str(SPEC), "--set", "trial.data.source={kind: file, path: /etc/shadow.jsonl}")
    assert refused.returncode == 2 and "outside the directories" in refused.stderr, refused
    assert service.client().sweeps() == []


def test_fifty_clients_at_once_start_one_sweep_and_follow_it_to_its_end(service: Service) -> None:
    def one(_: int) -> tuple[str, bool, set[str]]:
        client = service.client()
        submitted = client.submit(TEXT)
        polled = {client.status(submitted["sweep_id"])["sweep"]["sweep_id"] for _ in range(3)}
        return submitted["submission_id"], submitted["created"], polled

    started = time.monotonic()
    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(one, range(50)))
    print(f"50 clients submitted and polled three times in {time.monotonic() - started:.1f} s")
    [submission] = {id_ for id_, _, _ in answers}
    assert [created for _, created, _ in answers].count(True) == 1
    sweep_id = submission.removesuffix("-a1")
    assert {each for _, _, polled in answers for each in polled} == {sweep_id}

    followed = service.call("logs", sweep_id, "--follow")
    assert followed.returncode == 0, followed.stdout
    assert "2 trials finished, 0 reused, 0 failed" in followed.stdout
    assert service.call("logs", "end-to-end").stdout == followed.stdout
    status = service.client().status("end-to-end")
    assert [trial["status"] for trial in status["trials"]] == ["FINISHED", "FINISHED"]
    events = list(service.client().events(sweep_id))
    assert [data["line"] for kind, data in events if kind == "log"] == followed.stdout.splitlines()
    again = service.client().submit(TEXT)
    assert (again["submission_id"], again["status"], again["created"]) == (submission, "SUCCEEDED", False)
    client = service.client()
    assert client.rerun(sweep_id) == again == client.rerun("end-to-end", cells=["train.objective.kind=sft"])
    with pytest.raises(SpecError, match="no trial of the sweep has"):
        client.rerun(sweep_id, cells=["train.objective.kind=ppo"])
    with pytest.raises(SpecError, match="sweeps of a figure"):
        client.rerun(sweep_id, figure=3)
    rerun = service.call("rerun", "end-to-end", "--cell", "train.objective.kind=dft", "--fresh", "--follow")
    assert rerun.stdout.startswith(f"submitted {sweep_id} as {sweep_id}-a2\n"), rerun
    assert rerun.returncode == 0 and "1 trials finished, 0 reused, 0 failed" in rerun.stdout, rerun


def test_a_cancelled_sweep_leaves_nothing_and_is_taken_up(service: Service) -> None:
    client = service.client()
    sweep_id = client.submit(TEXT, LONG)["sweep_id"]
    wait_until(lambda: any("step" in line and "/400" in line for line in client.log(sweep_id)))
    started = time.monotonic()
    cancelled = service.call("cancel", sweep_id)
    print(f"cancelled in {time.monotonic() - started:.1f} s")
    assert cancelled.returncode == 0 and f"{sweep_id}-a1 cancelled: stopped" in cancelled.stdout, cancelled
    reader = Reader(service.tracking_uri)
    row = reader.find_sweep(sweep_id)
    assert row.status == "KILLED"
    assert {trial.status for trial in reader.trials(row)} <= {"KILLED", "WAITING"}
    wait_until(lambda: not processes(service, "RayTrainWorker") and not processes(service, "EngineActor"), 30)
    assert processes(service, "sweep_job") == []
    assert service.call("cancel", sweep_id).returncode == 0

    submitted = service.client().submit(TEXT, LONG)
    assert submitted["submission_id"] == f"{sweep_id}-a2"
    wait_until(lambda: any("resumed at step" in line for line in client.log(sweep_id)))
    [job] = [process for process in marked(service.mark) if title(process).endswith(f"{sweep_id}-a2")]
    job.kill()
    wait_until(lambda: reader.find_sweep(sweep_id).status == "KILLED", 90)
    wait_until(lambda: not processes(service, "EngineActor"), 60)
    assert {trial.status for trial in reader.trials(reader.find_sweep(sweep_id))} <= {"KILLED", "WAITING"}
    assert client.status(sweep_id)["sweep"]["job"]["status"] == "FAILED"


def test_fifty_clients_submit_fifty_sweeps_that_wait_until_the_one_before_them_ends(service: Service) -> None:
    longest = ("name=before", "trial.train.steps=20000", "trial.evaluation.every=20000")
    before = service.client().submit(TEXT, longest)["sweep_id"]
    wait_until(lambda: job_status(service, before) == "RUNNING")
    waits: list[float] = []

    def one(number: int) -> tuple[str, bool]:
        client = service.client()
        submitted = client.submit(TEXT, (*SHORT, f"name=client-{number}", f"trial.train.seed={number}"))
        for _ in range(3):
            begun = time.monotonic()
            found = client.status(submitted["sweep_id"])["sweep"]
            waits.append(time.monotonic() - begun)
            assert (found["name"], found["job"]["submission_id"]) == (f"client-{number}", submitted["submission_id"])
        return submitted["submission_id"], submitted["created"]

    started = time.monotonic()
    with ThreadPoolExecutor(50) as clients:
        first = list(clients.map(one, range(50)))
        submitted_s, slowest = time.monotonic() - started, sorted(waits)[-3:]
        again = list(clients.map(one, range(50)))
    print(f"50 sweeps submitted and polled in {submitted_s:.1f} s; a status came within {slowest[0]:.1f} s (2% later)")
    ids = [id_ for id_, _ in first]
    assert len(set(ids)) == 50 and {created for _, created in first} == {True}
    assert again == [(id_, False) for id_ in ids]

    def states() -> dict[str, str]:
        rows = [row for row in service.client().sweeps() if row["name"].startswith("client-")]
        return {row["sweep_id"]: row["job"]["status"] for row in rows}

    turn, *left = [id_.removesuffix("-a1") for id_ in ids]
    assert states() == dict.fromkeys([turn, *left], "PENDING")
    assert job_status(service, before) == "RUNNING"
    started = time.monotonic()
    with ThreadPoolExecutor(50) as clients:
        cancelled = list(clients.map(lambda sweep_id: service.client().cancel(sweep_id)["status"], left))
    print(f"{len(left)} that waited were cancelled in {time.monotonic() - started:.1f} s")
    assert set(cancelled) == {"STOPPED"}
    assert (job_status(service, before), job_status(service, turn)) == ("RUNNING", "PENDING")
    assert service.client().cancel(before)["status"] == "STOPPED"
    followed = service.call("logs", turn, "--follow")
    assert followed.returncode == 0 and "2 trials finished, 0 reused, 0 failed" in followed.stdout, followed.stdout
    assert states() == {turn: "SUCCEEDED"}  # who never began is not listed, but known
    assert {service.client().status(sweep_id)["sweep"]["status"] for sweep_id in left} == {"STOPPED"}


def test_an_api_that_is_killed_comes_back_and_knows_what_runs(service: Service) -> None:
    client, spec = service.client(), (*LASTING, "name=kept")
    submitted = client.submit(TEXT, spec)
    sweep_id = submitted["sweep_id"]
    wait_until(lambda: any("step" in line and "/20000" in line for line in client.log(sweep_id)))
    waits = client.submit(TEXT, (*LASTING, "name=waits"))["sweep_id"]
    [replica] = processes(service, "ServeReplica:sweep-api:api")
    psutil.Process(replica).kill()

    def answers() -> bool:
        try:
            health = requests.get(f"{service.url}/v1/health", verify=str(service.certificate), timeout=5)
        except requests.RequestException:
            return False
        return health.ok and replica not in processes(service, "ServeReplica:sweep-api:api")

    print(f"the API answered again {wait_until(answers, 120):.1f} s after it was killed")
    assert client.submit(TEXT, spec) == submitted | {"created": False, "status": "RUNNING"}
    assert (job_status(service, sweep_id), job_status(service, waits)) == ("RUNNING", "PENDING")
    assert [client.cancel(each)["status"] for each in (waits, sweep_id)] == ["STOPPED", "STOPPED"]


def test_ctrl_c_ends_what_runs_and_keeps_who_waits(service: Service) -> None:
    """The last test: it ends the service."""
    client = service.client()
    runs, waits, after = (client.submit(TEXT, (*LASTING, f"name=end-{n}"))["submission_id"] for n in range(3))
    wait_until(lambda: any("step" in line and "/20000" in line for line in client.log(runs.removesuffix("-a1"))))
    assert waiting(service.storage) == [waits, after]
    assert service.end() == 0, "\n".join(service.lines)
    assert waiting(service.storage) == [waits, after], "none of them began while the service ended"
    assert any(f"stopping {runs}" in line for line in service.lines)
    wait_until(lambda: not marked(service.mark), 90)
    token = (service.storage / "service" / "token").read_text().strip()
    assert token not in "\n".join(service.lines)
