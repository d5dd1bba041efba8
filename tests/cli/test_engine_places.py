"""Room for trials where engines have come to lie, which need not be where a plan would have them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dft_sweeps.cli.engine_places import left, trials_beside
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.spec.placement import ClusterFacts, Resources, placement
from tests.end_to_end.running import SPEC

NODES = {"a": Resources(4, 0), "b": Resources(4, 0)}
SPREAD = [("own", "a"), ("own", "b")]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The engines that are up, on a cluster of two nodes."""
    engines: list[tuple[str, str]] = []
    monkeypatch.setattr("services.pool.engine_nodes", lambda: engines)
    monkeypatch.setattr("dft_sweeps.orchestration.cluster.nodes_by_id", lambda: NODES)
    monkeypatch.setattr("dft_sweeps.orchestration.cluster.cluster_facts", lambda: ClusterFacts(8, 0))
    return engines


def beside(cpus_per_worker: int, said: list[str], fewest: int = 2) -> int:
    """Of a sweep with two engines, planned by their best places."""
    from services.pool import Pool

    overrides = [
        f"execution.cpus_per_worker={cpus_per_worker}", "execution.max_concurrent_trials=8",
        "pool.replicas=2", "pool.cpus_per_engine=1",
    ]  # fmt: skip
    sweep: Any = load_sweep(SPEC, overrides)
    planned, missing = placement(sweep.spec.execution, sweep.spec.pool, ClusterFacts(8, 0, tuple(NODES.values())))
    assert not missing
    prepared: Any = SimpleNamespace(sweep=sweep)
    return trials_beside(prepared, Pool("own", 2, fewest), planned, said.append)


def test_engines_where_the_plan_has_them_leave_what_it_says(found: list[tuple[str, str]]) -> None:
    said: list[str] = []
    found += [("own", "b"), ("own", "b")]
    assert (beside(4, said), beside(2, said), said) == (1, 3, [])


def test_engines_on_two_nodes_leave_fewer_trials_room(found: list[tuple[str, str]]) -> None:
    said: list[str] = []
    found += SPREAD
    assert beside(2, said) == 2
    assert said == ["where the engines lie now there is room for 2 of 3 trials at a time"]


def test_engines_that_leave_no_trial_room_are_refused_at_once(found: list[tuple[str, str]]) -> None:
    found += SPREAD
    with pytest.raises(SpecError) as refused:
        beside(4, [])
    assert "only 0 of 1 workers of one trial (4 CPUs each) find room; left there: 3 CPUs 0 GPUs, 3 CPUs 0 GPUs" in str(
        refused.value
    )
    assert "fewer or larger engines (pool.replicas, pool.cpus_per_engine), or smaller workers" in str(refused.value)


def test_where_engines_may_yet_go_it_is_a_warning(found: list[tuple[str, str]]) -> None:
    """A pool that has grown beyond the fewest engines, with which it shrinks again."""
    said: list[str] = []
    found += SPREAD
    assert beside(4, said, fewest=1) == 1
    [line] = said
    assert line.startswith("WARNING: where the engines lie now there is room for 0 of 1 trials at a time")


def test_engines_of_sweeps_that_end_are_not_counted_and_warm_ones_are() -> None:
    engines = [("own", "a"), ("warm-1x2c0g-0123456789abcdef", "b"), ("evaluation-s-1", "b"), ("own", "gone")]
    assert left(NODES, engines, "own", Resources(1, 0)) == [Resources(3, 0), Resources(2, 0)]
