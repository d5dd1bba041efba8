"""How the axes of a sweep show in figures: the first by colour, the second by line, the others by row."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from dft_sweeps.report.curves import SweepCurves, TrialCurves, axis_title

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

# Okabe and Ito's palette, told apart by colour-blind readers, without its yellow, which is faint on white; then
# wine, olive and indigo of Paul Tol's muted one.
_PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#999933", "#332288"),
)
_FIXED_COLOURS = {"dft": "#0072B2", "sft": "#D55E00"}
_LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ("-", "v"), ("--", "P"), (":", "X"), ("-.", "<"))
SEED_LINE: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.5, "zorder": 1.8}
"""How the single seeds are drawn behind their mean."""
BASE_COLOUR = "#555555"
BASE_LINE: dict[str, Any] = {"color": BASE_COLOUR, "linestyle": (0, (4, 3)), "linewidth": 1.2}
BASE_STEPS: dict[str, Any] = {"color": "#8A8A8A", "linewidth": 1.4}
BASE_FILL: dict[str, Any] = {"color": "#EDEDED", "linewidth": 0}

Lines = Literal["marked", "plain", "alike"]
"""Lines tell the second axis by dashes with markers, by dashes, or not at all: it has panels of its own."""

RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and edited for a paper
    "svg.hashsalt": "dft-sweeps",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class Look:
    colour: str
    line: str
    marker: str


class Styles:
    """The looks of a sweep's cells. An axis keeps its values' looks over all figures of the sweep."""

    def __init__(self, curves: SweepCurves) -> None:
        self._axes = curves.axes[:2]
        self._row_axes = curves.axes[2:]
        levels = [curves.levels(axis) for axis in self._axes]
        self._colours = _colours(levels[0]) if levels else {}
        self._lines = dict(zip(levels[1], itertools.cycle(_LINES), strict=False)) if len(levels) > 1 else {}
        self.rows = self._rows(curves)

    def look(self, cell: TrialCurves) -> Look:
        values = [cell.values[axis] for axis in self._axes]
        colour = self._colours[values[0]] if values else _PALETTE[0]
        line, marker = self._lines[values[1]] if len(values) > 1 else _LINES[0]
        return Look(colour, line, marker)

    def row_of(self, cell: TrialCurves) -> str:
        """The row of panels a cell is drawn in, as its label says it; empty where there is one row."""
        return "\n".join(f"{axis_title(axis)}: {cell.values[axis]}" for axis in self._row_axes)

    def legends(self, lines: Lines) -> list[tuple[str, dict[str, Line2D]]]:
        """Per axis shown in a panel: its title, and the line that stands for each of its values."""
        from matplotlib.lines import Line2D

        found = []
        looks_of: list[dict[str, Any]] = [self._colours] if lines == "alike" else [self._colours, self._lines]
        for axis, looks in zip(self._axes, looks_of, strict=False):
            shown = {}
            for value, look in looks.items():
                if isinstance(look, str):
                    shown[value] = Line2D([], [], color=look, linewidth=4)
                else:
                    marker = look[1] if lines == "marked" else ""
                    shown[value] = Line2D([], [], color="#222222", linestyle=look[0], marker=marker)
            found.append((axis_title(axis), shown))
        return found

    def _rows(self, curves: SweepCurves) -> list[str]:
        grid = itertools.product(*(curves.levels(axis) for axis in self._row_axes))
        order = {values: index for index, values in enumerate(grid)}
        cells = sorted(curves.cells, key=lambda cell: order[tuple(cell.values[axis] for axis in self._row_axes)])
        return list(dict.fromkeys(map(self.row_of, cells)))


def styles_of_all(shown: Mapping[str, SweepCurves]) -> dict[str, Styles]:
    """The styles of several panels' curves: where the axes are the same, so are the looks of their values."""
    pooled: dict[tuple[str, ...], list[TrialCurves]] = {}
    for curves in {id(each): each for each in shown.values()}.values():
        pooled.setdefault(curves.axes, []).extend(curves.cells)
    styles = {axes: Styles(replace(curves, trials=tuple(pooled[axes]), means=()))
              for axes, curves in {each.axes: each for each in shown.values()}.items()}  # fmt: skip
    return {key: styles[curves.axes] for key, curves in shown.items()}


def _colours(levels: Sequence[str]) -> dict[str, str]:
    fixed = {level: _FIXED_COLOURS[level] for level in levels if level in _FIXED_COLOURS}
    free = itertools.cycle(colour for colour in _PALETTE if colour not in fixed.values())
    return {level: fixed.get(level) or next(free) for level in levels}
