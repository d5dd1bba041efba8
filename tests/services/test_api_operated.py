"""The service as an operator runs it: on a cluster that was there before, with engines kept warm, with MLflow on
PostgreSQL, and through the cluster's end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.running import SPEC, kill_hard, kill_train_worker, of_kind
from tests.end_to_end.test_search import SEARCH
from tests.services.served import Head, Service, left_on, ray_head, ray_node, serve, wait_until
from tests.tracking.servers import PASSWORD, postgres_binaries, postgres_cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1500)]
TEXT = SPEC.read_text()
LONGER = ("trial.train.steps=150", "trial.evaluation.every=75", "execution.save_every_s=0")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(cpus=3) as head:
        yield head


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts the service on a cluster, with one storage for all of a test's."""
    services = []

    def started(head: Head, *options: str) -> Service:
        begun = time.monotonic()
        services.append(serve(tmp_path / "storage", "--address", head.address, *options, environment=head.environment))
        print(f"serve was up after {time.monotonic() - begun:.1f} s")
        return services[-1]

    yield started
    for service in services:
        if service.process.poll() is None:
            kill_hard(service.process.pid, service.mark)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is missing: apt-get install postgresql")
    with postgres_cluster(binaries) as uri:
        yield uri("postgres")


def test_warm_engines_on_somebodys_cluster_with_mlflow_on_postgres(
    head: Head, postgres: str, start: Callable[..., Service]
) -> None:
    service = start(head, "--warm", str(SPEC), "--tracking-uri", postgres)
    client = service.client()
    engines = [process.pid for process in of_kind(head.mark, "ray::EngineActor")]
    assert len(engines) == 1
    begun = time.monotonic()
    sweep_id = client.submit(TEXT, (*LONGER, "execution.max_failures=0"))["sweep_id"]
    wait_until(lambda: any("step" in line and "/150" in line for line in client.log(sweep_id)))
    kill_train_worker(0, head.mark)
    log = service.call("logs", sweep_id, "--follow")
    print(f"a sweep on warm engines took {time.monotonic() - begun:.1f} s")
    assert log.returncode == 1 and "using the warm engines warm-" in log.stdout, log.stdout
    assert "1 trials finished, 0 reused, 1 failed" in log.stdout, log.stdout

    rerun = client.rerun(sweep_id, failed=True)
    assert (rerun["submission_id"], rerun["created"]) == (f"{sweep_id}-a2", True)
    log = service.call("logs", sweep_id, "--follow")
    assert log.returncode == 0 and "1 of 2 trials are asked for" in log.stdout, log.stdout
    assert "1 trials finished, 0 reused, 0 failed" in log.stdout, log.stdout
    reader = Reader(service.tracking_uri)
    assert [trial.status for trial in reader.trials(reader.find_sweep(sweep_id))] == ["FINISHED", "FINISHED"]

    searched = client.submit(TEXT, ("name=searched", *(each for each in SEARCH if each != "--set")))["sweep_id"]
    log = service.call("logs", searched, "--follow")
    assert log.returncode == 0 and "2 trials more, 4 of 4" in log.stdout, log.stdout
    assert "using the warm engines warm-" in log.stdout and "4 trials finished, 0 reused, 0 failed" in log.stdout
    found = client.status(searched)
    assert (found["sweep"]["status"], found["sweep"]["to_propose"], len(found["trials"])) == ("FINISHED", 0, 4)

    other = client.submit(TEXT, ("name=other", "execution.workers=2", "pool.max_model_len=192"))["sweep_id"]
    log = service.call("logs", other, "--follow")
    assert log.returncode == 2 and "the cluster has 2, and 3 are needed" in log.stdout, log.stdout
    again = [process.pid for process in of_kind(head.mark, "ray::EngineActor")]
    assert again == engines  # the same process through both jobs

    assert service.end() == 0, "\n".join(service.lines)
    wait_until(lambda: left_on(head) == [], 60)
    assert of_kind(head.mark, "gcs_server")  # not ours to end
    told = "\n".join(
        [*service.lines, log.stdout, *(path.read_text() for path in service.storage.glob("submissions/*/*"))]
    )
    assert PASSWORD not in told and PASSWORD in (service.storage / "service" / "tracking.json").read_text()
    assert not of_kind(head.mark, PASSWORD)


def test_a_node_that_joins_counts_and_its_sweeps_log_outlives_the_cluster(start: Callable[..., Service]) -> None:
    wide = ("execution.workers=2",)
    with ray_head(cpus=2) as head:
        service = start(head)
        client = service.client()
        assert "the cluster has 2, and 3 are needed" in client.plan(TEXT, wide)["missing"]
        with ray_node(head, cpus=2):
            wait_until(lambda: client.plan(TEXT, wide)["missing"] == "", 60)
        wait_until(lambda: "the cluster has 2, and 3 are needed" in client.plan(TEXT, wide)["missing"], 90)
        sweep_id = client.submit(TEXT, LONGER)["sweep_id"]
        wait_until(lambda: any("step" in line and "/150" in line for line in client.log(sweep_id)))
        before = list(client.log(sweep_id))
    service.process.wait(200)

    with ray_head(cpus=2) as head:
        service = start(head)
        client = service.client()
        tidied_s = wait_until(lambda: client.status(sweep_id)["sweep"]["status"] == "KILLED", 60)
        print(f"what the cluster's end left RUNNING was KILLED {tidied_s:.1f} s after serve was up again")
        kept = list(client.log(sweep_id))
        assert kept[: len(before)] == before
        *events, (kind, end) = client.events(sweep_id)
        assert [data["line"] for each, data in events if each == "log"] == kept
        assert (kind, end["submission_id"], end["status"]) == ("end", f"{sweep_id}-a1", "GONE")
        shown = service.call("logs", "end-to-end")
        assert shown.returncode == 0 and shown.stdout.splitlines() == kept
        assert client.status(sweep_id)["sweep"]["job"] is None
        again = client.submit(TEXT, LONGER)
        assert (again["submission_id"], again["created"]) == (f"{sweep_id}-a2", True)
        log = service.call("logs", sweep_id, "--follow")
        assert log.returncode == 0, log.stdout
        assert (service.storage / "submissions" / f"{sweep_id}-a1" / "log").read_text().splitlines() == kept
        assert service.end() == 0
