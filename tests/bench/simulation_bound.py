"""What no schedule of a sweep can beat, whatever the order of its trials and however its engines are shared.

Of the simulated sweep itself: trials as long as they turn out, engines as fast as they are. Nothing that the software
adds is in it: not Tune's time per trial, nor grading, nor MLflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.simulation_services import Speeds
from tests.bench.simulation_trials import Length


@dataclass(frozen=True)
class Bound:
    """Seconds from when the first engines are up; the largest is the bound."""

    slots: float
    """Until then some slot trains, and after it the engines have what trials that ended last leave to evaluate."""
    longest: float
    """The longest trial, from its workers' start to its last point."""
    engines: float
    """All completions, shared evenly by all engines from when the first checkpoint is there."""

    @property
    def seconds(self) -> float:
        return max(self.slots, self.longest, self.engines)

    @property
    def what(self) -> str:
        return max(("slots", "longest", "engines"), key=lambda name: float(getattr(self, name)))


def lower_bound(
    lengths: Sequence[Length], slots: int, completions: Sequence[float], engines: int, speeds: Speeds
) -> Bound:
    """Args: `slots` trials at a time; `completions` of each distinct checkpoint."""
    held = sorted(length.held for length in lengths)
    up = speeds.workers_start_s
    # A checkpoint may be shared by all engines, so no more than this is certain to follow a trial's end.
    one = (speeds.swap_s + min(completions) / speeds.completions_per_s) / engines
    first = up + min(length.start for length in lengths)
    generation = sum(completions) / speeds.completions_per_s + speeds.swap_s * len(completions)
    # Whichever trials end first, the n-th end comes no sooner than the n shortest allow, and then its last checkpoint
    # and those of all later trials are still to be evaluated.
    ends = [busiest_slot(held[:n], slots) + one * (len(held) - n + 1) for n in range(1, len(held) + 1)]
    return Bound(slots=up + max(ends), longest=up + held[-1] + one, engines=first + generation / engines)


def busiest_slot(seconds: Sequence[float], slots: int) -> float:
    """How long the busiest of so many slots works at least.

    No less than the mean. And of the k * slots + 1 longest pieces of work some slot gets k + 1, no less than the k + 1
    shortest of them: 4 equal trials on 3 slots take two rounds, not 4/3.
    """
    longest = sorted(seconds, reverse=True)
    rounds = range((len(longest) - 1) // slots + 1)
    return max(sum(longest) / slots, *(sum(longest[k * slots - k : k * slots + 1]) for k in rounds))


def of_all_gpus(lengths: Sequence[Length], completions: Sequence[float], gpus: int, speeds: Speeds) -> float:
    """The bound where every GPU may train or generate at any time, however the spec splits them."""
    engines = lower_bound(lengths, gpus, completions, gpus, speeds)
    work = sum(length.held for length in lengths) + sum(completions) / speeds.completions_per_s
    return max(engines.longest, speeds.workers_start_s + work / gpus)
