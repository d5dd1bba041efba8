"""Placement on nodes of different sizes: what the sums allow but no node does is named."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dft_sweeps.spec.models import ExecutionSpec, PoolSpec
from dft_sweeps.spec.placement import ClusterFacts, Resources, placement


def cluster(*nodes: tuple[float, float]) -> ClusterFacts:
    found = tuple(Resources(*node) for node in nodes)
    return ClusterFacts(sum(node.cpus for node in found), sum(node.gpus for node in found), found)


@pytest.mark.parametrize(
    ("execution", "pool", "nodes", "expected"),
    [
        ({}, {}, [(1, 0), (1, 0)], 1),
        ({"cpus_per_worker": 2}, {}, [(2, 0), (1, 0), (2, 0)], 2),
        ({"cpus_per_worker": 2}, {}, [(3, 0), (2, 0)], 2),  # the engine lies where it costs no worker
        ({"workers": 2, "cpus_per_worker": 4}, {"cpus_per_engine": 4}, [(8, 0), (8, 0), (8, 0)], 2),  # over nodes
        ({"gpus_per_worker": 1}, {"gpus_per_engine": 1}, [(8, 4), (8, 4), (16, 0)], 7),
        ({"gpus_per_worker": 4}, {"gpus_per_engine": 1}, [(8, 4), (8, 1)], 1),
        ({"gpus_per_worker": 1}, {}, [(8, 2), (64, 0)], 2),
    ],
)
def test_each_bundle_lies_on_one_node(
    execution: dict[str, int], pool: dict[str, int], nodes: list[tuple[float, float]], expected: int
) -> None:
    assert placement(ExecutionSpec(**execution), PoolSpec(**pool), cluster(*nodes)) == (expected, "")


@pytest.mark.parametrize(
    ("execution", "pool", "nodes", "message"),
    [
        ({"cpus_per_worker": 4}, {}, [(3, 0), (3, 0)],
         "too few CPUs on every node: one worker needs 4, and the largest node has 3"),
        ({}, {"gpus_per_engine": 4}, [(8, 2), (8, 2)],
         "too few GPUs on every node: one engine needs 4, and the largest node has 2"),
        ({"cpus_per_worker": 8, "gpus_per_worker": 1}, {}, [(4, 4), (64, 0)],
         "no node has 8 CPUs and 1 GPU together, which one worker needs; the nodes have 4 CPUs 4 GPUs, 64 CPUs 0 GPUs"),
        ({"workers": 3, "cpus_per_worker": 2}, {"replicas": 2}, [(3, 0), (3, 0), (3, 0)], ""),
        ({"workers": 2, "cpus_per_worker": 4}, {}, [(7, 0), (3, 0)],
         "the nodes' CPUs and GPUs are enough in sum, but on single nodes only 1 of 2 workers of one trial "
         "(4 CPUs each) find room; left there: 7 CPUs 0 GPUs, 2 CPUs 0 GPUs"),
        ({}, {"cpus_per_engine": 4, "replicas": 2}, [(6, 0), (3, 0)],
         "the nodes' CPUs and GPUs are enough in sum, but on single nodes only 1 of 2 engines (4 CPUs each) find room; "
         "left there: 2 CPUs 0 GPUs, 3 CPUs 0 GPUs"),
        ({"workers": 4, "cpus_per_worker": 4}, {}, [(4, 0), (4, 0)],
         "too few CPUs: the cluster has 8, and 17 are needed (engines: 1 x 1; workers of one trial: 4 x 4)"),
    ],
)  # fmt: skip
def test_what_no_node_can_hold_is_named(
    execution: dict[str, int], pool: dict[str, int], nodes: list[tuple[float, float]], message: str
) -> None:
    trials, missing = placement(ExecutionSpec(**execution), PoolSpec(**pool), cluster(*nodes))
    assert missing == message
    assert trials == (0 if message else 1)


SIZE = st.integers(1, 4)


@settings(max_examples=150, deadline=None)
@given(
    nodes=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=3),
    worker=SIZE, engine=SIZE, gpus=st.integers(0, 2), engine_gpus=st.integers(0, 1), replicas=st.integers(1, 3),
)  # fmt: skip
def test_no_more_workers_than_any_way_of_placing_engines_allows(
    nodes: list[tuple[int, int]], worker: int, engine: int, gpus: int, engine_gpus: int, replicas: int
) -> None:
    execution = ExecutionSpec(cpus_per_worker=worker, gpus_per_worker=gpus)
    pool = PoolSpec(replicas=replicas, cpus_per_engine=engine, gpus_per_engine=engine_gpus)
    trials, missing = placement(execution, pool, cluster(*nodes))
    best = 0
    for where in itertools.product(range(len(nodes)), repeat=replicas):
        left = [Resources(*node) for node in nodes]
        for index in where:
            left[index] = left[index].less(Resources(engine, engine_gpus))
        if all(node.cpus >= 0 and node.gpus >= 0 for node in left):
            best = max(best, sum(node.times(Resources(worker, gpus)) for node in left))
    assert trials <= best
    assert bool(missing) == (trials == 0)
    if replicas == 1:
        assert trials == best


@pytest.mark.parametrize(("drivers", "trials"), [(None, 7), (9, 7), (3, 3), (1, 1), (0, 0)])
def test_no_more_trials_than_memory_holds_drivers(drivers: int | None, trials: int) -> None:
    facts = ClusterFacts(8, 0, drivers=drivers)
    found, missing = placement(ExecutionSpec(), PoolSpec(), facts)
    assert found == trials
    assert missing == (
        "" if trials else "too little memory on every node for a trial's driver and the processes beside it"
    )
