"""The plan of a sweep: what each trial costs and which are done, as a pure function of trials and facts.

Outer layers gather the facts (token counts, what MLflow holds, what the cluster has); nothing here looks anything up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dft_sweeps.spec.costs import Costs
from dft_sweeps.spec.expand import Trial
from dft_sweeps.spec.makespan import TrialTimes
from dft_sweeps.spec.models import ExecutionSpec, PoolSpec
from dft_sweeps.spec.placement import ClusterFacts, Resources, placement
from dft_sweeps.spec.presets import Preset
from dft_sweeps.spec.reckoning import Generated, Hours, Reckoner
from dft_sweeps.spec.rungs import Competition, reaching

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
    """One trial of the plan. What it costs is what it would cost from its start to its end, whether or not it is done
    and however far a scheduler lets it train."""

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
    generated: Mapping[int, Generated]
    """By evaluated step, but for step 0."""
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
    """What is left to do of a sweep, in all; with a scheduler that stops trials, as expected."""

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


class Reached(NamedTuple):
    step: int | None
    """A rung or the last step; None for that where trials differ in it."""
    trials: float
    """That are expected to train so far, of those of the total."""


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
    whole: Total
    """Were every trial trained to its end; the total itself where no scheduler stops any."""
    reached: tuple[Reached, ...]
    """For each rung, and for the end; empty without rungs."""
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
    competition: Competition | None = None,
) -> Plan:
    """Args: `facts` by trial name; `done` holds the training ids that are finished; `cluster` is all it ever has;
    `competition`: where trials compete at rungs."""
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
    rounds = [each for each in rounds if each]
    total = whole = _total([[_whole(cell) for cell in each] for each in rounds], shared, concurrent, reckoner)
    reached: tuple[Reached, ...] = ()
    if competition is not None:
        halved, counts = _halved(rounds, cells, competition)
        total = _total(halved, shared, concurrent, reckoner)
        [last, *others] = {cell.steps for cell in cells}
        steps = (*competition.scheduler.rungs, None if others else last)
        reached = tuple(map(Reached, steps, counts))
    lengths = tuple(sorted(asked))
    return Plan(cells, concurrent, missing, shared.completions, total, whole, reached, costs, lengths, rest.trials)


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
        generated=by_step,
        completions=sum(each.completions for each in by_step.values()),
        evaluation_tokens=round(sum(each.tokens for each in by_step.values())),
        times=times,
        hours=reckoner.hours(times),
        done=done,
    )


class _Expected(NamedTuple):
    """What one trial adds to the total."""

    tokens: float
    completions: float
    evaluation_tokens: float
    times: TrialTimes
    """On the average, from which hours follow."""
    course: TrialTimes
    """One that it may take, from which the wall time follows."""


def _whole(cell: Cell) -> _Expected:
    return _Expected(cell.tokens, cell.completions, cell.evaluation_tokens, cell.times, cell.times)


def _halved(
    rounds: Sequence[Sequence[Cell]], cells: Sequence[Cell], competition: Competition
) -> tuple[list[list[_Expected]], list[float]]:
    """What halving makes of rounds of trials, each of which competes with those before it and with those that are done;
    and how many of them are expected to reach each rung, and the end."""
    parts = len(competition.scheduler.rungs) + 1
    before: defaultdict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0] * parts)
    for cell in cells:
        if cell.done:
            reached = competition.reached_by(competition.trained.get(cell.training_id, 0))
            before[competition.groups[cell.name]] = _sums(before[competition.groups[cell.name]], reached)
    halved: list[list[_Expected]] = []
    counts = [0.0] * parts
    for of_round in rounds:
        groups = [competition.groups[cell.name] for cell in of_round]
        left = Counter(groups)
        expected = {
            group: reaching(trials, competition.scheduler, before[group]) for group, trials in Counter(groups).items()
        }
        halved.append([])
        for cell, group in zip(of_round, groups, strict=True):
            # In the wall time those that go on are the last ones, whole trials; how many, rounded.
            goes = [float(left[group] <= round(trials)) for trials in expected[group]]
            halved[-1].append(_part(cell, competition, [each / groups.count(group) for each in expected[group]], goes))
            left[group] -= 1
        for group, trials in expected.items():
            before[group], counts = _sums(before[group], trials), _sums(counts, trials)
    return halved, counts


def _sums(some: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one + other for one, other in zip(some, others, strict=True)]


def _part(cell: Cell, competition: Competition, reached: Sequence[float], goes: Sequence[float]) -> _Expected:
    """Args: `reached`: the probability that the trial trains to each rung, and to its end; `goes`: 1 or 0 for each."""
    ends = [*competition.scheduler.rungs, cell.steps]
    shares = [end / cell.steps for end in ends]
    weights = {step: reached[bisect_left(ends, step)] for step in cell.generated}
    taken = zip(shares, [0.0, *shares], reached, strict=False)
    return _Expected(
        tokens=cell.tokens * sum((end - start) * probability for end, start, probability in taken),
        completions=sum(weights[step] * each.completions for step, each in cell.generated.items()),
        evaluation_tokens=sum(weights[step] * each.tokens for step, each in cell.generated.items()),
        times=cell.times.in_parts(shares, reached),
        course=cell.times.in_parts(shares, goes),
    )


def _total(rounds: Sequence[Sequence[_Expected]], base: Generated, concurrent: int, reckoner: Reckoner) -> Total:
    """Of the trials that are not done, each round of which waits for the one before. The base model's evaluation comes
    with the first of them."""
    if not rounds:
        return Total(0, 0, 0, 0, Hours(0.0, 0.0), 0.0, reckoner.money(0.0))
    todo = [each for of_round in rounds for each in of_round]
    courses = [[each.course for each in of_round] for of_round in rounds]
    courses[0][0] = reckoner.with_base(courses[0][0], base)
    seconds = reckoner.seconds(courses, concurrent)
    times = [reckoner.with_base(todo[0].times, base), *(each.times for each in todo[1:])]
    hours = reckoner.total_hours(times, seconds, concurrent)
    return Total(
        trials=len(todo),
        tokens=round(sum(each.tokens for each in todo)),
        completions=base.completions + round(sum(each.completions for each in todo)),
        evaluation_tokens=round(base.tokens) + round(sum(each.evaluation_tokens for each in todo)),
        hours=hours,
        seconds=seconds,
        money=reckoner.money(hours.gpus),
    )
