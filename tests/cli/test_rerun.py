"""`rerun` on sweeps in a real MLflow store, whose trials are a script."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dft_sweeps.cli import rerun
from dft_sweeps.cli.spec_check import check_spec
from dft_sweeps.orchestration import sharing
from dft_sweeps.orchestration.locks import SweepLocks
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.placement import ClusterFacts
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Tracker
from services.allowed import Limits
from services.checking import Rerun, Surroundings
from tests.orchestration.file_sweep import SPEC, prepared, write_files, write_rows
from tests.orchestration.shared_sweep import ScriptedCoordinator, run_scripted

SFT, DFT = "objective=sft", "objective=dft"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    return prepared(write_files(tmp_path_factory.mktemp("files")))


@pytest.fixture
def storage(tmp_path: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep whose trial with SFT failed and whose trial with DFT is finished."""
    storage = tmp_path / "storage"
    storage.mkdir()
    (storage / "gate").touch()
    monkeypatch.setattr(sharing, "Coordinator", ScriptedCoordinator)
    monkeypatch.setattr(ScriptedCoordinator, "failing", [SFT])
    outcome = run_scripted(swept, storage, lambda topic, line: None)
    assert outcome.failed.keys() == {SFT}
    monkeypatch.setattr(ScriptedCoordinator, "failing", [])
    monkeypatch.setattr("dft_sweeps.cli.run._services", lambda *arguments: nullcontext((None, 1)))
    monkeypatch.setattr("dft_sweeps.cli.run.report_outcome", lambda *arguments: None)
    monkeypatch.setattr("dft_sweeps.orchestration.cluster.set_environment", lambda address: None)
    (storage / "ran").unlink()
    return storage


def call(storage: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(rerun.command, ["--storage", str(storage), *arguments], standalone_mode=False)
    assert result.exception is None or isinstance(result.exception, SpecError), result.exception
    return result


def refusal(storage: Path, *arguments: str) -> str:
    result = call(storage, *arguments)
    assert result.exception is not None, result.output
    return str(result.exception)


def shown(storage: Path, *arguments: str) -> list[str]:
    """The trials that a dry run says would run."""
    result = call(storage, *arguments, "--dry-run")
    assert result.exception is None, result.exception
    assert not (storage / "ran").exists()
    rows = re.findall(r"^ *(objective=.*?) +t-[0-9a-f]{16} ", result.stdout, re.MULTILINE)
    [plan] = json.loads(call(storage, *arguments, "--dry-run", "--json").stdout)
    assert [trial["name"] for trial in plan["trials"]] == rows
    return rows


def ran(storage: Path) -> list[str]:
    path = storage / "ran"
    return path.read_text().splitlines() if path.exists() else []


def reader(storage: Path) -> Reader:
    return Reader(f"sqlite:///{storage}/mlflow.db")


def test_what_is_missing_is_run_once(storage: Path) -> None:
    before = reader(storage).find_sweep("files")
    assert before.status == "FAILED"
    assert shown(storage, "files") == [SFT]
    assert call(storage, before.sweep_id).return_value == 0
    assert ran(storage) == [SFT]
    after = reader(storage).find_sweep("files")
    assert (after.sweep_id, after.run_id, after.status) == (before.sweep_id, before.run_id, "FINISHED")
    again = call(storage, "files")
    assert again.return_value == 0 and "2 of 2 trials are finished already" in again.stdout
    assert ran(storage) == [SFT]
    assert "nothing to run" in call(storage, "files", "--dry-run").stdout


def test_a_failure_is_the_exit_code(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedCoordinator, "failing", [SFT])
    assert call(storage, "files").return_value == 1


def test_cells_and_fresh_choose_trials(storage: Path) -> None:
    assert shown(storage, "files", "--cell", "train.objective.kind=dft") == []
    assert shown(storage, "files", "--cell", "train.objective.kind=dft", "--fresh") == [DFT]
    assert call(storage, "files", "--cell", "train.objective.kind=dft", "--fresh").return_value == 0
    assert ran(storage) == [DFT]
    message = refusal(storage, "files", "--cell", "train.objective.kind=dpo")
    assert "there are sft, dft" in message


def test_failed_trials_are_those_that_failed_or_whose_process_is_gone(storage: Path) -> None:
    assert shown(storage, "files", "--failed") == [SFT]
    store = reader(storage)
    sweep = store.find_sweep("files")
    failed = store.trials(sweep)[0]
    run = Tracker(f"sqlite:///{storage}/mlflow.db", None).open_trial(sweep.run_id, failed.training_id, SFT, {}, {})
    assert store.trials(sweep)[0].run_id == run and store.trials(sweep)[0].status == "RUNNING"
    assert shown(storage, "files", "--failed") == [SFT]
    with SweepLocks(storage, sweep.sweep_id) as locks:
        locks.take([failed.training_id])
        assert shown(storage, "files", "--failed") == []
    assert call(storage, "files", "--failed").return_value == 0
    assert ran(storage) == [SFT]
    assert "0 of 2 trials are asked for" in call(storage, "files", "--failed", "--fresh").stdout
    assert ran(storage) == [SFT]


def test_seeds_make_a_larger_sweep_that_shares_its_trials(storage: Path) -> None:
    assert shown(storage, "files", "--seeds", "2") == [f"{SFT} seed=0", f"{SFT} seed=1", f"{DFT} seed=1"]
    assert call(storage, "files", "--seeds", "2").return_value == 0
    assert len(ran(storage)) == 3
    larger = reader(storage).find_sweep("files")
    assert (larger.trials, larger.status) == (4, "FINISHED")
    assert "for one of the two" in refusal(storage, "files", "--seeds", "2", "--failed")


def test_what_has_changed_since_is_refused(storage: Path, swept: PreparedSweep) -> None:
    directory = swept.sweep.directory
    try:
        write_rows(directory / "rows.jsonl", [{"prompt": "1+1=", "completion": "2"}] * 8)
        message = refusal(storage, "files")
    finally:
        write_files(directory)
    assert "the model, the data or the template it trains with changed since it ran" in message
    assert "`run` its spec for that" in message


def test_an_override_makes_another_sweep_or_runs_the_same_otherwise(storage: Path) -> None:
    own = reader(storage).find_sweep("files").sweep_id
    same = call(storage, "files", "--dry-run", "--set", "execution.micro_batch_tokens=512")
    assert f"Sweep {own}: " in same.stdout
    other = call(storage, "files", "--dry-run", "--set", "trial.train.steps=4", "--set", "trial.evaluation.every=2")
    assert f"Sweep {own}: " not in other.stdout and "as asked for, it is the sweep s-" in other.stdout


def test_the_sweeps_of_a_figure_are_found_by_their_names(storage: Path, swept: PreparedSweep) -> None:
    assert "none of these do: files" in refusal(storage, "--figure", "3")
    text = SPEC.replace("name: files", "name: figure3-rate").replace("kind: [sft, dft]", "kind: [dft, focal]")
    run_scripted(prepared(swept.sweep.directory, text), storage, lambda topic, line: None)
    (storage / "ran").unlink()
    assert shown(storage, "--figure", "3", "--fresh") == [DFT, "objective=focal"]
    assert "none of these do: files" in refusal(storage, "files", "--figure", "3")
    assert "say which sweep to rerun" in refusal(storage)


HALVED = SPEC.replace("name: files", "name: halved") + "scheduler: {kind: asha, rungs: [1], reduction_factor: 2}\n"


def run_halved(storage: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A sweep of three trials, of which that with DFT is finished, and that with focal failed."""
    text = text.replace("kind: [sft, dft]", "kind: [iw_sft, dft, focal]")
    monkeypatch.setattr(ScriptedCoordinator, "failing", ["objective=focal"])
    halved = prepared(swept.sweep.directory, text)
    ids = {trial.training_id for trial in halved.trials[1:]}
    assert len(run_scripted(halved, storage, lambda topic, line: None, ids).failed) == 1
    monkeypatch.setattr(ScriptedCoordinator, "failing", [])
    (storage / "ran").unlink(missing_ok=True)


def test_a_part_of_trials_that_compete_is_refused_while_others_are_not_finished(
    storage: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_halved(storage, swept, monkeypatch, HALVED)
    sweep = reader(storage).find_sweep("halved")
    for asked in (["--failed"], ["--cell", "train.objective.kind=focal"]):
        message = refusal(storage, "halved", *asked)
        assert "1 that these compete with are not finished: verdicts among a part would be wrong" in message
        assert f"`dft-sweeps rerun {sweep.sweep_id}` runs all that is not finished" in message
        assert refusal(storage, "halved", *asked, "--dry-run") == message
    surroundings = Surroundings(ClusterFacts(4.0, 0.0), f"sqlite:///{storage}/mlflow.db", storage)
    with pytest.raises(SpecError, match="verdicts among a part would be wrong"):
        check_spec(Rerun(sweep.sweep_id, failed=True), surroundings, Limits(paths=(str(swept.sweep.directory),)))
    assert ran(storage) == []
    both = "train.objective.kind=iw_sft", "--cell", "train.objective.kind=focal"
    assert shown(storage, "halved", "--cell", *both) == ["objective=iw_sft", "objective=focal"]
    assert call(storage, "halved").return_value == 0
    (storage / "ran").unlink()
    assert shown(storage, "halved", "--cell", "train.objective.kind=focal", "--fresh") == ["objective=focal"]


def test_a_part_that_competes_with_no_other_is_run(
    storage: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_halved(storage, swept, monkeypatch, HALVED.replace("2}", "2, apart: [train.objective.kind]}"))
    assert shown(storage, "halved", "--failed") == ["objective=focal"]


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(rerun.command, ["--help"])
    assert result.exit_code == 0
    assert "Example:\n    dft-sweeps" in result.stdout
