"""Budgets: what is refused beforehand, what is counted while a sweep runs, and what a sweep leaves that was stopped."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from dft_sweeps.cli.gather import plan_of
from dft_sweeps.orchestration import accounts
from dft_sweeps.orchestration.accounts import Accounts
from dft_sweeps.orchestration.spending import RECORD_EVERY_S, Spending, refuse_over_budget
from dft_sweeps.orchestration.trial_runs import TrialRuns
from dft_sweeps.orchestration.trial_state import TrialState
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import BudgetSpec, CostSpec, ExecutionSpec, PoolSpec, SweepSpec
from dft_sweeps.spec.placement import ClusterFacts
from dft_sweeps.spec.reckoning import NOTHING, Hours
from dft_sweeps.tracking.background import Background
from dft_sweeps.tracking.measurements import used_hours
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.store import TrackingUnavailable
from dft_sweeps.tracking.writer import Tracker
from tests.orchestration.file_sweep import SPEC, prepared, write_files
from tests.orchestration.real_trials import saved_step, sweep

SPEEDS = """\
cost:
  train_tokens_per_second: 1
  completion_tokens_per_second: 1
  tokens_per_completion: 10
  start_s: 0
  trial_start_s: 0
  workers_start_s: 0
"""
TWO_TRIALS = ClusterFacts(3, 0)


def refused(directory: Path, budget: str, used: Hours = NOTHING, done: int = 0, more: str = SPEEDS) -> str:
    """The refusal of a sweep of two trials of 3 checkpoints each, as after the directory's name; empty for none."""
    swept = prepared(write_files(directory), SPEC + more + f"budget: {{{budget}}}\n")
    ids = frozenset(trial.training_id for trial in swept.trials[:done])
    try:
        refuse_over_budget(swept, plan_of(swept, ids, TWO_TRIALS), used)
    except SpecError as error:
        return str(error).removeprefix(f"{directory}/")
    return ""


def test_a_plan_over_its_budget_is_refused(directory: Path) -> None:
    """Each trial trains for T seconds; 3 checkpoints each and the base model are 350 tokens on one engine."""
    cells = plan_of(prepared(directory, SPEC + SPEEDS), frozenset(), TWO_TRIALS)
    needed = cells.total.hours.cpus
    assert needed is not None
    train = cells.cells[0].tokens
    assert needed == pytest.approx((2 * train + cells.total.seconds) / 3600)
    assert refused(directory, f"cpu_hours: {needed * 1.001}") == ""
    assert refused(directory, f"cpu_hours: {needed / 2 * 1.01}") == (
        f"files.yaml:30: budget.cpu_hours: the plan needs {needed:.3g} CPU-hours for 2 trials; the budget is "
        f"{needed / 2 * 1.01:.3g}. About 1 of them would fit, or all with cpu_hours: {1.01 * needed:.3g}"
    )


def test_what_earlier_attempts_used_is_gone(directory: Path) -> None:
    assert refused(directory, "cpu_hours: 1") == ""
    used = Hours(0.9, 0.0)
    message = refused(directory, "cpu_hours: 1", used)
    assert ", and 0.9 CPU-hours are used already; the budget is 1. About 0 of them" in message
    assert refused(directory, "cpu_hours: 1", used, done=2) == ""
    assert refused(directory, "cpu_hours: 100", used) == ""


def test_without_gpus_no_gpu_hours_and_no_money_are_needed(directory: Path) -> None:
    priced = SPEEDS + "  price_per_gpu_hour: 1000\n"
    assert refused(directory, "gpu_hours: 1e-6, money: 1e-6", more=priced) == ""


def test_gpus_cost_money(directory: Path) -> None:
    gpus = SPEC + SPEEDS + "  price_per_gpu_hour: 2\nexecution: {gpus_per_worker: 1}\n"
    swept = prepared(directory, gpus + "budget: {money: 0.01}\n")
    plan = plan_of(swept, frozenset(), ClusterFacts(8, 2))
    assert plan.total.money == pytest.approx(2 * plan.total.tokens / 3600)
    with pytest.raises(SpecError, match=r"budget\.money: the plan needs [0-9.]+ for 2 trials; the budget is 0\.01\."):
        refuse_over_budget(swept, plan)


def test_what_is_unknown_is_not_refused(directory: Path) -> None:
    assert refused(directory, "cpu_hours: 1e-6", more="") == ""


def test_cost_and_budget_are_in_no_id(directory: Path) -> None:
    plain, priced = (
        prepared(directory, SPEC + more) for more in ("", SPEEDS + "  price_per_gpu_hour: 2\nbudget: {money: 5}\n")
    )
    assert priced.sweep.spec.budget == BudgetSpec(money=5)
    assert (plain.sweep_id, plain.measures) == (priced.sweep_id, priced.measures)
    assert [trial.training_id for trial in plain.trials] == [trial.training_id for trial in priced.trials]


# --- while it runs ----------------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def spending(clock: Clock, before: Hours = NOTHING, **budget: float) -> Spending:
    """Trials of 2 workers with 3 CPUs and 4 GPUs each, 2 engines with 5 CPUs and 1 GPU each, 10 per GPU-hour."""
    spec = SweepSpec(
        name="x",
        trial={},
        execution=ExecutionSpec(workers=2, cpus_per_worker=3, gpus_per_worker=4),
        pool=PoolSpec(replicas=2, cpus_per_engine=5, gpus_per_engine=1),
        cost=CostSpec(price_per_gpu_hour=10.0),
        budget=BudgetSpec(**budget),
    )
    return Spending(spec, before, clock)


def test_what_is_held_is_counted() -> None:
    clock = Clock()
    count = spending(clock, Hours(1.0, 2.0), gpu_hours=1000)
    clock.now += 3600  # both engines, no trial
    assert count.used == pytest.approx((1 + 10, 2 + 2))
    count.holds(trials=3, engines=2)
    clock.now += 1800
    assert count.used == pytest.approx((11 + (18 + 10) / 2, 4 + (24 + 2) / 2))
    count.holds(trials=0, engines=1)
    assert count.used == pytest.approx((25, 17))
    clock.now += 3600
    assert count.used == pytest.approx((30, 18))


@pytest.mark.parametrize(
    ("budget", "field", "most", "hours"),
    [
        ({"gpu_hours": 13}, "gpu_hours", "13", 0.5),
        ({"cpu_hours": 28, "gpu_hours": 100}, "cpu_hours", "28", 1.0),
        ({"money": 65, "gpu_hours": 100}, "money", "65", 0.25),
    ],
)
def test_a_budget_is_used_up(budget: dict[str, float], field: str, most: str, hours: float) -> None:
    clock = Clock()
    count = spending(clock, **budget)
    count.holds(trials=3, engines=2)  # 28 CPUs and 26 GPUs
    clock.now += 3600 * hours * 0.999
    assert count.exhausted == ""
    clock.now += 3600 * hours * 0.002
    assert count.exhausted.startswith(f"the budget is used up: {field} {most}, used {most}")
    assert count.exhausted.endswith(f"run it again with a larger budget.{field} to go on")


def test_it_is_written_down_now_and_then() -> None:
    clock = Clock()
    count = spending(clock, gpu_hours=1)
    seen = []
    for _ in range(100):
        clock.now += 1
        seen.append(count.to_record())
    assert [index + 1 for index, due in enumerate(seen) if due] == [RECORD_EVERY_S * time for time in (1, 2, 3)]


@pytest.mark.parametrize(("waiting", "leased", "engines"), [(1, 0, 1), (2, 1, 2), (1, 3, 3), (5, 4, 4)])
def test_engines_are_held_while_checkpoints_wait_or_they_help(
    directory: Path, monkeypatch: pytest.MonkeyPatch, waiting: int, leased: int, engines: int
) -> None:
    clock, runs = Clock(), process(directory)
    monkeypatch.setattr(accounts, "Spending", partial(Spending, clock=clock))
    swept = prepared(directory, SPEC, "pool.max_replicas=4", "pool.cpus_per_engine=3")
    runs.begin()
    account = Accounts(swept, runs, lambda *said: None)
    evaluating = TrialState(swept.trials[0], trained=True, outstanding=dict.fromkeys(range(waiting), "weights"))
    for _ in range(2):
        assert account.afford([evaluating], leased)
        clock.now += 3600
    account.close()
    runs.flush()
    assert process(directory).used.cpus == pytest.approx(2 * 3 * engines)


# --- of several processes ---------------------------------------------------------------------------------------------


def process(directory: Path) -> TrialRuns:
    """One that runs the sweep of `SPEC`."""
    swept, uri = prepared(directory), f"sqlite:///{directory}/mlflow.db"
    tracker = Background(Tracker(uri, str(directory / "artifacts")), directory / "spool", print, patience_s=0.5)
    return TrialRuns(tracker, Reader(uri), swept, partial(used_hours, uri, swept.sweep_id))


def test_what_processes_use_beside_each_other_and_leave_unsent_is_one_sum(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*given: object) -> None:
        raise TrackingUnavailable("no answer")

    first, second = process(directory), process(directory)
    for runs in (first, second):
        runs.begin()
    first.record_hours(Hours(3.0, 1.0))
    first.flush()
    second.refresh()  # as when it takes the trials that it waited for
    assert second.used == Hours(3.0, 1.0)
    second.record_hours(Hours(4.5, 1.5))  # all in all, of which 1.5 and 0.5 are its own
    second.flush()
    first.record_hours(Hours(3.5, 1.25))
    first.flush()
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "tag", unavailable)
        second.record_hours(Hours(5.5, 2.0))
        with pytest.raises(TrackingUnavailable, match="rows wait in"):
            second.flush()
    third = process(directory)
    assert third.used == Hours(6.0, 2.25)
    third.begin()
    third.record_hours(Hours(7.0, 2.5))
    third.flush()
    assert process(directory).used == Hours(7.0, 2.5)


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_that_has_used_its_budget_stops_and_goes_on_with_a_larger_one(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock leaps by an hour once there is a state to go on from; an engine and a trial are 2 CPUs."""
    storage = tmp_path / "storage"
    longer = ("trial.train.steps=300", "trial.evaluation.every=100")

    def clock() -> float:
        return time.monotonic() + 3600 * (saved_step(storage) >= 5)

    with monkeypatch.context() as patch:
        patch.setattr(accounts, "Spending", partial(Spending, clock=clock))
        stopped = sweep(storage, *longer, "budget.cpu_hours=1.5")
    reason = "the budget is used up: cpu_hours 1.5, used 2"
    assert [(name, text[: len(reason)]) for name, text in stopped.outcome.failed.items()] == [("trial", reason)]
    assert sum(f"sweep: {reason}" in line for line in stopped.lines) == 1
    [trial] = stopped.trials
    assert trial.status == "KILLED"
    assert stopped.reader.find_sweep(stopped.prepared.sweep_id).status == "FAILED"
    used = used_hours(f"sqlite:///{storage}/mlflow.db", stopped.prepared.sweep_id)
    assert 1.9 < used.cpus < 2.5 and used.gpus == 0
    assert saved_step(storage) >= 5

    again = sweep(storage, *longer, "budget.cpu_hours=1.5")  # what was used counts: it trains no step
    assert again.outcome.failed and "first step" not in again.text

    ended = sweep(storage, *longer, "budget.cpu_hours=4")
    assert (ended.outcome.finished, ended.outcome.failed) == (1, {})
    assert "resumed at step" in ended.text
    assert [step for step, _ in ended.curves()["train/nll"]] == list(range(1, 301))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_files(tmp_path)
