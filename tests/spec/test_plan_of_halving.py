"""What a plan makes of trials that compete at rungs; they have points after 5, 20, 40 and 60 steps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dft_sweeps.spec.costs import known_costs
from dft_sweeps.spec.load import Sweep, load_sweep
from dft_sweeps.spec.makespan import Evaluation, TrialTimes
from dft_sweeps.spec.models import CostSpec
from dft_sweeps.spec.plan import ClusterFacts, Plan, Rest, make_plan
from dft_sweeps.spec.rungs import Competition, reaching
from dft_sweeps.spec.scheduler_models import AshaScheduler
from tests.spec.example import write
from tests.spec.test_plan import SPEEDS, facts_of, plan_of


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return load_sweep(write(tmp_path_factory.mktemp("example")))


NO_STARTS = CostSpec(**SPEEDS | {"start_s": 0.0, "trial_start_s": 0.0})


def halved(
    sweep: Sweep,
    factor: float = 3.0,
    done: dict[str, int] | None = None,
    cost: CostSpec = NO_STARTS,
    cpus: float = 4,
    rest: Rest | None = None,
    rungs: tuple[int, ...] = (5, 20),
) -> Plan:
    """Trials of a variant compete; `done`: training ids and the steps they were trained."""
    asha = AshaScheduler(kind="asha", rungs=rungs, reduction_factor=factor)
    groups = {trial.name: (str(trial.axes["variant"]),) for trial in sweep.trials}
    competition = Competition(asha, groups, done or {})
    execution, pool = sweep.spec.execution, sweep.spec.pool
    costs = known_costs({trial.name: trial.spec for trial in sweep.trials}, (), cost, execution, pool)
    given = (frozenset(done or {}), execution, pool, ClusterFacts(cpus, 0), costs)
    return make_plan(sweep.trials, facts_of(sweep), *given, rest, competition)


def test_what_halving_is_expected_to_train(sweep: Sweep) -> None:
    """4 trials of each variant: 1.25 + 0.2 are expected to be promoted at the first rung, and of these one."""
    plan, fifo = halved(sweep), plan_of(sweep, cost=NO_STARTS)
    per_group = reaching(4, AshaScheduler(kind="asha", rungs=(5, 20)))
    assert per_group == pytest.approx([4, 1.25, 1])
    first, second, last = (2 * count for count in per_group)
    assert [(reached.step, reached.trials) for reached in plan.reached] == [(5, first), (20, second), (60, last)]
    assert plan.total.trials == 8
    assert plan.total.tokens == round((first * 5 + second * 15 + last * 40) * 32 * 50)
    assert plan.total.completions == (first + second + last * 2 + 1) * 220  # 40 and 60 come after the rungs
    held = (first * 5 + second * 15 + last * 40) * 1.6
    assert plan.total.hours.cpus == pytest.approx((held + (plan.total.seconds or 0)) / 3600)
    assert plan.whole == fifo.total == fifo.whole and fifo.reached == ()
    assert [cell.tokens for cell in plan.cells] == [96_000] * 8
    assert [cell.times for cell in plan.cells] == [cell.times for cell in fifo.cells]


def test_every_promotion_starts_a_trial_anew(sweep: Sweep) -> None:
    slow = halved(
        sweep, cost=CostSpec(**SPEEDS | {"start_s": 0.0}), cpus=1
    )  # no room: the engine counts while it works
    starts = 10 * sum(reached.trials for reached in slow.reached)
    assert slow.total.hours.cpus == pytest.approx((halved(sweep, cpus=1).total.hours.cpus or 0) + starts / 3600)


def sums(plan: Plan, whole: bool = False) -> list[float]:
    total = plan.whole if whole else plan.total
    assert total.seconds is not None and total.hours.cpus is not None
    return [total.tokens, total.completions, total.evaluation_tokens, total.hours.cpus, total.seconds]


@settings(deadline=None, max_examples=50)
@given(
    factor=st.sampled_from([1.001, 1.2, 1.5, 2.0, 3.0, 4.0, 20.0]),
    rungs=st.lists(st.integers(1, 59), min_size=1, max_size=4, unique=True).map(sorted),
    cpus=st.integers(2, 10),
    to_propose=st.sampled_from([0, 8, 13]),
)
def test_halving_takes_more_than_the_first_rung_and_less_than_whole_trials(
    sweep: Sweep, factor: float, rungs: list[int], cpus: int, to_propose: int
) -> None:
    rest = Rest(to_propose, 8)
    plan = halved(sweep, factor, cpus=cpus, rest=rest, rungs=tuple(rungs))
    none_goes_on = [cell.times.in_parts([rungs[0] / 60, 1.0], [1.0, 0.0]) for cell in plan.cells]
    share = (8 + to_propose) / 8
    trained = share * sum(times.train or 0 for times in none_goes_on)
    held = trained + share * sum(times.evaluating or 0 for times in none_goes_on)
    least = [trained * 1000, 0, 0, held / 3600, trained / plan.concurrent_trials]
    for lower, expected, upper in zip(least, sums(plan), sums(plan, whole=True), strict=True):
        assert lower - 1e-6 <= expected <= upper + 1e-6
    assert sums(plan)[0] > least[0]
    assert plan.reached[0].trials == 8 + to_propose


def test_with_a_factor_near_1_halving_takes_as_much_as_whole_trials(sweep: Sweep) -> None:
    assert sums(halved(sweep, 1 + 1e-12)) == pytest.approx(sums(halved(sweep), whole=True))
    shares = [halved(sweep, factor, rest=Rest(800, 8)) for factor in (1.5, 1.1, 1.01, 1.0001)]
    of_whole = [sums(plan)[0] / sums(plan, whole=True)[0] for plan in shares]
    assert of_whole == sorted(of_whole) and of_whole[-1] > 0.985


def test_done_trials_are_out_of_the_total_and_compete(sweep: Sweep) -> None:
    """Those of the first variant are t-0 to t-3."""
    stopped = halved(sweep, done={"t-0": 5, "t-1": 5, "t-2": 5})
    assert [reached.trials for reached in stopped.reached] == pytest.approx([1 + 4, 1 + 1.25, 1 + 1])
    over = halved(sweep, done={"t-0": 5, "t-1": 5, "t-2": 5, "t-3": 60})
    assert [reached.trials for reached in over.reached] == pytest.approx([4, 1.25, 1])
    whole = halved(sweep, done={"t-0": 60, "t-1": 60, "t-2": 60})
    assert whole.reached[1].trials == pytest.approx(1.25 + 1.25 / 4)
    everything = halved(sweep, done={f"t-{index}": 60 for index in range(8)})
    assert everything.total == everything.whole and everything.total.trials == 0
    assert [reached.trials for reached in everything.reached] == [0, 0, 0]


def test_rounds_of_a_search_compete_with_those_before(sweep: Sweep) -> None:
    plan = halved(sweep, rest=Rest(16, 8))
    per_group = reaching(12, AshaScheduler(kind="asha", rungs=(5, 20)))
    assert plan.reached[0].trials == 24
    assert plan.reached[1].trials == pytest.approx(2 * per_group[1], rel=0.02)
    assert plan.total.trials == plan.whole.trials == 24
    one_round = halved(sweep, rest=Rest(16, 16))
    assert plan.total.seconds is not None and one_round.total.seconds is not None
    assert plan.total.seconds > one_round.total.seconds


def test_a_trial_in_parts() -> None:
    times = TrialTimes(10.0, 100.0, (Evaluation(0.1, 4.0), Evaluation(0.2, 4.0), Evaluation(1.0, 4.0)))
    assert times.in_parts([1.0], [1.0]) == times
    assert times.in_parts([0.1, 1.0], [1.0, 0.0]) == TrialTimes(10.0, 10.0, (Evaluation(1.0, 4.0),))
    half = times.in_parts([0.1, 1.0], [1.0, 0.5])
    assert (half.start, half.train) == (15.0, pytest.approx(55.0))
    assert [each.seconds for each in half.evaluations] == [4, 2, 2]
    assert [each.share for each in half.evaluations] == pytest.approx([10 / 55, 15 / 55, 1])
