"""The command on a cluster of machines with an address each, whose cables can be pulled.

The machines are network namespaces (`tests.end_to_end.network`): each has ports, routes and a loopback of its own, and
reaches the others, and MLflow, through a switch alone. They share the storage, as machines do that mount it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.end_to_end.disturbing import DRAWS, Points, Strike, database, dice, require_whole, sweep
from tests.end_to_end.network import Machine, Network, network, no_network
from tests.end_to_end.running import SPEC, run
from tests.end_to_end.test_node_faults import OURS
from tests.orchestration.real_trials import saved_step

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1500)]
PORT = 6379
SHORT = ("--set", "trial.evaluation.samplings={sampled: {max_new_tokens: 24, seed: 2}}")
"""Of few tokens: it is the network that is tried."""
MEMORY = {"RAY_memory_monitor_refresh_ms": "0"}
"""Each of these machines would take the memory of them all for its own."""
CONNECT = """\
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
"""
CPUS = """\
print(ray.cluster_resources()["CPU"])
"""
LEFT = """\
print([group["state"] for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"])
"""


@dataclass
class Cluster:
    """Ray on the machines of a network, each with as many CPUs as `cpus` says."""

    net: Network
    cpus: dict[str, int]
    directory: Path
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def head(self) -> Machine:
        return self.net.machines["head"]

    @property
    def address(self) -> str:
        return f"{self.head.address}:{PORT}"

    @property
    def environment(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def start(self, name: str) -> None:
        """`ray start` on this machine, as an operator types it there."""
        machine = self.net.machines[name]
        head = ["--head", f"--port={PORT}", f"--dashboard-host={machine.address}"]
        joining = head if name == "head" else [f"--address={self.address}"]
        ray = Path(sys.executable).with_name("ray")
        options = [
            f"--node-ip-address={machine.address}",
            f"--num-cpus={self.cpus[name]}",
            f"--temp-dir={self.folder / name}",
        ]
        own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with machine.inside(), (self.directory / f"{name}.log").open("wb") as log:
            self.started[name] = subprocess.Popen(
                [ray, "start", "--block", "--disable-usage-stats", *joining, *options],
                env=own | self.environment | MEMORY, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while "--block" not in (said := (self.directory / f"{name}.log").read_text()):
            assert self.started[name].poll() is None and time.monotonic() < deadline, said
            time.sleep(0.2)

    @property
    def folder(self) -> Path:
        """Of Ray's own files. Short, since a UNIX socket's path has 107 characters."""
        return Path("/tmp") / self.head.namespace

    def ask(self, program: str) -> str:
        """What a driver on the head's machine prints that is connected to the cluster."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with self.head.inside():
            done = subprocess.run(
                [sys.executable, "-c", CONNECT + program, self.address],
                env=own | self.environment, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def at_work(self) -> dict[str, list[str]]:
        """By machine, titles of its processes that belong to a sweep."""
        return {
            name: found
            for name, machine in self.net.machines.items()
            if (found := [title for title in machine.titles() if any(kind in title for kind in OURS)])
        }

    def cpus_alive(self) -> float:
        return float(self.ask(CPUS))

    def require_nothing_left(self) -> None:
        """No process and no placement group of a sweep."""
        deadline = time.monotonic() + 60
        while left := self.at_work():
            assert time.monotonic() < deadline, left
            time.sleep(0.5)
        assert self.ask(LEFT) == "[]\n"


@contextlib.contextmanager
def cluster(directory: Path, head: int = 0, **cpus: int) -> Iterator[Cluster]:
    """A head and other machines with so many CPUs each."""
    directory.mkdir()
    with network("head", *cpus) as net:
        made = Cluster(net, {"head": head, **cpus}, directory)
        try:
            for name in made.cpus:
                made.start(name)
            yield made
        finally:
            for process in made.started.values():
                process.terminate()
            shutil.rmtree(made.folder, ignore_errors=True)


@contextlib.contextmanager
def mlflow(net: Network, directory: Path) -> Iterator[str]:
    """The address of an MLflow server on the switch, where every machine reaches it, with a database in `directory`."""
    directory.mkdir(exist_ok=True)
    uri = f"http://{net.switch.address}:5000"
    store = ["--backend-store-uri", f"sqlite:///{directory}/mlflow.db"]
    options = ["--artifacts-destination", f"{directory}/artifacts", "--host", net.switch.address, "--workers", "1"]
    with net.switch.inside(), (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, *options],
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log, stderr=log,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=5):
                    break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (directory / "server.log").read_text()
                time.sleep(0.2)
    yield uri


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    if reason := no_network():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def undisturbed(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Points:
    """The curves of the sweep on a cluster of one machine."""
    directory = tmp_path_factory.mktemp("undisturbed")
    with cluster(directory / "ray", head=2) as ray, ray.head.inside():
        whole = sweep(
            directory / "storage", *SHORT, "--address", ray.address, environment=ray.environment, timeout_s=900
        )
    return require_whole(whole, database(directory / "storage"))


def test_coordinator_trial_and_engine_at_three_addresses_give_the_same_curves(
    undisturbed: Points, tmp_path: Path
) -> None:
    storage, seen = tmp_path / "storage", list[dict[str, list[str]]]()
    with cluster(tmp_path / "ray", one=1, two=1) as ray, mlflow(ray.net, tmp_path / "mlflow") as uri:
        look = Strike(lambda: saved_step(storage) >= 1, lambda pid, mark: seen.append(ray.at_work()))
        with ray.head.inside():
            finished = sweep(
                storage, *SHORT, "--address", ray.address, "--tracking-uri", uri, strike=look,
                environment=ray.environment, timeout_s=900,
            )  # fmt: skip
            refused = run(
                "run", str(SPEC), "--storage", str(tmp_path / "other"), "--address", ray.address,
                environment=ray.environment | {"RAY_AUTH_TOKEN": "0" * 64},
            )  # fmt: skip
        print("\n".join([*finished.lines, *refused.lines]), seen)
        require_whole(finished, database(tmp_path / "mlflow"), undisturbed)
        ray.require_nothing_left()
        assert refused.code == 3 and "Traceback" not in refused.text
    (where,) = seen
    (trains,) = machines_of("RayTrainWorker", where)
    (generates,) = machines_of("EngineActor", where)
    assert {trains, generates} == {"one", "two"}
    assert machines_of("Mailbox", where) == ["head"]


def test_two_workers_of_a_trial_on_two_machines_give_the_same_curves(undisturbed: Points, tmp_path: Path) -> None:
    """Each of the three machines has room for one process that computes: two workers and the engine."""
    storage, seen = tmp_path / "storage", list[dict[str, list[str]]]()
    with cluster(tmp_path / "ray", one=1, two=1, three=1) as ray, mlflow(ray.net, tmp_path / "mlflow") as uri:
        look = Strike(lambda: saved_step(storage) >= 1, lambda pid, mark: seen.append(ray.at_work()))
        with ray.head.inside():
            finished = sweep(
                storage, *SHORT, "--set", "execution.workers=2", "--address", ray.address, "--tracking-uri", uri,
                strike=look, environment=ray.environment, timeout_s=900,
            )  # fmt: skip
        print("\n".join(finished.lines), seen)
        found = require_whole(finished, database(tmp_path / "mlflow"))
        ray.require_nothing_left()
    (where,) = seen
    train, (generates,) = machines_of("RayTrainWorker", where), machines_of("EngineActor", where)
    assert len(train) == 2 and {*train, generates} == {"one", "two", "three"}
    for key in [(of, f"train/{it}") for of in ("sft", "dft") for it in ("objective", "nll", "grad_norm", "entropy")]:
        (steps, values), (others, expected) = zip(*found[key], strict=True), zip(*undisturbed[key], strict=True)
        assert steps == others and values == pytest.approx(expected, rel=1e-4), key  # sums in another order


def machines_of(kind: str, where: dict[str, list[str]]) -> list[str]:
    return [name for name, titles in where.items() if any(kind in title for title in titles)]


@dataclass
class Pulled:
    """Pulls the cable of the machine that trains, for `seconds` or for good."""

    ray: Cluster
    seconds: float | None = None
    machine: str = ""
    held: list[str] = field(default_factory=list)
    """What worked there."""

    def __call__(self, pid: int, mark: str) -> None:
        where = self.ray.at_work()
        (self.machine,) = machines_of("RayTrainWorker", where)
        self.ray.net.pull(self.machine)
        self.held = where[self.machine]
        if self.seconds is not None:
            time.sleep(self.seconds)
            self.ray.net.plug(self.machine)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_trial_goes_on_elsewhere_when_the_cable_of_its_machine_is_pulled(
    undisturbed: Points, tmp_path: Path, draw: int
) -> None:
    """And the machine takes part again when it has its cable back and Ray is started there anew."""
    step, storage = dice("cable pulled", draw).randint(1, 10), tmp_path / "storage"
    with cluster(tmp_path / "ray", one=2, two=2) as ray, mlflow(ray.net, tmp_path / "mlflow") as uri:
        pulled = Pulled(ray)
        strike = Strike(lambda: saved_step(storage) >= step, pulled)
        with ray.head.inside():
            disturbed = sweep(
                storage, *SHORT, "--address", ray.address, "--tracking-uri", uri, strike=strike,
                environment=ray.environment, timeout_s=900,
            )  # fmt: skip
        print("\n".join(disturbed.lines), pulled.machine, pulled.held, sep="\n")
        print("left there:", ray.at_work().get(pulled.machine))
        require_whole(disturbed, database(tmp_path / "mlflow"), undisturbed)
        recovered_s = strike.recovered_s(disturbed, "interrupted: ", "resumed at step|: started")
        print(f"step {step}, at {strike.at - disturbed.started:.0f} s: goes on elsewhere after {recovered_s:.0f} s")
        ray.net.plug(pulled.machine)
        plugged = time.monotonic()
        ray.require_nothing_left()
        print(f"nothing is left {time.monotonic() - plugged:.0f} s after the cable is back")
        ray.started[pulled.machine].wait(timeout=120)
        ray.start(pulled.machine)
        assert ray.cpus_alive() == 4


@pytest.mark.parametrize("draw", DRAWS)
def test_a_cable_that_is_back_within_seconds_interrupts_nothing(undisturbed: Points, tmp_path: Path, draw: int) -> None:
    drawn = dice("cable pulled for a moment", draw)
    step, seconds, storage = drawn.randint(1, 10), drawn.uniform(2, 12), tmp_path / "storage"
    with cluster(tmp_path / "ray", one=2, two=2) as ray, mlflow(ray.net, tmp_path / "mlflow") as uri:
        pulled = Pulled(ray, seconds)
        strike = Strike(lambda: saved_step(storage) >= step, pulled)
        with ray.head.inside():
            disturbed = sweep(
                storage, *SHORT, "--address", ray.address, "--tracking-uri", uri, strike=strike,
                environment=ray.environment, timeout_s=900,
            )  # fmt: skip
        print("\n".join(disturbed.lines), pulled, f"step {step}, {seconds:.0f} s", sep="\n")
        require_whole(disturbed, database(tmp_path / "mlflow"), undisturbed)
        assert "interrupted" not in disturbed.text
        ray.require_nothing_left()
