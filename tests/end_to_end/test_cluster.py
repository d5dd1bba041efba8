"""The same command on a cluster that is there already, with two workers per trial."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dft_sweeps.orchestration.cluster import free_port
from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.conftest import FinishedSweep
from tests.end_to_end.running import SPEC, run
from tests.services.served import ray_head

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def address() -> Iterator[str]:
    """A cluster of one node and three logical CPUs."""
    with ray_head(cpus=3) as head:
        yield head.address


def curve(tracking_uri: str, key: str) -> dict[str, list[tuple[int, float]]]:
    reader = Reader(tracking_uri)
    return {
        trial.training_id: reader.curve(trial.run_id, key) for trial in reader.trials(reader.find_sweep("end-to-end"))
    }


def test_two_workers_on_a_running_cluster_give_the_same_curves(
    address: str, finished_sweep: FinishedSweep, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    outcome = run(
        "run", str(SPEC), "--storage", str(storage), "--address", address, "--set", "execution.workers=2",
        environment={"RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert outcome.code == 0, outcome.text
    assert "Traceback" not in outcome.text
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    for key in ("train/objective", "train/nll", "train/grad_norm", "train/entropy"):
        one, two = curve(finished_sweep.tracking_uri, key), curve(uri, key)
        assert one.keys() == two.keys()  # the number of workers is no part of a trial's identity
        for training_id, points in one.items():
            assert [step for step, _ in two[training_id]] == [step for step, _ in points]
            values = [value for _, value in points]
            assert [value for _, value in two[training_id]] == pytest.approx(values, rel=1e-4)
    again = run("run", str(SPEC), "--storage", str(storage))
    assert "2 of 2 trials are finished already" in again.text

    busy = run("run", str(SPEC), "--storage", str(tmp_path / "other"), "--address", address,
               "--set", "execution.workers=3", environment={"RAY_AUTH_MODE": "disabled"})  # fmt: skip
    assert busy.code == 2
    assert "too few CPUs: the cluster has 3, and 4 are needed" in busy.lines[-1]


def test_an_address_where_nothing_answers_is_unreachable_at_once(tmp_path: Path) -> None:
    outcome = run("run", str(SPEC), "--storage", str(tmp_path), "--address", f"127.0.0.1:{free_port()}")
    assert outcome.code == 3
    assert "nothing answers at 127.0.0.1:" in outcome.lines[-1]
    assert "Traceback" not in outcome.text
