"""What a scheduler with rungs asks of a sweep's trials, checkpoints to judge them by and a step beyond every rung, and
how many of them it is expected to train how far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from dft_sweeps.spec.document import Document
from dft_sweeps.spec.models import EvaluationSpec, SweepSpec, TrialSpec
from dft_sweeps.spec.scheduler_models import AshaScheduler, Scheduler
from dft_sweeps.spec.schema import nearest

if TYPE_CHECKING:
    from dft_sweeps.spec.expand import Trial

_RECKONED = 1000
"""Trials at a rung up to which promotions are reckoned. The share promoted of more is that of so many: somewhat too
large, with a factor of 3 by less than 5%."""


def rungs_of(scheduler: Scheduler) -> tuple[int, ...]:
    return scheduler.rungs if isinstance(scheduler, AshaScheduler) else ()


def with_rungs(trial: TrialSpec, scheduler: Scheduler) -> TrialSpec:
    """The trial with every rung among its evaluated steps. Those that are there already are not named again, so that
    its points mean what they mean in a sweep without rungs."""
    evaluation = trial.evaluation
    named = {*evaluation.steps, *evaluation.key_steps}
    every = evaluation.every
    missing = [rung for rung in rungs_of(scheduler) if rung not in named and not (every and rung % every == 0)]
    if not missing:
        return trial
    wanted = evaluation.model_copy(update={"steps": (*evaluation.steps, *missing)})
    return trial.model_copy(update={"evaluation": wanted})


def deciding_sampling(scheduler: AshaScheduler, evaluation: EvaluationSpec) -> str:
    """The name of the sampling that verdicts go by."""
    return scheduler.sampling or next(iter(evaluation.samplings))


def group_of(spec: SweepSpec, trial: Trial) -> tuple[str, ...]:
    """What a trial competes in: the values of the axes that are apart. Where a search is on and none is named, its arm,
    for arms are to be compared at their best."""
    if not isinstance(spec.scheduler, AshaScheduler):
        return ()
    if spec.scheduler.apart:
        return tuple(str(trial.axes.get(path, "")) for path in spec.scheduler.apart)
    return () if spec.search.kind == "grid" else trial.arm


def check_scheduler(spec: SweepSpec, document: Document, trials: Sequence[Trial]) -> None:
    """What can be said of a scheduler before the trials' data is read.

    Raises:
        SpecError: a sampling that there is not, or something apart that is no axis.
    """
    if not isinstance(spec.scheduler, AshaScheduler):
        return
    scheduler, samplings = spec.scheduler, trials[0].spec.evaluation.samplings
    if scheduler.sampling is not None and scheduler.sampling not in samplings:
        raise document.error(
            ("scheduler", "sampling"), f"no sampling {scheduler.sampling!r}; {nearest(scheduler.sampling, samplings)}"
        )
    axes = {path for trial in trials for path in trial.axes if path not in trial.point}
    for index, path in enumerate(scheduler.apart):
        if path not in axes:
            known = f"; its axes are {', '.join(sorted(axes))}" if axes else ", for it has none"
            raise document.error(("scheduler", "apart", index), f"{path!r} is no axis of the sweep{known}")


def check_rungs(spec: SweepSpec, document: Document, trial: Trial, steps: int) -> None:
    """Refuses a rung that a trial of so many steps does not pass.

    Raises:
        SpecError: at the rung.
    """
    for index, rung in enumerate(rungs_of(spec.scheduler)):
        if rung >= steps:
            message = f"the rung {rung} is not below the last step, which is {steps} in the trial {trial.name!r}"
            raise document.error(("scheduler", "rungs", index), message)


@dataclass(frozen=True)
class Competition:
    """What is known of a sweep whose trials compete at rungs."""

    scheduler: AshaScheduler
    groups: Mapping[str, tuple[str, ...]]
    """By name of the trial: `group_of`."""
    trained: Mapping[str, int]
    """By training id: optimizer steps of the trials that are done."""

    def reached_by(self, trained: int) -> list[int]:
        """1 for each rung that a trial of so many steps was measured at, and for the end; 0 for the others."""
        rungs = self.scheduler.rungs
        return [int(trained >= rungs[0]), *(int(trained > rung) for rung in rungs)]


def reaching(trials: float, scheduler: AshaScheduler, before: Sequence[float] = ()) -> list[float]:
    """How many trials of a group are expected to train to each rung, and to the end.

    Args:
        before: how many others of the group did; none by default. Trials compete with them as their equals. Where those
            that went on are few for so many, as in a sweep that was broken off, the trials make up for it.
    """
    before = before or [0.0] * (len(scheduler.rungs) + 1)
    counts = [float(trials)]
    for here, went_on in pairwise(before):
        measured = counts[-1] + here
        promoted = _promoted(measured, scheduler.reduction_factor)
        equals = promoted * counts[-1] / measured if measured else 0.0
        counts.append(min(counts[-1], max(equals, promoted - went_on)))
    return counts


@lru_cache(maxsize=32)
def promotions(factor: float) -> tuple[float, ...]:
    """Expected promotions at a rung, by the number of trials measured there: from 0 on.

    Exact where trials are measured one by one, in an order that tells nothing of their accuracy, and are promoted as
    soon as they are among the best `1 / factor` of those before: some are that would not be among the best of all, so
    that it is more than that share. Where several are measured before any is promoted, it is a little less.
    """
    expected, best = [0.0], 0
    beyond: list[float] = []  # probability that the trial of rank best + 1, best + 2, ... was promoted
    for measured in range(1, _RECKONED + 1):
        # The newest is of any rank alike; those below it were one rank higher before.
        before, ranks = best, [1.0, *beyond, 0.0]  # from rank `before` on
        best = int(measured / factor + 1e-9)
        beyond = [
            ((rank - 1) * ranks[rank - 1 - before] + (measured - rank) * ranks[rank - before]) / measured
            for rank in range(best + 1, before + len(ranks))
        ]
        expected.append(max(1.0, best + sum(beyond)))
    return tuple(expected)


def _promoted(measured: float, factor: float) -> float:
    """Expected promotions at a rung where so many are measured on the average."""
    known = promotions(factor)
    if measured >= _RECKONED:
        return known[-1] * measured / _RECKONED
    low = int(measured)
    return known[low] + (measured - low) * (known[low + 1] - known[low])
