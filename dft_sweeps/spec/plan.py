"""The plan of a sweep: what each trial costs and which are done, as a pure function of trials and facts.

Outer layers gather the facts (token counts, what MLflow holds, what the cluster has); nothing here looks anything up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dft_sweeps.spec.costs import Costs
from dft_sweeps.spec.expand import Trial
from dft_sweeps.spec.makespan import TrialTimes
from dft_sweeps.spec.models import ExecutionSpec, PoolSpec
from dft_sweeps.spec.placement import ClusterFacts, Resources, placement
from dft_sweeps.spec.presets import Preset
from dft_sweeps.spec.reckoning import Generated, Hours, Reckoner

__all__ = ["Cell", "ClusterFacts", "Plan", "Resources", "Total", "TrialFacts", "make_plan", "placement"]


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
    questions: Mapping[str, int]
    """Questions of each benchmark."""
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
class Cell:
    """One trial of the plan. What it costs is what it would cost from its start, whether or not it is done."""

    training_id: str
    name: str
    axes: dict[str, Any]
    batch_size: int
    """Samples of an optimizer step, over all workers and micro-batches."""
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
    evaluation_tokens: int
    """Tokens of these completions, as expected (`Costs.length`)."""
    times: TrialTimes
    hours: Hours
    """Of its workers while it holds them, and of an engine while it evaluates its checkpoints."""
    done: bool


@dataclass(frozen=True)
class Rest:
    """Trials that a search has still to propose; they are reckoned as those it has, in turn, so that they cost the same
    on average."""

    trials: int = 0
    at_a_time: int = 0
    """Each so many are proposed once all before them have ended."""


@dataclass(frozen=True)
class Total:
    """What is left to do of a sweep, in all."""

    trials: int
    tokens: int
    completions: int
    evaluation_tokens: int
    hours: Hours
    """With engines that wait for checkpoints; where the sweep cannot be placed, without."""
    seconds: float | None
    """Wall time, from the command to the last point; None where a speed is not known or it cannot be placed."""
    money: float | None
    """None without a price."""


@dataclass(frozen=True)
class Plan:
    cells: tuple[Cell, ...]
    concurrent_trials: int
    """Trials at a time; 0 when the cluster cannot hold the engines and one trial."""
    missing: str
    """Which resource the cluster lacks; empty when the sweep fits."""
    base_completions: int
    """Completions generated to evaluate the base model, once for the sweep."""
    total: Total
    costs: Costs
    lengths: tuple[str, ...]
    """Where the lengths of completions are known from (`Costs.length`)."""
    to_propose: int = 0
    """Trials of the total that are no cells yet."""

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
    costs: Costs,
    rest: Rest | None = None,
) -> Plan:
    """Args: `facts` by trial name; `done` holds the training ids that are finished; `cluster` is all it ever has."""
    rest = rest or Rest()
    reckoner = Reckoner(execution, pool, costs)
    cells = tuple(_cell(trial, facts[trial.name], reckoner, facts[trial.name].training_id in done) for trial in trials)
    concurrent, missing = placement(execution, pool, cluster)
    concurrent = min(concurrent, rest.at_a_time or len(trials))
    base = [reckoner.generated(trial.spec.evaluation, facts[trial.name], 0) for trial in trials]
    shared = Generated(max(each.completions for each in base), max(each.tokens for each in base))
    asked = {
        reckoner.costs.length(name, sampling.max_new_tokens)[1]
        for name in facts[trials[0].name].questions
        for sampling in trials[0].spec.evaluation.samplings.values()
    }
    rounds = [[cell for cell in cells if not cell.done], *_rounds(cells, rest)]
    total = _total([each for each in rounds if each], shared, concurrent, reckoner)
    return Plan(cells, concurrent, missing, shared.completions, total, costs, tuple(sorted(asked)), rest.trials)


def _rounds(cells: Sequence[Cell], rest: Rest) -> list[list[Cell]]:
    """What stands for the trials that are to be proposed."""
    alike = [cells[number % len(cells)] for number in range(rest.trials)]
    return [alike[start : start + rest.at_a_time] for start in range(0, rest.trials, rest.at_a_time or 1)]


def _cell(trial: Trial, facts: TrialFacts, reckoner: Reckoner, done: bool) -> Cell:
    train = trial.spec.train
    evaluated = trial.spec.evaluation.due(facts.steps)
    by_step = {step: reckoner.generated(trial.spec.evaluation, facts, step) for step in evaluated if step}
    tokens = round(facts.steps * train.batch_size * facts.tokens_per_sample)
    times = reckoner.times(trial.name, tokens, {step / facts.steps: each.tokens for step, each in by_step.items()})
    return Cell(
        training_id=facts.training_id,
        name=trial.name,
        axes=trial.axes,
        batch_size=train.batch_size,
        steps=facts.steps,
        tokens=tokens,
        epochs=facts.steps * train.batch_size / facts.samples,
        overlong=facts.overlong,
        dropped=facts.dropped,
        preset=trial.preset,
        evaluated_steps=evaluated,
        completions=sum(each.completions for each in by_step.values()),
        evaluation_tokens=round(sum(each.tokens for each in by_step.values())),
        times=times,
        hours=reckoner.hours(times),
        done=done,
    )


def _total(rounds: Sequence[Sequence[Cell]], base: Generated, concurrent: int, reckoner: Reckoner) -> Total:
    """Of the trials that are not done, each round of which waits for the one before. The base model's evaluation comes
    with the first of them."""
    if not rounds:
        return Total(0, 0, 0, 0, Hours(0.0, 0.0), 0.0, reckoner.money(0.0))
    todo = [cell for cells in rounds for cell in cells]
    times = [[cell.times for cell in cells] for cells in rounds]
    times[0][0] = reckoner.with_base(times[0][0], base)
    seconds = reckoner.seconds(times, concurrent)
    hours = reckoner.total_hours([each for of_round in times for each in of_round], seconds, concurrent)
    return Total(
        trials=len(todo),
        tokens=sum(cell.tokens for cell in todo),
        completions=base.completions + sum(cell.completions for cell in todo),
        evaluation_tokens=round(base.tokens) + sum(cell.evaluation_tokens for cell in todo),
        hours=hours,
        seconds=seconds,
        money=reckoner.money(hours.gpus),
    )
