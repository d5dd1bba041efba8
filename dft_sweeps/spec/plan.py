"""The plan of a sweep: what each trial costs and which are done, as a pure function of trials and facts.

Outer layers gather the facts (token counts, what MLflow holds, what the cluster has); nothing here looks anything up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dft_sweeps.spec.expand import Trial
from dft_sweeps.spec.models import ExecutionSpec, PoolSpec
from dft_sweeps.spec.presets import Preset


@dataclass(frozen=True)
class TrialFacts:
    """What is known of a trial once its model, data and benchmarks were read."""

    training_id: str
    steps: int
    samples: int
    """Samples to train on."""
    overlong: int
    """Samples longer than `data.max_length`: left out, or cut off there."""
    tokens_per_sample: float
    questions: int
    """Questions of all benchmarks together."""
    dropped: int = 0
    """Overlong samples that were left out."""
    instruction: str = ""
    """What is appended to every training prompt."""
    prompted_otherwise: tuple[str, ...] = ()
    """Benchmarks that append something else to their questions than the training prompts end with."""
    template: str = "chat"
    """Of the training prompts."""
    templated_otherwise: bool = False
    """Whether questions are written under another template than the training prompts."""


@dataclass(frozen=True)
class ClusterFacts:
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cell:
    """One trial of the plan."""

    training_id: str
    name: str
    axes: dict[str, Any]
    batch_size: int
    steps: int
    tokens: int
    """Tokens it trains on."""
    epochs: float
    overlong: int
    dropped: int
    preset: Preset
    evaluated_steps: tuple[int, ...]
    completions: int
    """Completions generated to evaluate it, at most; step 0 is shared by all trials and counted once, in the plan's
    total."""
    done: bool


@dataclass(frozen=True)
class Plan:
    cells: tuple[Cell, ...]
    concurrent_trials: int
    """Trials at a time; 0 when the cluster cannot hold the engines and one trial."""
    missing: str
    """Which resource the cluster lacks; empty when the sweep fits."""
    base_completions: int
    """Completions generated to evaluate the base model, once for the sweep."""

    @property
    def to_run(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if not cell.done)


def make_plan(
    trials: Sequence[Trial],
    facts: Mapping[str, TrialFacts],
    done: frozenset[str],
    execution: ExecutionSpec,
    pool: PoolSpec,
    cluster: ClusterFacts,
) -> Plan:
    """Args: `facts` by trial name; `done` holds the training ids that are finished; `cluster` is all it ever has."""
    cells = tuple(_cell(trial, facts[trial.name], done) for trial in trials)
    concurrent, missing = placement(execution, pool, cluster)
    base = max(_completions(trial, facts[trial.name], 0) for trial in trials)
    return Plan(cells, min(concurrent, len(trials)), missing, base)


def _completions(trial: Trial, facts: TrialFacts, step: int) -> int:
    """Completions of the weights of a step; the most, where sampling is adaptive."""
    evaluation = trial.spec.evaluation
    samples = (evaluation.sampling_at(name, step, facts.steps).samples for name in evaluation.samplings)
    return facts.questions * sum(samples)


def _cell(trial: Trial, facts: TrialFacts, done: frozenset[str]) -> Cell:
    train = trial.spec.train
    samples = facts.steps * train.batch_size
    evaluated = trial.spec.evaluation.due(facts.steps)
    return Cell(
        training_id=facts.training_id,
        name=trial.name,
        axes=trial.axes,
        batch_size=train.batch_size,
        steps=facts.steps,
        tokens=round(samples * facts.tokens_per_sample),
        epochs=samples / facts.samples,
        overlong=facts.overlong,
        dropped=facts.dropped,
        preset=trial.preset,
        evaluated_steps=evaluated,
        completions=sum(_completions(trial, facts, step) for step in evaluated if step),
        done=facts.training_id in done,
    )


def placement(execution: ExecutionSpec, pool: PoolSpec, cluster: ClusterFacts) -> tuple[int, str]:
    """How many trials run at a time beside the engines, and what is missing if that is none.

    Engines come first: a checkpoint that waits for an engine holds its trial's curve back for ever.
    """
    counts = []
    for kind, has, per_engine, per_worker in (
        ("CPU", cluster.cpus, pool.cpus_per_engine, execution.cpus_per_worker),
        ("GPU", cluster.gpus, pool.gpus_per_engine, execution.gpus_per_worker),
    ):
        engines, trial = pool.replicas * per_engine, execution.workers * per_worker
        if engines + trial > has:
            return 0, (
                f"too few {kind}s: the cluster has {has:g}, and {engines + trial} are needed "
                f"(engines: {pool.replicas} x {per_engine}; workers of one trial: {execution.workers} x {per_worker})"
            )
        if trial:
            counts.append(int((has - engines) // trial))
    limit = execution.max_concurrent_trials
    return min([*counts, *([limit] if limit else [])]), ""
