"""What a trial generates, how long it takes and what it holds: the sums of a plan, from speeds that may be unknown.

What depends on an unknown speed is None, and so is every sum with it in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from dft_sweeps.spec.costs import Costs
from dft_sweeps.spec.makespan import NO_GROWTH, Evaluation, Growth, TrialTimes, makespan, total
from dft_sweeps.spec.models import EvaluationSpec, ExecutionSpec, PoolSpec
from dft_sweeps.spec.placement import Resources, engine_bundle, worker_bundle


class Evaluated(Protocol):
    """What is known of a trial (`dft_sweeps.spec.plan.TrialFacts`)."""

    @property
    def steps(self) -> int: ...

    @property
    def questions(self) -> Mapping[str, int]: ...


class Generated(NamedTuple):
    """To evaluate one checkpoint; the most, where sampling is adaptive."""

    completions: int
    tokens: float


class Hours(NamedTuple):
    """CPU cores and GPUs held, times hours; None where it depends on a speed that is not known."""

    cpus: float | None
    gpus: float | None


NOTHING = Hours(0.0, 0.0)


@dataclass(frozen=True)
class Reckoner:
    execution: ExecutionSpec
    pool: PoolSpec
    costs: Costs

    def generated(self, evaluation: EvaluationSpec, facts: Evaluated, step: int) -> Generated:
        completions, tokens = 0, 0.0
        for name in evaluation.samplings:
            sampling = evaluation.sampling_at(name, step, facts.steps)
            for benchmark, questions in facts.questions.items():
                completions += questions * sampling.samples
                tokens += questions * sampling.samples * self.costs.length(benchmark, sampling.max_new_tokens)[0]
        return Generated(completions, tokens)

    def times(self, name: str, tokens: int, evaluations: Mapping[float, float]) -> TrialTimes:
        """Args: `evaluations`: tokens to generate by the share of the training that is over before."""
        speed = self.costs.trials[name]
        train = None if speed.tokens_per_second is None else tokens / speed.tokens_per_second
        points = (Evaluation(share, self._engine_seconds(generated)) for share, generated in evaluations.items())
        return TrialTimes(speed.start_s, train, tuple(points))

    def with_base(self, times: TrialTimes, base: Generated) -> TrialTimes:
        """The same with the evaluation of the base model, at its start."""
        first = Evaluation(0.0, self._engine_seconds(base.tokens))
        return replace(times, evaluations=(first, *times.evaluations))

    def _engine_seconds(self, tokens: float) -> float | None:
        rate = self.costs.completion_tokens_per_second
        return None if rate is None else tokens / rate

    def seconds(self, rounds: Sequence[Sequence[TrialTimes]], concurrent: int) -> float | None:
        """Wall time of rounds of trials, one after the other, from the command on; None where they cannot be placed."""
        if not concurrent:
            return None
        starts = [self.costs.workers_start_s, *[0.0] * (len(rounds) - 1)]
        spans = [
            makespan(trials, concurrent, self.pool.replicas, start, self._growth)
            for trials, start in zip(rounds, starts, strict=True)
        ]
        return total([self.costs.start_s, *spans])

    @property
    def _growth(self) -> Growth:
        """In the places of trials that have ended: what else the cluster has free is not known here."""
        if self.pool.max_replicas is None:
            return NO_GROWTH
        worker = worker_bundle(self.execution)
        trial = Resources(self.execution.workers * worker.cpus, self.execution.workers * worker.gpus)
        return Growth(trial.times(engine_bundle(self.pool)), self.pool.max_replicas - self.pool.replicas)

    def hours(self, trial: TrialTimes) -> Hours:
        """Of one trial and the engine that evaluates it."""
        return self._hours(trial.held, trial.evaluating)

    def total_hours(self, trials: Sequence[TrialTimes], seconds: float | None, concurrent: int) -> Hours:
        """Of these trials, and of the engines that are always up for `seconds`; where there may be further ones and
        that is more, or the wall time is not known, of engines while they evaluate."""
        starts = self.costs.workers_start_s * min(max(1, concurrent), len(trials))
        held = total([starts, *(trial.held for trial in trials)])
        evaluating = total(trial.evaluating for trial in trials)
        if seconds is None:
            return self._hours(held, evaluating)
        engines = self.pool.replicas * seconds
        return self._hours(held, max(engines, evaluating or 0.0) if self.pool.max_replicas else engines)

    def _hours(self, held: float | None, engines: float | None) -> Hours:
        bundles = zip(worker_bundle(self.execution), engine_bundle(self.pool), strict=True)
        cpus, gpus = (
            total(
                amount * seconds if amount and seconds is not None else None if amount else 0.0
                for amount, seconds in ((self.execution.workers * worker, held), (engine, engines))
            )
            for worker, engine in bundles
        )
        return Hours(*(None if each is None else each / 3600 for each in (cpus, gpus)))

    def money(self, gpu_hours: float | None) -> float | None:
        price = self.costs.price_per_gpu_hour
        return None if price is None or gpu_hours is None else price * gpu_hours
