"""A sweep's runs while its MLflow server is killed: back after a while, or down to the end and sent by the next run."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dft_sweeps.orchestration.evaluations import Evaluated
from dft_sweeps.orchestration.mailbox import StepRow
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.trial_runs import TrialRuns
from dft_sweeps.spec.models import SamplingSpec
from dft_sweeps.tracking.background import Background
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.store import TrackingUnavailable
from dft_sweeps.tracking.writer import Tracker
from tests.orchestration.file_sweep import prepared, write_files
from tests.tracking.conftest import server  # noqa: F401 (a fixture)
from tests.tracking.servers import MlflowServer
from tests.tracking.test_question_results import result

STEPS = 40
DOWN_S = 3.0


@dataclass
class Attempt:
    """What one process makes of a sweep: a step of each trial in turn, evaluations in between."""

    sweep: PreparedSweep
    uri: str
    storage: Path
    patience_s: float = 60.0
    said: list[str] = field(default_factory=list)
    slowest: float = 0.0
    """Seconds of the longest call that a running trial waits for."""

    def __post_init__(self) -> None:
        writer = Background(Tracker(self.uri, None), self.storage / "spool", self.said.append, self.patience_s)
        self.runs = TrialRuns(writer, Reader(self.uri), self.sweep)

    def log(self, steps: range, pause_s: float) -> None:
        for step in steps:
            for trial in self.sweep.trials:
                started = time.monotonic()
                metrics = {f"train/{name}": 1 / (1 + step) for name in ("nll", "objective")}
                self.runs.log_steps(trial.training_id, [StepRow(step, 1_000 + step, metrics)])
                if step % 10 == 0:
                    judged = result(SamplingSpec(samples=2))
                    evaluated = Evaluated(trial.training_id, step, {"sampled": [{"strict": judged}]}, 1.0, 0.1, "")
                    self.runs.log_evaluation(trial, evaluated)
                self.slowest = max(self.slowest, time.monotonic() - started)
            time.sleep(pause_s)

    def whole(self, pause_s: float) -> None:
        self.runs.begin()
        for trial in self.sweep.trials:
            self.runs.open(trial)
            self.runs.tag(trial.training_id, {"dft.threads": "1"})
        self.log(range(STEPS), pause_s)
        self.end()

    def end(self) -> None:
        for trial in self.sweep.trials:
            self.runs.finish(trial.training_id, "FINISHED")
        self.runs.close("FINISHED")


def held(uri: str, sweep: PreparedSweep) -> dict[str, Any]:
    """What MLflow holds of the sweep's trials by objective, doubled points and runs included; times of evaluations
    aside."""
    client, found = MlflowClient(uri), {}
    parent = Reader(uri).find_sweep(sweep.sweep_id)
    runs = client.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    assert len(runs) == len(sweep.trials)
    for run in runs:
        histories = {
            key: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        texts = sorted(item.path for item in client.list_artifacts(run.info.run_id, "evaluations"))
        name = run.data.params["train.objective.kind"]
        found[name] = (run.info.status, run.data.params, run.data.tags["dft.threads"], histories, texts)
    return found | {"sweep": (parent.status, parent.finished)}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    return prepared(write_files(tmp_path_factory.mktemp("spec")))


@pytest.fixture(scope="module")
def undisturbed(sweep: PreparedSweep, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    storage = tmp_path_factory.mktemp("undisturbed")
    uri = f"sqlite:///{storage}/mlflow.db"
    Attempt(sweep, uri, storage).whole(0.0)
    found = held(uri, sweep)
    assert len(found["dft"][3]["train/nll"]) == STEPS and len(found["dft"][4]) == STEPS // 10
    return found


@pytest.mark.slow
def test_a_server_killed_for_a_while_changes_nothing(
    server: MlflowServer,  # noqa: F811
    sweep: PreparedSweep,
    undisturbed: dict[str, Any],
    tmp_path: Path,
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    attempt = Attempt(sweep, server.uri, tmp_path, patience_s=300.0)  # a server may take long to start here

    outage_s: list[float] = []

    def disturb() -> None:
        time.sleep(random.Random(seed).uniform(0.5, 3.0))
        killed = time.monotonic()
        server.kill()
        time.sleep(DOWN_S)
        server.start()
        outage_s.append(time.monotonic() - killed)

    attempt.runs.begin()
    for trial in sweep.trials:
        attempt.runs.open(trial)
        attempt.runs.tag(trial.training_id, {"dft.threads": "1"})
    killer = threading.Thread(target=disturb)
    killer.start()
    attempt.log(range(STEPS), 0.1)
    attempt.end()
    killer.join()
    assert held(server.uri, sweep) == undisturbed
    assert attempt.slowest < outage_s[0] / 2  # no call waited for the server
    print(attempt.said)


@pytest.mark.slow
def test_a_server_down_to_the_end_gets_everything_with_the_next_run(
    server: MlflowServer,  # noqa: F811
    sweep: PreparedSweep,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    attempt = Attempt(sweep, server.uri, tmp_path, patience_s=6.0)
    attempt.runs.begin()
    for trial in sweep.trials:
        attempt.runs.open(trial)
        attempt.runs.tag(trial.training_id, {"dft.threads": "1"})
    attempt.log(range(10), 0.0)
    killed = time.monotonic()
    server.kill()
    attempt.log(range(10, STEPS), 0.0)
    with pytest.raises(TrackingUnavailable, match=r"rows wait in .*\. Nothing is lost"):
        attempt.end()
    assert attempt.slowest < (time.monotonic() - killed) / 2
    for thread in threading.enumerate():
        if thread.name == "mlflow":  # its process would not outlive the command; its last request may take long
            thread.join(120)
    with pytest.raises(TrackingUnavailable):  # at the start MLflow must be there
        Attempt(sweep, server.uri, tmp_path)
    server.start()
    again = Attempt(sweep, server.uri, tmp_path)
    assert any("rows that an earlier run left are in MLflow now" in line for line in again.said)
    assert all(again.runs.is_complete(trial) for trial in sweep.trials)
    again.runs.begin()
    again.runs.close("FINISHED")
    assert held(server.uri, sweep) == undisturbed
    running = MlflowClient(server.uri).search_runs(["1"], "attributes.status = 'RUNNING'")
    assert running == []
    assert server.uri not in "".join(capfd.readouterr())
