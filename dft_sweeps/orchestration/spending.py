"""A sweep's budget: refused beforehand where the plan exceeds it, and kept count of while the sweep runs.

The count is of what is held: the CPU cores and GPUs of the trials that train and of the engines, busy or waiting.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.spec.models import ExecutionSpec, PoolSpec, SweepSpec
from dft_sweeps.spec.placement import engine_bundle, worker_bundle
from dft_sweeps.spec.plan import Plan
from dft_sweeps.spec.reckoning import NOTHING, Hours

RECORD_EVERY_S = 30.0
"""How often what was used is written down: so much a coordinator that is killed forgets."""


@dataclass(frozen=True)
class Limit:
    """One line of a budget."""

    field: str
    unit: str
    most: float
    used: float | None
    """By earlier attempts and this one, or by earlier ones and the plan; None where it is not known."""

    @property
    def exceeded(self) -> bool:
        return self.used is not None and self.used > self.most


def limits(spec: SweepSpec, used: Hours) -> Iterator[Limit]:
    """The lines of a spec's budget, beside what is used."""
    if spec.budget is None:
        return
    price = spec.cost.price_per_gpu_hour
    money = None if price is None or used.gpus is None else price * used.gpus
    for field, unit, amount in (
        ("gpu_hours", " GPU-hours", used.gpus),
        ("cpu_hours", " CPU-hours", used.cpus),
        ("money", "", money),
    ):
        most = getattr(spec.budget, field)
        if most is not None:
            yield Limit(field, unit, most, amount)


def refuse_over_budget(prepared: PreparedSweep, plan: Plan, before: Hours = NOTHING) -> None:
    """Refuses a sweep that the plan says exceeds its budget. Where a speed is unknown nothing can be said beforehand;
    the budget is then only enforced while the sweep runs.

    Args:
        before: what earlier attempts at the sweep have used.

    Raises:
        SpecError: names the budget's line, what the plan needs, and what would fit.
    """
    spec = prepared.sweep.spec
    for planned, earlier in zip(limits(spec, plan.total.hours), limits(spec, before), strict=True):
        used = earlier.used or 0.0
        if not plan.total.trials or planned.used is None or used + planned.used <= planned.most:
            continue
        already = f", and {amount(used)}{planned.unit} are used already" if used else ""
        halved = ", as far as halving is expected to train them" if plan.reached else ""
        fits = _that_fit(plan, max(0.0, planned.most - used) / planned.used)
        raise prepared.sweep.document.error(
            ("budget", planned.field),
            f"the plan needs {amount(planned.used)}{planned.unit} for {plan.total.trials} trials{halved}{already}; "
            f"the budget is {amount(planned.most)}. About {fits} of them would fit, or all with {planned.field}: "
            f"{amount(1.01 * (used + planned.used))}",
        )


def _that_fit(plan: Plan, share: float) -> int:
    """How many trials, the smallest first, are no more than this share of all tokens trained on; where trials are
    stopped, as if each were at the same share of its own."""
    sums = itertools.accumulate(sorted(cell.tokens for cell in plan.to_run))
    return sum(tokens <= share * plan.whole.tokens for tokens in sums)


def amount(value: float) -> str:
    """Three digits, never rounded to nothing."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


class Spending:
    """Keeps count of what a sweep holds, from now on.

    Args:
        before: what earlier attempts have used.
        clock: seconds, from any zero.
    """

    def __init__(self, spec: SweepSpec, before: Hours, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec, self._clock = spec, clock
        self._cpus, self._gpus = before.cpus or 0.0, before.gpus or 0.0
        self._at = self._recorded_at = clock()
        self._held = held(spec.execution, spec.pool, 0, spec.pool.replicas)

    @property
    def used(self) -> Hours:
        """Up to now, over all attempts."""
        now = self._clock()
        hours, self._at = (now - self._at) / 3600, now
        self._cpus += hours * self._held[0]
        self._gpus += hours * self._held[1]
        return Hours(self._cpus, self._gpus)

    def holds(self, trials: int, engines: int) -> None:
        """From now on so many trials train and so many engines are up."""
        _ = self.used
        self._held = held(self._spec.execution, self._spec.pool, trials, engines)

    @property
    def exhausted(self) -> str:
        """Why the sweep must stop; empty while it may go on."""
        for limit in limits(self._spec, self.used):
            if limit.exceeded:
                used = amount(limit.used or 0.0)
                return (
                    f"the budget is used up: {limit.field} {amount(limit.most)}, used {used}{limit.unit} over all "
                    f"attempts. What is trained is kept: run it again with a larger budget.{limit.field} to go on"
                )
        return ""

    def to_record(self) -> bool:
        """Whether it is time to write down what was used."""
        due = self._clock() - self._recorded_at >= RECORD_EVERY_S
        if due:
            self._recorded_at = self._clock()
        return due


def held(execution: ExecutionSpec, pool: PoolSpec, trials: int, engines: int) -> tuple[float, float]:
    """CPUs and GPUs."""
    worker, engine = worker_bundle(execution), engine_bundle(pool)
    workers = trials * execution.workers
    return workers * worker.cpus + engines * engine.cpus, workers * worker.gpus + engines * engine.gpus
