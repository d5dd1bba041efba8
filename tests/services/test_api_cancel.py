"""A submitted sweep cancelled at a random moment of each of its phases, on a cluster that was there before: nothing of
it is left, and submitting it again ends it, with the curves of a sweep that nobody disturbed.
`DFT_SWEEPS_FAULT_SEED` repeats a draw, `DFT_SWEEPS_FAULT_DRAWS` makes more.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dft_sweeps.cli.client import Server
from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.disturbing import DRAWS, dice, running
from tests.end_to_end.running import SPEC, marked
from tests.orchestration.real_trials import TIMES_AND_MEMORY
from tests.services.served import Head, Service, left_on, ray_head, serve, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1500)]
TEXT = SPEC.read_text()
LONGER = ("trial.train.steps=60", "trial.evaluation.every=30", "execution.save_every_s=0")
GONE_S = 60.0
GENERATING = 60
"""Samples for each question, so that an evaluation takes some seconds."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(cpus=4) as head:
        yield head


@pytest.fixture(scope="module")
def service(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    storage = tmp_path_factory.mktemp("served") / "storage"
    service = serve(storage, "--address", head.address, environment=head.environment)
    yield service
    assert service.end() == 0, "\n".join(service.lines)
    assert any("gcs_server" in " ".join(process.cmdline()) for process in marked(head.mark))  # not ours to end


def phase(kind: str, service: Service, sweep_id: str) -> Callable[[], bool]:
    """Whether the sweep is in it now."""
    client = service.client()

    def log() -> str:
        return "\n".join(client.log(sweep_id))

    def generating() -> bool:
        held = {line.split()[-3].rpartition(":")[2] for line in Path("/proc/locks").read_text().splitlines()}
        locks = service.storage.glob(f"locks/{'[0-9a-f]' * 64}.lock")
        return any(str(lock.stat().st_ino) in held for lock in locks)

    return {
        "preparing": lambda: client.status(sweep_id)["sweep"]["job"]["status"] == "RUNNING",
        "starting its engine": lambda: "evaluation engines: 0 of 1" in log(),
        "training": lambda: re.search(r"step \d+/60", log()) is not None,
        "evaluating": generating,
        "reporting": lambda: log().count(": finished") == 2,
    }[kind]


def processes(mark: str) -> dict[int, str]:
    """Of the cluster, workers that wait for work aside, and what the API reads specs with."""
    found = {}
    for process in marked(mark):
        with_parents = [process, *process.parents()]
        titles = [" ".join(each.cmdline()) for each in with_parents]
        if "ray::IDLE" not in titles[0] and not any("ServeReplica:sweep-api" in title for title in titles):
            found[process.pid] = titles[0][:100]
    return found


def left_of(head: Head, before: dict[int, str]) -> list[str]:
    """Of a sweep that began when these processes were there. One actor of Ray Train's is the cluster's, for good."""
    found = left_on(head) + [title for pid, title in processes(head.mark).items() if pid not in before]
    return [title for title in found if "_AutoscalingCoordinatorActor" not in title]


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


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(
    ("kind", "most_s"),
    [("preparing", 6.0), ("starting its engine", 8.0), ("training", 5.0), ("evaluating", 2.0), ("reporting", 2.0)],
)
def test_nothing_is_left_of_a_cancelled_sweep_and_it_is_taken_up(
    service: Service, head: Head, kind: str, most_s: float, draw: int
) -> None:
    rng = dice(f"cancelled while {kind}", draw)
    delay, client, seed = rng.uniform(0, most_s), service.client(), rng.randrange(10**6)
    overrides = (*LONGER, f"trial.train.seed={seed}")
    if kind == "evaluating":
        overrides += (f"trial.evaluation.samplings.sampled.samples={GENERATING}",)
    before = processes(head.mark)
    sweep_id = client.submit(TEXT, overrides)["sweep_id"]
    wait_until(phase(kind, service, sweep_id))
    time.sleep(delay)
    said = list(client.log(sweep_id))[-1:]
    begun = time.monotonic()
    cancelled = client.cancel(sweep_id)
    cancelled_s = time.monotonic() - begun
    assert running(service.tracking_uri) == []
    begun = time.monotonic()
    while left := left_of(head, before):
        assert time.monotonic() - begun < GONE_S, left
        time.sleep(0.2)
    gone_s = time.monotonic() - begun
    print(f"{kind} + {delay:.1f} s {said}: {cancelled['status']} in {cancelled_s:.1f} s; all gone {gone_s:.1f} s later")
    assert cancelled["cancelled"] and cancelled["status"] == "STOPPED"
    assert "Traceback" not in "\n".join(client.log(sweep_id))

    again = client.submit(TEXT, overrides)
    assert (again["submission_id"], again["created"]) == (f"{sweep_id}-a2", True)
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
