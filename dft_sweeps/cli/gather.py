"""Gathers the facts that a plan needs from the outside: what is done already, and what a cluster has."""

from __future__ import annotations

import os

from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.plan import ClusterFacts, Plan, make_plan


def finished(tracking_uri: str, prepared: PreparedSweep) -> frozenset[str]:
    """Training ids that MLflow knows as finished with every point of this sweep; none where there is no database."""
    from dft_sweeps.tracking.reader import Reader

    try:
        reader = Reader(tracking_uri)
    except SpecError:
        return frozenset()
    return frozenset(reader.finished_trials((trial.training_id for trial in prepared.trials), prepared.measures))


def this_machine() -> ClusterFacts:
    """What a cluster started on this machine would have."""
    import torch

    return ClusterFacts(len(os.sched_getaffinity(0)), torch.cuda.device_count())


def plan_of(prepared: PreparedSweep, done: frozenset[str], cluster: ClusterFacts) -> Plan:
    facts = {trial.trial.name: trial.facts for trial in prepared.trials}
    spec = prepared.sweep.spec
    return make_plan(prepared.sweep.trials, facts, done, spec.execution, spec.pool, cluster)
