"""`dft-sweeps plan` of a sweep under successive halving, and the budget that its plan is held against."""

from __future__ import annotations

from pathlib import Path

import pytest

from dft_sweeps.cli.gather import finished, plan_of
from dft_sweeps.cli.plan import plan_record
from dft_sweeps.cli.plan_printing import print_plan
from dft_sweeps.orchestration.prepare import PreparedSweep, prepare
from dft_sweeps.orchestration.spending import refuse_over_budget
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.spec.placement import ClusterFacts
from dft_sweeps.spec.plan import Plan
from dft_sweeps.tracking import names
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import MetricRow, Tracker

SPEC = Path(__file__).parent.parent.parent / "sweep_specs" / "asha_quickstart.yaml"
CLUSTER = ClusterFacts(3, 0)


@pytest.fixture(scope="module")
def halved() -> PreparedSweep:
    return prepare(load_sweep(SPEC))


@pytest.fixture(scope="module")
def plan(halved: PreparedSweep) -> Plan:
    return plan_of(halved, frozenset(), CLUSTER)


def test_the_total_is_the_expected_one_beside_that_of_whole_trials(halved: PreparedSweep, plan: Plan) -> None:
    """6 trials of each objective: 2.2 and 1 of them are expected to go on."""
    found = plan_record(halved, plan)
    assert [each["step"] for each in found["expected_to_reach"]] == [6, 18, 54]
    reached = [each["trials"] for each in found["expected_to_reach"]]
    assert reached == pytest.approx([12, 2 * 2.2167, 2], rel=1e-3)
    total, whole = found["total"], found["total_if_none_is_stopped"]
    assert total.keys() == whole.keys()
    assert total["trials"] == whole["trials"] == 12
    assert whole["tokens"] == sum(trial["tokens"] for trial in found["trials"])
    steps = reached[0] * 6 + reached[1] * 12 + reached[2] * 36
    assert total["tokens"] == pytest.approx(whole["tokens"] * steps / (12 * 54), rel=1e-4)
    assert total["completions"] == pytest.approx((sum(reached) + 1) * found["base_completions"], abs=1)
    assert total["seconds"] < 0.75 * whole["seconds"] and total["cpu_hours"] < 0.75 * whole["cpu_hours"]


def test_it_is_said_how_many_trials_train_how_far(
    halved: PreparedSweep, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan(halved, plan)
    words = " ".join(capsys.readouterr().out.split())
    assert "successive halving: 12 trials train to step 6, about 4 to step 18, about 2 to step 54. " in words
    assert f"Every trial to its end, as in the rows above, would be {plan.whole.tokens:,} training tokens, " in words
    assert f"12 of 12 trials to run, {plan.total.tokens:,} training tokens, " in words


def test_a_budget_is_held_against_what_is_expected(halved: PreparedSweep, plan: Plan) -> None:
    expected, whole = plan.total.hours.cpus, plan.whole.hours.cpus
    assert expected is not None and whole is not None and 1.02 * expected < whole

    def refuse(cpu_hours: float) -> None:
        swept = prepare(load_sweep(SPEC, [f"budget={{cpu_hours: {cpu_hours}}}"]))
        refuse_over_budget(swept, plan)

    refuse(1.01 * expected)
    with pytest.raises(SpecError) as caught:
        refuse(0.5 * expected)
    assert (
        f"the plan needs {expected:.3g} CPU-hours for 12 trials, as far as halving is expected to train them; the "
        f"budget is {0.5 * expected:.3g}. About 6 of them would fit, or all with cpu_hours: {1.01 * expected:.3g}"
    ) in str(caught.value)


def test_trials_that_were_stopped_are_done_and_compete(halved: PreparedSweep, plan: Plan, tmp_path: Path) -> None:
    """Of the six trials with SFT, four were stopped at the first rung: the two others are sure to go on."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert plan_of(halved, finished(uri, halved), CLUSTER, uri) == plan  # there is no database
    tracker = Tracker(uri, str(tmp_path / "artifacts"))
    parent = tracker.open_sweep("asha-quickstart", halved.sweep_id, SPEC.read_text(), [], halved.measures)
    for trial in halved.trials[:4]:
        run = tracker.open_trial(parent, trial.training_id, trial.trial.name, {}, {})
        tracker.log(run, [MetricRow(names.train_metric("nll"), step, 1.0, step) for step in range(1, 7)])
        tracker.tag(run, {names.STOPPED_AT_TAG: "6"})
        tracker.finish(run, "FINISHED")
    assert len(Reader(uri).finished_trials([each.training_id for each in halved.trials], halved.measures)) == 0
    after = plan_of(halved, finished(uri, halved), CLUSTER, uri)
    assert [cell.done for cell in after.cells] == [True] * 4 + [False] * 8
    assert [each.trials for each in after.reached] == pytest.approx([8, 2 + 2.2167, 2], rel=1e-3)
