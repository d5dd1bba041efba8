"""`list`, `status`, `report` and `ui` against a real MLflow store."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import psutil
import pytest
from click.testing import CliRunner, Result

from dft_sweeps.cli import list_, report, status, ui
from dft_sweeps.orchestration.cluster import free_port
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.shared_view import view_state
from dft_sweeps.tracking.writer import Tracker
from tests.end_to_end.running import heed_interrupts
from tests.report.synthetic_sweep import write_sweep

SWEEP = "s-0123456789abcdef"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sweep of six trials; five are finished, and one runs."""
    storage = tmp_path_factory.mktemp("storage")
    write_sweep(Tracker(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts")))
    return storage


def call(module: object, storage: Path, *arguments: str) -> Result:
    return CliRunner().invoke(module.command, ["--storage", str(storage), *arguments])  # type: ignore[attr-defined]


def test_list_counts_what_a_search_has_still_to_propose(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    first = [{"training_id": f"t-{number}", "name": str(number), "axes": {}} for number in range(4)]
    tracker.open_sweep("searched", SWEEP, "name: searched\n", first, "m", 12)
    assert "0 of 16" in call(list_, tmp_path).stdout


def test_list(storage: Path) -> None:
    result = call(list_, storage)
    assert result.exit_code == 0, result.output
    assert [word for word in (SWEEP, "quickstart", "finished", "5 of 6") if word not in result.stdout] == []
    (row,) = json.loads(call(list_, storage, "--json").stdout)
    assert (row["sweep_id"], row["status"], row["finished"], row["trials"]) == (SWEEP, "FINISHED", 5, 6)


def test_list_where_there_is_nothing(tmp_path: Path) -> None:
    result = call(list_, tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"no sweeps yet in {tmp_path}\n")
    assert call(list_, tmp_path, "--json").stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    Tracker(uri, None)
    result = call(list_, tmp_path / "other", "--tracking-uri", uri)
    assert (result.exit_code, result.stdout) == (0, f"no sweeps yet in {uri}\n")


def test_status(storage: Path) -> None:
    result = call(status, storage, "quickstart")
    assert result.exit_code == 0, result.output
    assert "5 of 6 trials finished" in result.stdout
    found = json.loads(call(status, storage, SWEEP[:6], "--json").stdout)
    assert found["sweep"]["sweep_id"] == SWEEP
    trials = found["trials"]
    assert [trial["status"] for trial in trials] == ["FINISHED"] * 5 + ["RUNNING"]
    assert {(trial["step"], trial["evaluated_step"]) for trial in trials} == {(60, 60)}
    assert [trial["steps"] for trial in trials] == [60] * 5 + [None]
    assert result.stdout.count("60 of 60") == 5
    assert trials[2]["axes"] == {
        "variant": "wrong-steps",
        "train.objective.kind": "dft",
        "train.learning_rate": 3e-4,
    }
    assert trials[2]["accuracy"] == trials[2]["metrics"]["eval/average/accuracy"] > 0.9


def test_report_writes_what_it_names_and_logs_it(storage: Path) -> None:
    result = call(report, storage, "quickstart", "--benchmark", "arithmetic_3")
    assert result.exit_code == 0, result.output
    folder = storage / "reports" / SWEEP
    kinds = ("accuracy_{}", "ablation_{}", "ablation_{}_average")
    stems = ["training", *(kind.format(sampling) for kind in kinds for sampling in ("sampled", "greedy"))]
    names = {"tables.md", "accuracy.csv"} | {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == names
    assert all(str(folder / name) in result.stdout for name in names)
    for title in (
        "average of the benchmarks: accuracy (%), sampled",
        "arithmetic_3: accuracy (%), greedy (temperature 0)",
    ):
        assert title in result.stdout
        assert title in (folder / "tables.md").read_text()
    assert "wrong steps favour DFT over SFT" in result.stdout
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    logged = reader._client.list_artifacts(reader.find_sweep(SWEEP).run_id, "report")
    assert {Path(file.path).name for file in logged} == names


def test_report_as_json_is_one_document(storage: Path) -> None:
    document = json.loads(call(report, storage, SWEEP, "--json").stdout)
    # trials, samplings, steps, benchmarks with their average and the one that the published harness judged too
    assert len(document["curves"]) == 6 * 2 * 7 * (3 + 1)
    assert all(Path(path).stat().st_size > 0 for path in document["files"])


@pytest.mark.parametrize("module", [status, report])
def test_an_unknown_sweep_is_the_users_mistake(module: object, storage: Path) -> None:
    result = call(module, storage, "nonesuch")
    assert isinstance(result.exception, SpecError)
    assert f"no sweep 'nonesuch'; choose one of:\n  {SWEEP}  quickstart" in str(result.exception)


def test_an_unknown_benchmark_is_the_users_mistake(storage: Path) -> None:
    result = call(report, storage, SWEEP, "--benchmark", "gsm8k")
    assert isinstance(result.exception, SpecError)
    assert "it has average, arithmetic_2, arithmetic_3" in str(result.exception)


@pytest.mark.parametrize("module", [list_, status, report, ui])
def test_help_has_an_example(module: object) -> None:
    result = CliRunner().invoke(module.command, ["--help"])  # type: ignore[attr-defined]
    assert result.exit_code == 0
    assert "Example:\n    dft-sweeps" in result.stdout


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_ui_names_a_busy_port_and_a_free_one(storage: Path, taken: int) -> None:
    result = call(ui, storage, "--port", str(taken))
    assert isinstance(result.exception, SpecError)
    message = str(result.exception)
    assert f"port {taken} cannot be used" in message
    other = int(message.split("; port ")[1].split()[0])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", other))


@pytest.mark.parametrize("refusal", [None, "Permission denied"])
def test_ui_of_a_server_starts_nothing(storage: Path, monkeypatch: pytest.MonkeyPatch, refusal: str | None) -> None:
    """Of the sweep's own choice of charts if the server takes it, or else of its trials in MLflow's."""
    stored, server = Reader(f"sqlite:///{storage}/mlflow.db"), "http://bob:pa55@mlflow.example:8080"
    sweep = stored.find_sweep("quickstart")
    condition, kept = f"tags.`mlflow.parentRunId` = '{sweep.run_id}'", list[tuple[str, ...]]()
    monkeypatch.setattr("dft_sweeps.tracking.reader.Reader", lambda _: stored)
    monkeypatch.setattr("dft_sweeps.tracking.shared_view.keep_view", lambda *asked: kept.append(asked) or refusal)
    result = call(ui, storage, "quickstart", "--tracking-uri", f"{server}/")
    assert kept == [(f"{server}/", sweep.experiment_id, SWEEP, view_state(condition, stored.trials(sweep)))]
    page, _, asked = result.stdout.strip().partition("?")
    assert page == f"http://bob:***@mlflow.example:8080/#/experiments/{sweep.experiment_id}/runs"
    usual = {
        "orderByKey": ["metrics.`eval/average/accuracy`"],
        "orderByAsc": ["false"],
        "searchFilter": [condition],
    }
    own = {"viewStateShareKey": [SWEEP]}
    assert parse_qs(asked) == {"compareRunsMode": ["CHART"]} | (usual if refusal else own)
    assert ("Permission denied" in result.stderr) == bool(refusal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ui_serves_and_leaves_no_process(storage: Path, number: signal.Signals) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-c",
        "from dft_sweeps.cli.ui import command; command()",
        "--storage",
        str(storage),
    ]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        family = psutil.Process(process.pid).children(recursive=True)
        assert address.startswith(f"http://127.0.0.1:{port}/#/experiments/")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
            assert page.status == 200 and b"<html" in page.read()
        assert len(family) >= 2  # the server and its worker
        assert "mlflow.db" not in str([member.cmdline() for member in family])  # it may hold a password
        process.send_signal(number)
        assert process.wait(timeout=90) == 0
        assert [member for member in family if member.is_running()] == []
    finally:
        for member in [*family, process]:
            if member.is_running() if isinstance(member, psutil.Process) else member.poll() is None:
                member.kill()
