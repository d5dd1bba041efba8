"""A sweep's measurements as tidy data: what every table and figure is made from."""

from __future__ import annotations

from dataclasses import dataclass, field

from dft_sweeps.spec.expand import short_name


@dataclass(frozen=True)
class Measured:
    """Accuracy of one checkpoint on one benchmark; shares in [0, 1]."""

    step: int
    accuracy: float
    low: float | None
    high: float | None
    """95% interval for new questions; None where none was logged."""
    fixed_low: float | None = None
    fixed_high: float | None = None
    """95% interval for other samples on these questions; None where none was logged."""
    selection: float | None = None
    """Accuracy on the questions held out for selection, which all other numbers leave out; None without a split."""
    seeds: int = 1
    """How many training seeds this is the mean of; the intervals of several hold the spread over seeds."""
    of_seeds: int = 1
    """How many the cell has."""
    by_question: bool = True
    """Whether the interval over several seeds stands on verdicts by question, not on accuracies alone."""


@dataclass(frozen=True)
class Sampling:
    name: str
    prefix: str
    """First part of its metrics' names."""
    label: str
    """E.g. ``temperature 1, 4 samples per question``."""


@dataclass(frozen=True)
class TrialCurves:
    training_id: str
    name: str
    status: str
    values: dict[str, str]
    """Axis to this trial's value, as shown."""
    accuracy: dict[tuple[str, str], list[Measured]]
    """(sampling prefix, benchmark or ``average``) to the curve, by rising step; by each benchmark's own grader."""
    training: dict[str, list[tuple[int, float]]]
    """``nll`` and ``objective`` to (step, value), by rising step."""
    paper: dict[tuple[str, str], list[Measured]] = field(default_factory=dict)
    """As `accuracy`, by the published harness's grader and as it averages; empty curves where that did not judge."""
    edges: tuple[float, ...] = ()
    """Where the bins of its histograms begin and end, from 0 to 1; none where that was not logged."""
    histograms: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """Step, rising, to the share of training targets whose probability lies in each bin."""
    seeds: tuple[TrialCurves, ...] = ()
    """Of a cell of a sweep with several seeds: the trials it is the mean of."""
    stopped_at: int | None = None
    """The step at which the sweep's scheduler stopped it, or the last at which it stopped one of a cell's seeds, where
    it stopped them all; None where training went on to the end."""

    @property
    def is_whole(self) -> bool:
        """Whether it was trained to its end, with all its seeds: those that a scheduler left to the end are the best
        ones, and their mean is no cell's."""
        return self.status == "FINISHED" and all(each.stopped_at is None for each in (self, *self.seeds))


@dataclass(frozen=True)
class Dimension:
    """One of those that a sweep's search varies."""

    path: str
    kind: str
    """``choice``, ``uniform`` or ``log_uniform``."""
    bounds: tuple[float, ...]
    """The lowest and the highest number; none of a choice."""

    @property
    def is_choice(self) -> bool:
        return self.kind == "choice"


@dataclass(frozen=True)
class SweepCurves:
    sweep_id: str
    name: str
    axes: tuple[str, ...]
    """The paths that tell cells apart, the objective's first; a cell is a trial, or several that differ in their
    training seed."""
    samplings: tuple[Sampling, ...]
    benchmarks: tuple[str, ...]
    """``average`` first where there are several benchmarks."""
    trials: tuple[TrialCurves, ...]
    notes: tuple[str, ...]
    """What a reader of any table or figure must know."""
    accuracy_notes: tuple[str, ...]
    """What a reader of accuracies must know besides."""
    graders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Benchmark to ``name/version`` of its graders, its own first; without those of which none is recorded."""
    histogram_notes: tuple[str, ...] = ()
    """What a reader of the target tokens' probabilities must know besides."""
    means: tuple[TrialCurves, ...] = ()
    """Of every cell, the means over its seeds; none where no trials differ in their training seed alone."""
    trial_axes: tuple[str, ...] = ()
    """The paths that tell trials apart, where there are several seeds."""
    selection_share: float | None = None
    """Share of each benchmark's questions held out for selection."""
    searched: tuple[Dimension, ...] = ()
    """What the sweep's search varies; nothing without one."""

    @property
    def arm_axes(self) -> tuple[str, ...]:
        """The axes that are not searched."""
        paths = {dimension.path for dimension in self.searched}
        return tuple(axis for axis in self.axes if axis not in paths)

    @property
    def cells(self) -> tuple[TrialCurves, ...]:
        """What tables have rows and figures have lines of."""
        return self.means or self.trials

    @property
    def seeds_in_words(self) -> str:
        """E.g. ``means over 3 seeds``; empty where no trials differ in their training seed alone."""
        counts = sorted({len(cell.seeds) for cell in self.means})
        return f"means over {' to '.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} seeds" if counts else ""

    def levels(self, axis: str) -> list[str]:
        """The values an axis takes: numbers by size, others as the grid lists them."""
        found = list(dict.fromkeys(trial.values[axis] for trial in self.cells))
        return sorted(found, key=float) if all(_is_number(value) for value in found) else found


def axis_title(axis: str) -> str:
    """E.g. ``train.learning_rate`` to ``learning rate``."""
    return short_name(axis).replace("_", " ")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
