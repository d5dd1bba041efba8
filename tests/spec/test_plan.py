"""The plan is arithmetic on what is known; these are the sums."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dft_sweeps.spec.load import Sweep, load_sweep
from dft_sweeps.spec.models import ExecutionSpec, PoolSpec
from dft_sweeps.spec.plan import ClusterFacts, Plan, TrialFacts, make_plan, placement
from tests.spec.example import edited, write


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load_sweep(write(tmp_path))


def facts_of(sweep: Sweep, **changes: float) -> dict[str, TrialFacts]:
    """Facts of every trial: 100 samples of 50 tokens, 60 steps, 55 questions."""
    known = {"steps": 60, "samples": 100, "overlong": 0, "tokens_per_sample": 50.0, "questions": 55} | changes
    return {trial.name: TrialFacts(f"t-{index}", **known) for index, trial in enumerate(sweep.trials)}  # type: ignore[arg-type]


def plan_of(sweep: Sweep, done: frozenset[str] = frozenset(), cpus: float = 4, **changes: float) -> Plan:
    facts = facts_of(sweep, **changes)
    return make_plan(sweep.trials, facts, done, sweep.spec.execution, sweep.spec.pool, ClusterFacts(cpus, 0))


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
    facts[name] = TrialFacts("t-2", 60, 100, 0, 50.0, questions=80)
    plan = make_plan(sweep.trials, facts, frozenset(), sweep.spec.execution, sweep.spec.pool, ClusterFacts(4, 0))
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
