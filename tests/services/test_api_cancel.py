"""A submitted sweep cancelled, or its job killed, at a random moment of each of its phases, on a cluster that was there
before: nothing of it is left each time, and submitting it again ends it, with the curves of a sweep that nobody
disturbed. `DFT_SWEEPS_FAULT_SEED` repeats a draw, `DFT_SWEEPS_FAULT_DRAWS` makes more.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from dft_sweeps.cli.client import Server
from dft_sweeps.tracking.reader import Reader
from services.jobs import OPEN_JOBS
from services.sweep_views import FRESH_S
from tests.end_to_end.disturbing import DRAWS, WEIGHTS_LOCKS, dice, running
from tests.end_to_end.running import SPEC, locked, marked, of_kind, title
from tests.orchestration.real_trials import TIMES_AND_MEMORY
from tests.services.served import Head, Service, left_on, ray_head, serve, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2700)]
TEXT = SPEC.read_text()
LONGER = (
    *("trial.train.steps=60", "trial.evaluation.every=30", "execution.save_every_s=0"),
    "trial.evaluation.samplings.sampled.samples=20",  # an evaluation takes some seconds
)
GONE_S = 60.0
MOST_S = {"preparing": 6.0, "starting its engine": 8.0, "training": 5.0, "evaluating": 2.0, "reporting": 0.5}
"""The phases, and how long after the beginning of each it is cancelled at most."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(cpus=4) as head:
        yield head


@pytest.fixture(scope="module")
def service(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    storage = tmp_path_factory.mktemp("served") / "storage"
    service = serve(storage, "--address", head.address, environment=head.environment)
    assert f"WARNING: {OPEN_JOBS}" in service.lines  # a cluster of somebody's who starts Ray as its manual shows first
    yield service
    assert service.end() == 0, "\n".join(service.lines)
    assert of_kind(head.mark, "gcs_server")  # not ours to end


def phase(kind: str, service: Service, sweep_id: str) -> Callable[[], bool]:
    """Whether the sweep is in it now."""
    client = service.client()

    def log() -> str:
        return "\n".join(client.log(sweep_id))

    return {
        "preparing": lambda: client.status(sweep_id)["sweep"]["job"]["status"] == "RUNNING",
        "starting its engine": lambda: "evaluation engines: 0 of 1" in log(),
        "training": lambda: re.search(r"step \d+/60", log()) is not None,
        "evaluating": lambda: locked(service.storage.glob(WEIGHTS_LOCKS)) != [],
        "reporting": lambda: ended(log()) == 2,
    }[kind]


def ended(log: str) -> int:
    """Trials that a job has ended or found finished."""
    before = re.search(r"(\d+) of 2 trials are finished already", log)
    return log.count(": finished") + (int(before[1]) if before else 0)


def processes(mark: str) -> dict[int, str]:
    """Of the cluster, workers that wait for work aside, and what the API reads specs with."""
    found = {}
    for process in marked(mark):
        titles = [title(process)]
        with contextlib.suppress(psutil.NoSuchProcess):  # those that have ended count as gone
            titles += [title(each) for each in process.parents()]
        if titles[0] and "ray::IDLE" not in titles[0] and not any("ServeReplica:sweep-api" in each for each in titles):
            found[process.pid] = titles[0][:100]
    return found


def left_of(head: Head, before: dict[int, str]) -> list[str]:
    """Of a sweep that began when these processes were there. One actor of Ray Train's is the cluster's, for good."""
    found = left_on(head) + [each for pid, each in processes(head.mark).items() if pid not in before]
    return [each for each in found if "_AutoscalingCoordinatorActor" not in each]


def curves(service: Service, sweep_id: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Every point of what was trained and measured, doubled ones included."""
    reader, client = Reader(service.tracking_uri), MlflowClient(service.tracking_uri)
    found = {}
    for trial in reader.trials(reader.find_sweep(sweep_id)):
        assert trial.status == "FINISHED" and trial.run_id
        for key in trial.metrics:
            if key not in TIMES_AND_MEMORY and (key.startswith("train/") or key.endswith("/accuracy")):
                history = client.get_metric_history(trial.run_id, key)
                found[trial.name, key] = sorted((point.step, point.value) for point in history)
    return found


def followed(client: Server, sweep_id: str) -> str:
    *events, (_, end) = client.events(sweep_id)
    text = "\n".join(data["line"] for kind, data in events if kind == "log")
    assert (end["status"], end["exit_code"]) == ("SUCCEEDED", 0), text
    return text


End = Callable[[Service, Head, dict[str, Any]], str]
"""Ends an attempt at a sweep, which was submitted with this answer; gives what is to be said of it."""


def cancelled(service: Service, head: Head, submitted: dict[str, Any]) -> str:
    begun = time.monotonic()
    answer = service.client().cancel(submitted["sweep_id"])
    seconds = time.monotonic() - begun
    assert answer["cancelled"] and answer["status"] == "STOPPED"
    assert running(service.tracking_uri) == []
    return f"STOPPED in {seconds:.1f} s"


def killed(service: Service, head: Head, submitted: dict[str, Any]) -> str:
    """The process that runs the sweep. The service tidies up after it."""

    found: list[psutil.Process] = []

    def begun() -> bool:
        found[:] = [each for each in marked(head.mark) if title(each).endswith(f"/{submitted['submission_id']}")]
        return bool(found)

    wait_until(begun, 20)
    min(found, key=lambda process: process.create_time()).kill()  # a child has its title until it is another program
    client, sweep_id = service.client(), submitted["sweep_id"]
    failed = wait_until(lambda: client.status(sweep_id)["sweep"]["job"]["status"] == "FAILED", 60)
    tidied = wait_until(lambda: running(service.tracking_uri) == [], 90)
    return f"FAILED after {failed:.1f} s, no run of it RUNNING {tidied:.1f} s later"


def end(
    service: Service, head: Head, submitted: dict[str, Any], kind: str, delay: float, how: End, before: dict[int, str]
) -> None:
    """Ends the sweep in this phase, and waits until nothing of it is left."""
    client, sweep_id = service.client(), submitted["sweep_id"]
    wait_until(phase(kind, service, sweep_id))
    time.sleep(delay)
    said = list(client.log(sweep_id))[-1:]
    answer = how(service, head, submitted)
    begun = time.monotonic()
    while left := left_of(head, before):
        assert time.monotonic() - begun < GONE_S, left
        time.sleep(0.2)
    print(f"{kind} + {delay:.1f} s {said}: {answer}; all gone {time.monotonic() - begun:.1f} s later")
    assert "Traceback" not in "\n".join(client.log(sweep_id))


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("how", [cancelled, killed])
def test_nothing_is_left_of_a_sweep_ended_in_each_phase_and_it_is_taken_up(
    service: Service, head: Head, how: End, draw: int
) -> None:
    rng, client = dice(how.__name__, draw), service.client()
    overrides = (*LONGER, f"trial.train.seed={rng.randrange(10**6)}")
    *phases, last = MOST_S
    rng.shuffle(phases)
    before = processes(head.mark)
    for attempt, kind in enumerate([*phases, last], 1):
        submitted = client.submit(TEXT, overrides)
        sweep_id = submitted["sweep_id"]
        assert (submitted["submission_id"], submitted["created"]) == (f"{sweep_id}-a{attempt}", True)
        time.sleep(FRESH_S)  # until then, the log is the last attempt's
        end(service, head, submitted, kind, rng.uniform(0, MOST_S[kind]), how, before)

    assert client.submit(TEXT, overrides)["created"]
    text = followed(client, sweep_id)
    assert "Accuracy in percent" in text
    found = curves(service, sweep_id)
    assert {tuple(step for step, _ in points) for (_, key), points in found.items() if key == "train/nll"} == {
        tuple(range(1, 61))
    }
    assert client.rerun(sweep_id, fresh=True)["created"]
    assert "2 trials finished" in followed(client, sweep_id)
    assert curves(service, sweep_id) == found
    assert running(service.tracking_uri) == []
