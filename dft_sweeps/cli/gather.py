"""Gathers the facts that a plan needs from the outside: what is done already, what was measured, what a cluster has."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Collection

from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.proposals import recorded
from dft_sweeps.spec.costs import known_costs
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.placement import ClusterFacts
from dft_sweeps.spec.plan import Plan, Rest, make_plan
from dft_sweeps.spec.reckoning import Hours
from dft_sweeps.spec.rungs import Competition, group_of
from dft_sweeps.spec.scheduler_models import AshaScheduler
from dft_sweeps.spec.searches import round_of


def known_points(tracking_uri: str, prepared: PreparedSweep) -> PreparedSweep:
    """The sweep with the points of its search that MLflow holds; as it is where there is no database."""
    from dft_sweeps.tracking.reader import Reader

    try:
        reader = Reader(tracking_uri)
    except SpecError:
        return prepared
    return recorded(prepared, reader)


def finished(tracking_uri: str, prepared: PreparedSweep) -> frozenset[str]:
    """Training ids that MLflow knows as finished with every point of this sweep; none where there is no database."""
    from dft_sweeps.tracking.reader import Reader

    try:
        reader = Reader(tracking_uri)
    except SpecError:
        return frozenset()
    ids = [trial.training_id for trial in prepared.trials]
    return frozenset(reader.finished_trials(ids, prepared.measures, prepared.sweep_id))


def this_machine() -> ClusterFacts:
    """What a cluster started on this machine would have."""
    import torch

    gpus = torch.cuda.device_count()
    devices = [f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"]
    devices += [torch.cuda.get_device_name(index) for index in range(gpus)]
    return ClusterFacts(len(os.sched_getaffinity(0)), gpus, devices=tuple(devices))


def cluster_at(address: str | None) -> ClusterFacts:
    """What the Ray cluster at an address has, or this machine. Starts nothing there; Ray is not imported yet.

    Raises:
        ClusterUnavailable: nothing answers there.
    """
    if address is None:
        return this_machine()
    from dft_sweeps.orchestration.cluster import cluster, set_environment

    set_environment(address)
    with cluster(address) as facts:
        return facts


def plan_of(
    prepared: PreparedSweep,
    done: frozenset[str],
    cluster: ClusterFacts,
    tracking_uri: str | None = None,
    known_only: bool = False,
) -> Plan:
    """Args: `done`: training ids that need not run; `tracking_uri`: where runs may have measured speeds, if anywhere;
    `known_only`: leave out what a search has still to propose.

    What runs of the same model on such machines measured goes before what the spec declares. Where trials compete at
    rungs, those that need not run do so as far as they were trained.
    """
    from dft_sweeps.tracking.measurements import measurements

    spec = prepared.sweep.spec
    found = measurements(tracking_uri, prepared.model.weights_digest, cluster.devices) if tracking_uri else []
    trials = {trial.trial.name: trial.trial.spec for trial in prepared.trials}
    costs = known_costs(trials, found, spec.cost, spec.execution, spec.pool)
    facts = {trial.trial.name: trial.facts for trial in prepared.trials}
    rest = Rest(0 if known_only else prepared.sweep.to_propose, round_of(spec.search) * len(prepared.arms))
    competition = _competition(prepared, done, tracking_uri)
    return make_plan(prepared.sweep.trials, facts, done, spec.execution, spec.pool, cluster, costs, rest, competition)


def _competition(prepared: PreparedSweep, done: frozenset[str], tracking_uri: str | None) -> Competition | None:
    """How the sweep's trials compete, and how far those that need not run were trained; None where none is stopped."""
    from dft_sweeps.tracking.reader import Reader

    spec = prepared.sweep.spec
    if not isinstance(spec.scheduler, AshaScheduler):
        return None
    trained: dict[str, int] = {}
    if tracking_uri and done:
        with contextlib.suppress(SpecError):  # no database yet
            trained = Reader(tracking_uri).trained_steps(done, prepared.measures)
    groups = {trial.name: group_of(spec, trial) for trial in prepared.sweep.trials}
    return Competition(spec.scheduler, groups, trained)


def refuse_unaffordable(
    prepared: PreparedSweep,
    tracking_uri: str,
    cluster: ClusterFacts,
    used: Hours,
    only: Collection[str] | None = None,
    fresh: bool = False,
) -> None:
    """Refuses what is to run of a sweep if its plan exceeds the budget that is left.

    Args:
        used: by earlier attempts.
        only: training ids of the trials wanted; all if this is None.
        fresh: run finished ones again.

    Raises:
        SpecError: names the budget's line.
    """
    from dft_sweeps.orchestration.spending import refuse_over_budget

    if prepared.sweep.spec.budget is None:
        return
    all_ = {trial.training_id for trial in prepared.trials}
    done = (all_ - set(all_ if only is None else only)) | (set() if fresh else finished(tracking_uri, prepared))
    plan = plan_of(prepared, frozenset(done), cluster, tracking_uri, known_only=only is not None)
    refuse_over_budget(prepared, plan, used)
