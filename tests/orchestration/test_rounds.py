"""Rounds of a TPE search: proposed once, listed in MLflow, taken up wherever the sweep was interrupted.

Optuna is real; so are MLflow, locks and the loop over rounds. What trains and evaluates is a formula.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from dft_sweeps.orchestration import sharing
from dft_sweeps.orchestration.coordinator import Outcome
from dft_sweeps.orchestration.mailbox import StepRow
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.proposals import next_round, recorded
from dft_sweeps.orchestration.trial_runs import TrialRuns
from dft_sweeps.spec.search_models import TpeSearch
from dft_sweeps.tracking import names
from dft_sweeps.tracking.background import Background
from dft_sweeps.tracking.reader import Reader, TrialRow
from dft_sweeps.tracking.store import TrackingUnavailable
from dft_sweeps.tracking.writer import Tracker
from tests.orchestration.file_sweep import SPEC, prepared, write_files
from tests.orchestration.shared_sweep import ScriptedCoordinator, services, wait_for
from tests.orchestration.test_proposals import accuracy, searched

ROUNDS = SPEC.replace("axes:\n  train.objective.kind: [sft, dft]\n", "").replace("{kind: sft}", "{kind: power}") + (
    "variants:\n  - name: plain\n  - {name: other, set: {train.seed: 1}}\n"
    "search:\n  kind: tpe\n  trials: 6\n  batch: 2\n  space:\n"
    "    train.learning_rate: {kind: log_uniform, low: 1e-5, high: 1e-1}\n"
    "    train.batch_size: {kind: choice, values: [2, 4, 6, 8]}\n"
    "    train.objective.alpha: {kind: uniform, low: 0.0, high: 2.0}\n"
)


class MeasuringCoordinator(ScriptedCoordinator):
    """Logs `accuracy` of a trial's point, at its last step, or of the base model if it fails; trials of `stuck` are
    interrupted."""

    diverging: Collection[str] = ()
    """Names of those that fail because their loss was not finite."""
    stuck: Callable[[int], bool] = staticmethod(lambda count: False)
    count = 0

    def run(self, pool: object, concurrent: int) -> Outcome:
        for _ in self._trials:
            type(self).count += 1
            if self.stuck(self.count):
                raise KeyboardInterrupt
        log, runs = "eval/average/accuracy", self._runs
        finish = runs.finish

        def measured(training_id: str, status: str) -> None:
            [trial] = [each for each in self._trials if each.training_id == training_id]
            shown = {6: accuracy(trial.trial.point)} if status == "FINISHED" else {0: 0.3}
            runs.log_steps(training_id, [StepRow(step, 1_000, {log: value}) for step, value in shown.items()])
            if trial.trial.name in self.diverging:
                runs.tag(training_id, {names.DIVERGED_AT_TAG: "2"})
            finish(training_id, status)  # type: ignore[arg-type]

        runs.finish = measured  # type: ignore[method-assign,assignment]
        try:
            return super().run(pool, concurrent)
        finally:
            runs.finish = finish  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    return prepared(write_files(tmp_path_factory.mktemp("files")), ROUNDS)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's, empty: to make one takes seconds, to copy it none."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    Tracker(f"sqlite:///{path}", None)
    return path


def new_storage(directory: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sharing, "Coordinator", MeasuringCoordinator)
    monkeypatch.setattr(sharing, "POLL_S", 0.1)
    monkeypatch.setattr(MeasuringCoordinator, "count", 0)
    shutil.copy(database, directory / "mlflow.db")
    (directory / "gate").touch()
    return directory


@pytest.fixture
def storage(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return new_storage(tmp_path, database, monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, database: Path, swept: PreparedSweep
) -> list[tuple[str, str]]:
    """Training ids and statuses of a sweep that was run to its end."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        directory = new_storage(tmp_path_factory.mktemp("undisturbed"), database, monkeypatch)
        run(swept, directory)
    return listed(directory)


def run(swept: PreparedSweep, storage: Path, only: Collection[str] | None = None) -> tuple[Outcome, list[str]]:
    """As the command does."""
    uri, lines = f"sqlite:///{storage}/mlflow.db", list[str]()
    tracker = Background(Tracker(uri, str(storage / "artifacts")), storage / "spool", lines.append)
    reader = Reader(uri)
    known = recorded(swept, reader)
    runs = TrialRuns(tracker, reader, known)
    say = lambda topic, line: lines.append(line)  # noqa: E731
    more = (lambda sweep: next_round(sweep, reader, lines.append)) if only is None else (lambda sweep: None)
    return sharing.run_missing(known, runs, storage, say, services, only, more=more), lines


def rows(storage: Path) -> list[TrialRow]:
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    return reader.trials(reader.find_sweep("files"))


def listed(storage: Path) -> list[tuple[str, str]]:
    return [(row.training_id, row.status) for row in rows(storage)]


def test_rounds_follow_each_other_until_every_arm_has_its_points(storage: Path, swept: PreparedSweep) -> None:
    assert (len(swept.trials), swept.sweep.to_propose, swept.planned) == (4, 8, 12)
    outcome, lines = run(swept, storage)
    assert (outcome.finished, outcome.reused, outcome.failed) == (12, 0, {})
    assert "4 trials more, 8 of 12; 4 are to be proposed" in lines and "4 trials more, 12 of 12" in lines
    sweep = Reader(f"sqlite:///{storage}/mlflow.db").find_sweep("files")
    assert (sweep.sweep_id, sweep.status, sweep.trials, sweep.finished, sweep.to_propose) == (
        swept.sweep_id, "FINISHED", 12, 12, 0
    )  # fmt: skip
    assert {status for _, status in listed(storage)} == {"FINISHED"}
    search = swept.sweep.spec.search
    assert isinstance(search, TpeSearch)
    for name in ("plain", "other"):
        own = [row.axes for row in rows(storage) if row.axes["variant"] == name]
        points = [{path: axes[path] for path in search.space} for axes in own]
        assert points == searched(search)  # as if it had been done by hand, from the accuracies in MLflow
    again, lines = run(swept, storage)
    assert (again.finished, again.reused) == (0, 12) and "12 of 12 trials are finished already" in lines


@pytest.mark.parametrize("killed_at", [3, 5])
def test_a_search_that_was_interrupted_ends_with_the_same_trials(
    storage: Path,
    swept: PreparedSweep,
    undisturbed: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
) -> None:
    monkeypatch.setattr(MeasuringCoordinator, "stuck", staticmethod(lambda count: count == killed_at))
    with pytest.raises(KeyboardInterrupt):
        run(swept, storage)
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    stopped = reader.find_sweep("files")
    assert stopped.status == "KILLED" and stopped.trials + stopped.to_propose == 12
    monkeypatch.setattr(MeasuringCoordinator, "stuck", staticmethod(lambda count: False))
    outcome, _ = run(swept, storage)
    assert outcome.finished + outcome.reused == 12
    assert listed(storage) == undisturbed
    assert reader.find_sweep("files").status == "FINISHED"


def test_an_interruption_while_proposing_leaves_no_run_running(
    storage: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tests.orchestration.test_rounds.next_round", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(swept, storage)
    sweep = Reader(f"sqlite:///{storage}/mlflow.db").find_sweep("files")
    assert (sweep.status, sweep.trials, sweep.finished, sweep.to_propose) == ("KILLED", 4, 4, 8)
    assert recorded(swept, Reader(f"sqlite:///{storage}/mlflow.db")).trials == swept.trials


def test_what_is_listed_is_taken_and_never_proposed_anew(
    storage: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where other accuracies would now propose other points."""
    monkeypatch.setattr(MeasuringCoordinator, "stuck", staticmethod(lambda count: count == 5))
    with pytest.raises(KeyboardInterrupt):
        run(swept, storage)
    before = [training_id for training_id, _ in listed(storage)]
    assert len(before) == 8
    monkeypatch.setattr(MeasuringCoordinator, "stuck", staticmethod(lambda count: False))
    monkeypatch.setattr("tests.orchestration.test_rounds.accuracy", lambda point: 0.5)
    run(swept, storage)
    assert [training_id for training_id, _ in listed(storage)][:8] == before


def test_a_sweep_whose_variant_was_renamed_and_whose_axes_changed_places_goes_on(
    storage: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id is the same; arms are told by their first round, whatever they are called."""
    axes = "axes:\n  train.schedule.warmup_ratio: [0.0, 0.5]\n  data.seed: [0, 1]\n"
    turned = "axes:\n  data.seed: [0, 1]\n  train.schedule.warmup_ratio: [0.0, 0.5]\n"
    directory = write_files(tmp_path_factory.mktemp("files"))
    before = prepared(directory, axes + ROUNDS)
    after = prepared(directory, turned + ROUNDS.replace("name: plain", "name: plainer"))
    assert before.sweep_id == after.sweep_id and len(before.arms) == 8
    monkeypatch.setattr(MeasuringCoordinator, "stuck", staticmethod(lambda count: count == 17))
    with pytest.raises(KeyboardInterrupt):
        run(before, storage)
    monkeypatch.setattr(MeasuringCoordinator, "stuck", staticmethod(lambda count: False))
    outcome, _ = run(after, storage)
    assert (outcome.finished, outcome.reused) == (32, 16)
    assert {row.axes["variant"] for row in rows(storage)} == {"plainer", "other"}
    assert len({training_id for training_id, _ in listed(storage)}) == 48


def test_some_trials_alone_propose_nothing(storage: Path, swept: PreparedSweep) -> None:
    outcome, _ = run(swept, storage, only={swept.trials[0].training_id})
    assert outcome.finished == 1
    sweep = Reader(f"sqlite:///{storage}/mlflow.db").find_sweep("files")
    assert (sweep.status, sweep.trials, sweep.to_propose) == ("KILLED", 4, 8)


def test_failed_trials_do_not_keep_a_search_from_going_on(
    storage: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [trial.trial.name for trial in swept.trials[:2]]
    monkeypatch.setattr(MeasuringCoordinator, "failing", failing)
    outcome, _ = run(swept, storage)
    assert (outcome.finished, sorted(outcome.failed)) == (10, sorted(failing))
    assert Reader(f"sqlite:///{storage}/mlflow.db").find_sweep("files").status == "FAILED"
    monkeypatch.setattr(MeasuringCoordinator, "failing", [])
    before = [training_id for training_id, _ in listed(storage)]
    mended, _ = run(swept, storage)
    assert (mended.finished, mended.reused) == (2, 10)
    assert listed(storage) == [(training_id, "FINISHED") for training_id in before]


def test_an_outage_between_rounds_is_waited_out(
    storage: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it begins once everything of the round before is in: the flush that ends a round has a test of its own."""
    opened, calls = Tracker.open_sweep, list[str]()

    def unsteady(*given: object) -> str:
        calls.append("open")
        if len(calls) in (2, 3, 4):  # the first opens the sweep, the others are of the second round
            raise TrackingUnavailable("MLflow does not answer: as scripted")
        return opened(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Tracker, "open_sweep", unsteady)
    outcome, lines = run(swept, storage)
    assert (outcome.finished, outcome.failed, len(calls)) == (12, {}, 6)
    assert [line for line in lines if "does not answer" in line] == [
        "MLflow does not answer: as scripted; waiting for up to 10 minutes"
    ]
    assert len(listed(storage)) == 12


def test_a_round_that_failed_as_a_whole_is_the_last_until_it_is_mended(
    storage: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [trial.trial.name for trial in swept.trials if trial.trial.axes["variant"] == "other"]
    monkeypatch.setattr(MeasuringCoordinator, "failing", failing)
    outcome, lines = run(swept, storage)
    assert (outcome.finished, sorted(outcome.failed)) == (2, sorted(failing))
    [line] = [line for line in lines if "no further round" in line]
    assert line == (
        "no further round is proposed: of the last one of other, no trial was measured after step 0 and none diverged, "
        "so there is nothing to go by; once that is mended, run it again"
    )
    sweep = Reader(f"sqlite:///{storage}/mlflow.db").find_sweep("files")
    assert (sweep.status, sweep.trials, sweep.to_propose) == ("FAILED", 4, 8)
    monkeypatch.setattr(MeasuringCoordinator, "failing", [])
    mended, _ = run(swept, storage)
    assert (mended.finished, mended.reused, mended.failed) == (10, 2, {})


def test_a_round_that_diverged_as_a_whole_has_shown_where_not_to_go(
    storage: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging = [trial.trial.name for trial in swept.trials if trial.trial.axes["variant"] == "other"]
    monkeypatch.setattr(MeasuringCoordinator, "failing", diverging)
    monkeypatch.setattr(MeasuringCoordinator, "diverging", diverging)
    outcome, lines = run(swept, storage)
    assert (outcome.finished, sorted(outcome.failed)) == (10, sorted(diverging))
    assert not [line for line in lines if "no further round" in line]
    monkeypatch.setattr(MeasuringCoordinator, "failing", [])
    mended, _ = run(swept, storage)  # a trial that diverged once and ends now is finished as any other
    assert (mended.finished, mended.reused) == (2, 10)
    assert {row.diverged_at for row in rows(storage)} == {None}


def test_two_shells_propose_the_same_and_run_every_trial_once(storage: Path, swept: PreparedSweep) -> None:
    (storage / "gate").unlink()
    outcomes: list[Outcome] = []
    shells = [threading.Thread(target=lambda: outcomes.append(run(swept, storage)[0]), daemon=True) for _ in range(2)]
    shells[0].start()
    wait_for(lambda: (storage / "ran").exists(), "the first shell runs a trial", 60)
    shells[1].start()
    (storage / "gate").touch()
    for shell in shells:
        shell.join(120)
    assert sorted(outcome.finished + outcome.reused for outcome in outcomes) == [12, 12]
    assert sum(outcome.finished for outcome in outcomes) == 12
    ran = (storage / "ran").read_text().splitlines()
    assert len(ran) == len(set(ran)) == 12 == len(listed(storage))
