"""The smallest difference between two trials that each benchmark of a sweep can show, before money is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dft_sweeps.evaluation.benchmarks import Benchmark
from dft_sweeps.evaluation.power import CORRELATION, LIKENESS, smallest_difference
from dft_sweeps.evaluation.selection import held_out

if TYPE_CHECKING:
    from rich.table import Table

    from dft_sweeps.orchestration.prepare import PreparedSweep

_SMALL = 100
"""Questions below which the normal limit that the reckoning rests on is optimistic: simulated, the test finds such a
difference with chance 62-73% on AIME and AMC, 76-81% on the larger sets."""

ASSUMPTIONS = (
    "Found with chance 80% by a two-sided paired test at 5%, one comparison made. Assumed: these accuracies, "
    f"{CORRELATION:g} of a completion's variance due to its question, {LIKENESS:g} correlation of the questions' "
    "difficulty between the trials."
)


@dataclass(frozen=True)
class SmallestDifference:
    benchmark: str
    questions: int
    sampling: str
    samples: int
    """Per question."""
    assumed_accuracy: float
    new_questions: float
    fixed_list: float
    """Shares, for new questions and for other samples on the same ones."""
    optimistic: bool
    """Whether the set is so small that larger differences are needed."""


def smallest_differences(prepared: PreparedSweep) -> list[SmallestDifference]:
    """By sampling, then benchmark. Greedy samplings are left out: what is assumed of samples does not hold there."""
    from dft_sweeps.evaluation.benchmarks import assumed_accuracy

    share = prepared.evaluation.selection_share
    return [
        SmallestDifference(
            benchmark=benchmark.name,
            questions=(questions := _compared(benchmark, share)),
            sampling=name,
            samples=sampling.samples,
            assumed_accuracy=(accuracy := assumed_accuracy(benchmark.name)),
            new_questions=smallest_difference(questions, sampling.samples, accuracy),
            fixed_list=smallest_difference(questions, sampling.samples, accuracy, fixed_list=True),
            optimistic=questions < _SMALL,
        )
        for name, sampling in prepared.evaluation.samplings.items()
        if sampling.temperature > 0
        for benchmark in prepared.benchmarks.values()
    ]


def _compared(benchmark: Benchmark, selection_share: float | None) -> int:
    """Questions that are not held out for selection."""
    ids = [question.id for question in benchmark.questions]
    return len(ids) - (len(held_out(benchmark.name, ids, selection_share)) if selection_share else 0)


def differences_table(found: list[SmallestDifference]) -> Table:
    from rich.table import Table

    table = Table(title="Smallest difference between two trials that can be shown (points)", title_justify="left")
    for heading in ("benchmark", "sampling"):
        table.add_column(heading)
    for heading in ("questions", "samples", "assumed accuracy (%)", "for new questions", "for this fixed list"):
        table.add_column(heading, justify="right")
    for each in found:
        mark = " *" if each.optimistic else ""
        points = [f"{100 * share:.1f}{mark}" for share in (each.new_questions, each.fixed_list)]
        counts = (str(each.questions), str(each.samples), f"{100 * each.assumed_accuracy:.0f}")
        table.add_row(each.benchmark, each.sampling, *counts, *points)
    return table


def small_sets(found: list[SmallestDifference]) -> str:
    """What to know of the marked rows; empty where none is."""
    if not any(each.optimistic for each in found):
        return ""
    return (
        f"* Optimistic on sets as small as this (fewer than {_SMALL} questions): simulated, the chance is only 62-73% "
        "on 30 to 40 questions."
    )
