"""The plan is arithmetic on what is known; these are the sums."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dft_sweeps.spec.costs import Measurement, engine_shape, known_costs, training_shape
from dft_sweeps.spec.load import Sweep, load_sweep
from dft_sweeps.spec.models import CostSpec, ExecutionSpec, PoolSpec
from dft_sweeps.spec.plan import ClusterFacts, Plan, Rest, TrialFacts, make_plan, placement
from tests.spec.example import edited, write


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load_sweep(write(tmp_path))


QUESTIONS = {"arithmetic_1": 50, "arithmetic_2": 5}
SPEEDS = {
    "train_tokens_per_second": 1000.0,
    "completion_tokens_per_second": 500.0,
    "tokens_per_completion": 20.0,
    "start_s": 30.0,
    "trial_start_s": 10.0,
    "workers_start_s": 0.0,
}
DECLARED = CostSpec(**SPEEDS)


def facts_of(sweep: Sweep, **changes: float) -> dict[str, TrialFacts]:
    """Facts of every trial: 100 samples of 50 tokens, 60 steps, 55 questions."""
    known = {"steps": 60, "samples": 100, "overlong": 0, "tokens_per_sample": 50.0, "questions": QUESTIONS} | changes
    return {trial.name: TrialFacts(f"t-{index}", **known) for index, trial in enumerate(sweep.trials)}  # type: ignore[arg-type]


def plan_of(
    sweep: Sweep,
    done: frozenset[str] = frozenset(),
    cpus: float = 4,
    cost: CostSpec = DECLARED,
    measured: tuple[Measurement, ...] = (),
    execution: ExecutionSpec | None = None,
    pool: PoolSpec | None = None,
    cluster: ClusterFacts | None = None,
    **changes: float,
) -> Plan:
    execution, pool = execution or sweep.spec.execution, pool or sweep.spec.pool
    costs = known_costs({trial.name: trial.spec for trial in sweep.trials}, measured, cost, execution, pool)
    facts = facts_of(sweep, **changes)
    return make_plan(sweep.trials, facts, done, execution, pool, cluster or ClusterFacts(cpus, 0), costs)


def test_what_a_trial_costs(sweep: Sweep) -> None:
    plan = plan_of(sweep, overlong=7)
    assert len(plan.cells) == 8
    cell = plan.cells[1]
    assert (cell.training_id, cell.name) == ("t-1", "noisy objective=sft learning_rate=1e-3")
    assert cell.axes == {"variant": "noisy", "train.objective.kind": "sft", "train.learning_rate": 1e-3}
    assert (cell.steps, cell.batch_size, cell.overlong) == (60, 32, 7)
    assert cell.tokens == 60 * 32 * 50
    assert cell.epochs == pytest.approx(60 * 32 / 100)
    assert cell.evaluated_steps == (0, 5, 20, 40, 60)
    assert cell.completions == 4 * 55 * 4  # step 0 is the base model's, and counted with the plan


def test_tokens_are_rounded_once(sweep: Sweep) -> None:
    assert plan_of(sweep, tokens_per_sample=33.3335, steps=3).cells[0].tokens == round(3 * 32 * 33.3335) == 3200


def test_every_sampling_costs_completions(tmp_path: Path) -> None:
    more = "max_new_tokens: 96}\n      greedy: {temperature: 0.0}"
    sweep = load_sweep(write(tmp_path, edited("max_new_tokens: 96}", more)))
    plan = plan_of(sweep)
    assert plan.base_completions == 55 * (4 + 1)
    assert plan.cells[0].completions == 4 * 55 * (4 + 1)


def test_the_base_model_is_evaluated_once_for_all_trials(sweep: Sweep) -> None:
    assert plan_of(sweep).base_completions == 55 * 4
    assert plan_of(sweep, steps=5).cells[0].completions == 55 * 4


def test_the_base_model_is_evaluated_on_whatever_any_trial_asks(sweep: Sweep) -> None:
    facts = facts_of(sweep)
    name = sweep.trials[2].name
    facts[name] = TrialFacts("t-2", 60, 100, 0, 50.0, questions={"arithmetic_1": 80})
    execution, pool = sweep.spec.execution, sweep.spec.pool
    costs = known_costs({trial.name: trial.spec for trial in sweep.trials}, (), CostSpec(), execution, pool)
    plan = make_plan(sweep.trials, facts, frozenset(), execution, pool, ClusterFacts(4, 0), costs)
    assert plan.base_completions == 80 * 4


def test_done_trials_are_left_out_of_what_is_to_run(sweep: Sweep) -> None:
    plan = plan_of(sweep, frozenset({"t-0", "t-5", "t-of-another-sweep"}))
    assert [cell.done for cell in plan.cells] == [True, False, False, False, False, True, False, False]
    assert [cell.training_id for cell in plan.to_run] == ["t-1", "t-2", "t-3", "t-4", "t-6", "t-7"]


def test_no_more_trials_at_a_time_than_there_are(sweep: Sweep) -> None:
    assert plan_of(sweep, cpus=4).concurrent_trials == 3
    assert plan_of(sweep, cpus=64).concurrent_trials == 8


def test_a_plan_that_does_not_fit_says_so(sweep: Sweep) -> None:
    plan = plan_of(sweep, cpus=1)
    assert plan.concurrent_trials == 0
    assert plan.missing.startswith("too few CPUs: the cluster has 1, and 2 are needed (engines: 1 x 1; ")
    assert len(plan.cells) == 8


@pytest.mark.parametrize(
    ("execution", "pool", "cluster", "expected"),
    [
        ({}, {}, (2, 0), 1),
        ({}, {}, (16, 0), 15),
        ({"workers": 2, "cpus_per_worker": 3}, {"replicas": 2, "cpus_per_engine": 2}, (16, 0), 2),
        ({"max_concurrent_trials": 3}, {}, (16, 0), 3),
        ({"max_concurrent_trials": 30}, {}, (16, 0), 15),
        ({"gpus_per_worker": 1}, {"gpus_per_engine": 1}, (16, 8), 7),
        ({"gpus_per_worker": 2, "workers": 2}, {"gpus_per_engine": 1, "replicas": 2}, (64, 8), 1),
        ({"gpus_per_worker": 1}, {}, (2, 8), 1),
        ({}, {"gpus_per_engine": 1}, (4, 1), 3),
    ],
)
def test_engines_come_first_and_trials_get_the_rest(
    execution: dict[str, int], pool: dict[str, int], cluster: tuple[float, float], expected: int
) -> None:
    assert placement(ExecutionSpec(**execution), PoolSpec(**pool), ClusterFacts(*cluster)) == (expected, "")


@pytest.mark.parametrize(
    ("execution", "pool", "cluster", "message"),
    [
        ({}, {"replicas": 4}, (4, 0), "CPUs: the cluster has 4, and 5 are needed (engines: 4 x 1; workers"),
        ({"workers": 4}, {}, (4, 0), "CPUs: the cluster has 4, and 5 are needed (engines: 1 x 1; workers of"),
        ({"gpus_per_worker": 1}, {"gpus_per_engine": 1}, (16, 1), "GPUs: the cluster has 1, and 2 are needed"),
        ({"gpus_per_worker": 1}, {}, (16, 0), "GPUs: the cluster has 0, and 1 are needed (engines: 1 x 0;"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(
    execution: dict[str, int], pool: dict[str, int], cluster: tuple[float, float], message: str
) -> None:
    trials, missing = placement(ExecutionSpec(**execution), PoolSpec(**pool), ClusterFacts(*cluster))
    assert trials == 0
    assert missing.startswith(f"too few {message}")


# --- times and costs: a trial trains 96,000 tokens; each of its 5 checkpoints is 220 completions of 20 tokens ---------

TRAIN_S, POINT_S = 96.0, 8.8


def test_what_declared_speeds_make_of_a_trial(sweep: Sweep) -> None:
    cell = plan_of(sweep).cells[0]
    assert cell.evaluation_tokens == 4 * 220 * 20
    assert cell.times.held == 10 + TRAIN_S
    assert cell.times.to_last_point == pytest.approx(10 + TRAIN_S + POINT_S)  # but for the last point it overlaps
    assert cell.hours.cpus == pytest.approx((10 + TRAIN_S + 4 * POINT_S) / 3600)
    assert cell.hours.gpus == 0


def test_the_wall_time_of_a_sweep(sweep: Sweep) -> None:
    """8 trials on 3 workers' room are three rounds; on one, eight."""
    three, one = plan_of(sweep, cpus=4), plan_of(sweep, cpus=2)
    assert three.total.seconds == pytest.approx(30 + 3 * (10 + TRAIN_S) + 2 * POINT_S)
    assert one.total.seconds == pytest.approx(30 + 8 * (10 + TRAIN_S) + POINT_S)
    held = 8 * (10 + TRAIN_S)
    assert one.total.hours.cpus == pytest.approx((held + one.total.seconds) / 3600)  # the engine is held all along
    assert one.total.evaluation_tokens == (8 * 4 + 1) * 220 * 20
    assert one.total.tokens == 8 * 96_000


def test_the_first_trials_wait_for_their_workers(sweep: Sweep) -> None:
    slow = plan_of(sweep, cost=CostSpec(**SPEEDS | {"workers_start_s": 100.0}))
    assert slow.total.seconds == pytest.approx(plan_of(sweep).total.seconds + 100)
    more = 3 * 100 + 100  # of three trials' workers, and of the engine that waits for them
    assert slow.total.hours.cpus == pytest.approx(plan_of(sweep).total.hours.cpus + more / 3600)


def test_slow_engines_make_the_sweep_wait_for_them(sweep: Sweep) -> None:
    cost = CostSpec(**SPEEDS | {"completion_tokens_per_second": 10.0})
    points, each = 8 * 4 + 1, 220 * 20 / 10
    assert plan_of(sweep, cost=cost).total.seconds == pytest.approx(30 + 10 + points * each)
    two = plan_of(sweep, cost=cost, cpus=5, pool=PoolSpec(replicas=2)).total.seconds
    assert two == pytest.approx(30 + 10 + 17 * each, rel=0.02)
    grown = plan_of(sweep, cost=cost, cpus=4, pool=PoolSpec(max_replicas=4)).total  # by one for each trial at a time
    trained = 30 + 3 * (10 + TRAIN_S)  # until when there is one engine, for the most part
    assert grown.seconds == pytest.approx(trained + (points * each - trained) / 4, rel=0.1)
    assert grown.hours.cpus == pytest.approx((8 * (10 + TRAIN_S) + points * each) / 3600)  # all of them at work


def test_done_trials_cost_nothing(sweep: Sweep) -> None:
    some = plan_of(sweep, frozenset({f"t-{index}" for index in range(1, 8)}), cpus=2)
    assert some.total.trials == 1
    assert some.total.seconds == pytest.approx(30 + 10 + TRAIN_S + POINT_S)
    nothing = plan_of(sweep, frozenset({f"t-{index}" for index in range(8)}), cost=CostSpec(price_per_gpu_hour=2.0))
    total = nothing.total
    assert (total.trials, total.tokens, total.completions, total.seconds, total.money) == (0, 0, 0, 0, 0)
    assert total.hours == (0, 0)


def test_gpu_hours_and_money(sweep: Sweep) -> None:
    cost = CostSpec(**SPEEDS, price_per_gpu_hour=3.0)
    execution = ExecutionSpec(workers=2, gpus_per_worker=4)
    pool = PoolSpec(gpus_per_engine=2, replicas=1)
    plan = plan_of(sweep, cost=cost, execution=execution, pool=pool, cluster=ClusterFacts(64, 16))
    cell = plan.cells[0]
    train = TRAIN_S / 2  # both workers train at the declared speed
    assert cell.hours.gpus == pytest.approx((8 * (10 + train) + 2 * 4 * POINT_S) / 3600)
    assert plan.concurrent_trials == 1
    assert plan.total.hours.gpus == pytest.approx((8 * 8 * (10 + train) + 2 * plan.total.seconds) / 3600)
    assert plan.total.money == pytest.approx(3 * plan.total.hours.gpus)


def test_what_is_not_known_stays_unknown(sweep: Sweep) -> None:
    plan = plan_of(sweep, cost=CostSpec(price_per_gpu_hour=1.0))
    assert plan.total.seconds is None
    assert plan.total.hours == (None, 0) and plan.total.money == 0  # no GPUs, however long it takes
    assert plan.cells[0].times.to_last_point is None
    assert plan.cells[0].evaluation_tokens == 4 * 220 * 96  # max_new_tokens, the most
    assert plan.lengths == ("at most",)
    half = plan_of(sweep, cost=CostSpec(train_tokens_per_second=1000.0), execution=ExecutionSpec(gpus_per_worker=1))
    assert half.cells[0].hours.gpus == pytest.approx((2 + TRAIN_S) / 3600)  # its engine takes no GPU
    assert half.cells[0].hours.cpus is None


def test_a_sweep_that_cannot_be_placed_has_no_wall_time(sweep: Sweep) -> None:
    plan = plan_of(sweep, cpus=1)
    assert plan.total.seconds is None
    assert plan.total.hours.cpus == pytest.approx((8 * (10 + TRAIN_S) + 33 * POINT_S) / 3600)


def measurement(sweep: Sweep, **changes: object) -> Measurement:
    """1,000 tokens trained in 2 s, 5 s of start, 600 tokens generated in 3 s, 12 tokens a completion."""
    known = {
        "training_shape": training_shape(sweep.trials[0].spec, sweep.spec.execution),
        "engine_shape": engine_shape(sweep.spec.pool),
        "objective": "sft",
        "workers_start_s": 0.5,
        "start_s": 5.0,
        "train_s": 2.0,
        "train_tokens": 1000,
        "evaluation_s": 3.0,
        "evaluation_tokens": 600,
        "lengths": {"arithmetic_1/96": [120, 10], "arithmetic_2/96": [120, 10]},
    }
    return Measurement.from_json(Measurement(**known | changes).to_json())  # type: ignore[arg-type]


def test_measured_speeds_go_before_declared_ones(sweep: Sweep) -> None:
    plan = plan_of(sweep, measured=(measurement(sweep),))
    assert {speed.origin for speed in plan.costs.trials.values()} == {"measured"}
    assert plan.costs.engine_origin == "measured" and plan.lengths == ("measured",)
    cell = plan.cells[0]
    assert cell.times.held == pytest.approx(5 + 96_000 / 500)
    assert cell.evaluation_tokens == 4 * 220 * 12
    assert cell.times.evaluating == pytest.approx(4 * 220 * 12 / 200)


def test_of_several_measurements_the_whole_counts(sweep: Sweep) -> None:
    fast = measurement(sweep, train_tokens=9000, train_s=8.0, start_s=7.0, workers_start_s=15.0)
    costs = plan_of(sweep, measured=(measurement(sweep), fast)).costs
    speed = costs.trials[sweep.trials[0].name]
    assert (speed.tokens_per_second, speed.start_s) == (1000.0, 6.0)
    assert costs.workers_start_s == 15.0  # the other's were up before


def test_a_trial_that_queued_for_hours_does_not_say_how_long_workers_take(sweep: Sweep) -> None:
    starts = (14.0, 16.0, 3 * 3600.0)  # the last waited for GPUs that others held
    measured = tuple(measurement(sweep, workers_start_s=seconds) for seconds in starts)
    assert plan_of(sweep, measured=measured).costs.workers_start_s == 16.0


def test_an_objective_is_measured_by_itself_where_it_was(sweep: Sweep) -> None:
    slow = measurement(sweep, objective="dft", train_tokens=500)
    costs = plan_of(sweep, measured=(measurement(sweep), slow)).costs
    rates = {trial.spec.train.objective.kind: costs.trials[trial.name].tokens_per_second for trial in sweep.trials}
    assert rates == {"sft": 500.0, "dft": 250.0}


@pytest.mark.parametrize("changes", [{"cpus_per_worker": 2}, {"micro_batch_tokens": 64}, {"workers": 2}])
def test_another_execution_is_not_measured_by_this_one(sweep: Sweep, changes: dict[str, int]) -> None:
    plan = plan_of(sweep, measured=(measurement(sweep),), cpus=16, execution=ExecutionSpec(**changes))
    assert {speed.origin for speed in plan.costs.trials.values()} == {"declared"}
    assert plan.costs.engine_origin == "measured"


def test_what_changes_no_speed_is_measured_by_any(sweep: Sweep) -> None:
    execution, pool = ExecutionSpec(save_every_s=5, max_concurrent_trials=1), PoolSpec(replicas=2, max_model_len=512)
    plan = plan_of(sweep, measured=(measurement(sweep),), cpus=16, execution=execution, pool=pool)
    assert {speed.origin for speed in plan.costs.trials.values()} == {"measured"}
    assert plan.costs.engine_origin == "measured"
    assert plan_of(sweep, measured=(measurement(sweep),), pool=PoolSpec(dtype="bfloat16")).costs.engine_origin == (
        "declared"
    )


COUNT = st.integers(1, 8)


@given(workers=COUNT, cpus=COUNT, replicas=COUNT, engine=COUNT, gpus=st.integers(0, 2), has=st.integers(0, 200))
def test_what_is_placed_fits_and_one_more_would_not(
    workers: int, cpus: int, replicas: int, engine: int, gpus: int, has: int
) -> None:
    execution = ExecutionSpec(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
    pool = PoolSpec(replicas=replicas, cpus_per_engine=engine, gpus_per_engine=gpus)
    trials, missing = placement(execution, pool, ClusterFacts(has, has))

    def fits(count: int) -> bool:
        return replicas * engine + count * workers * cpus <= has and gpus * (replicas + count * workers) <= has

    assert fits(trials) or trials == 0
    assert not fits(trials + 1)
    assert bool(missing) == (trials == 0)


@pytest.mark.parametrize(
    ("every", "steps", "last", "due"),
    [
        (None, (), 60, (0, 60)),
        (20, (), 60, (0, 20, 40, 60)),
        (25, (), 60, (0, 25, 50, 60)),
        (100, (), 60, (0, 60)),
        (None, (5, 1), 60, (0, 1, 5, 60)),
        (30, (30, 60, 0), 60, (0, 30, 60)),
        (1, (), 3, (0, 1, 2, 3)),
    ],
)
def test_steps_to_evaluate(
    every: int | None, steps: tuple[int, ...], last: int, due: tuple[int, ...], sweep: Sweep
) -> None:
    evaluation = sweep.trials[0].spec.evaluation.model_copy(update={"every": every, "steps": steps})
    assert evaluation.due(last) == due


def test_what_is_to_be_proposed_costs_as_much_as_what_is_known_and_comes_after_it(sweep: Sweep) -> None:
    costs = known_costs({t.name: t.spec for t in sweep.trials}, (), DECLARED, sweep.spec.execution, sweep.spec.pool)
    given = (sweep.spec.execution, sweep.spec.pool, ClusterFacts(4, 0), costs)
    known = make_plan(sweep.trials, facts_of(sweep), frozenset(), *given)
    more = make_plan(sweep.trials, facts_of(sweep), frozenset(), *given, Rest(16, 8))
    assert (more.total.trials, more.to_propose, len(more.cells)) == (24, 16, 8)
    assert more.total.tokens == 3 * known.total.tokens
    assert more.total.completions - more.base_completions == 3 * (known.total.completions - known.base_completions)
    assert known.total.seconds and more.total.seconds
    rounds = 3 * (known.total.seconds - costs.start_s) - 2 * costs.workers_start_s
    assert more.total.seconds == pytest.approx(costs.start_s + rounds, rel=0.1)  # but for the base model's evaluation
    done = make_plan(
        sweep.trials, facts_of(sweep), frozenset(cell.training_id for cell in known.cells), *given, Rest(16, 8)
    )
    assert (done.total.trials, done.total.tokens) == (16, 2 * known.total.tokens)
