"""The sweep API against its own OpenAPI schema: schemathesis makes requests from it, and judges the answers by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings

from dft_sweeps.orchestration.cluster import free_port
from dft_sweeps.tracking.writer import Tracker
from tests.report.synthetic_sweep import write_sweep
from tests.services.in_process_api import HEADERS, WrittenDown, running_app

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def api_schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The schema of an API that listens on a port of its own and has one recorded sweep, whose job has ended: the
    events of one that runs go on."""
    storage = tmp_path_factory.mktemp("storage")
    write_sweep(Tracker(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts")))
    jobs = WrittenDown()
    jobs.start("s-0123456789abcdef-a1", Path(), "quickstart", 6)
    jobs.end("s-0123456789abcdef-a1", "SUCCEEDED")
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(running_app(storage, jobs), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/v1/openapi.json", headers=HEADERS)
    refusing = schema.config.checks.negative_data_rejection
    refusing.expected_statuses = [*refusing.expected_statuses, "413"]  # what is wrong and too large
    yield schema
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_answers_are_as_the_schema_says(api_schema: schemathesis.BaseSchema, mode: schemathesis.GenerationMode) -> None:
    tried = []
    for found in api_schema.get_all_operations():
        operation = found.ok()
        requests = operation.as_strategy(generation_mode=mode)
        if mode == schemathesis.GenerationMode.NEGATIVE and operation.label in ("GET /v1/health", "GET /v1/sweeps"):
            continue  # they take nothing that could be wrong

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=requests)
        def judged(case: schemathesis.Case) -> None:
            # That a text is a spec no schema can say, so valid requests may be refused.
            case.call_and_validate(
                headers=HEADERS, timeout=300, excluded_checks=[schemathesis.checks.positive_data_acceptance]
            )

        judged()
        tried.append(operation.label)
    assert {"POST /v1/sweeps", "POST /v1/plans", "GET /v1/sweeps/{sweep}/events"} <= set(tried)
