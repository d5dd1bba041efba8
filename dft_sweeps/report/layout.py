"""A page of panels: title, rows by the remaining axes, legends beside the panels, notes below.

Drawn without a display and without matplotlib's global state.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dft_sweeps.report.curves import SweepCurves, TrialCurves
from dft_sweeps.report.style import RC, Lines, Styles, styles_of_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PANEL_WIDTH, PANEL_HEIGHT = 3.0, 2.5  # inches, labels included
NOTE_HEIGHT = 0.17
MAX_COLUMNS = 3
ROW_LABEL_CHARACTERS = 24  # along a panel's height
TITLE_CHARACTERS = 30  # along its width

Draw = Callable[["Axes", str, Sequence[TrialCurves], Styles], None]
"""Draws cells (trials, or means over seeds) into the panel of a key. A panel whose axis it switches off stays blank,
but for its titles."""


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    panels: Mapping[str, str]
    """Key to title of each panel of a row."""
    x_label: str | Mapping[str, str]
    """Of all panels, which then share their x axis, or of each by its key."""
    y_label: str
    share_y: Literal["all", "col", "none"]
    """``all`` panels, those of a ``col``, or ``none``."""
    lines: Lines
    base: Mapping[str, Any] | None
    """How the base model is drawn, for the legend; None where it is not."""
    notes: Sequence[str]
    panel_width: float = PANEL_WIDTH
    """Inches, labels included."""
    columns: int | None = None
    """Panels side by side; by default `MAX_COLUMNS` at most."""


def lay_out(curves: SweepCurves | Mapping[str, SweepCurves], page: Page, draw: Draw) -> Figure:
    """Args: `curves` is what all panels show, or what each shows by its key."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = dict.fromkeys(page.panels, curves) if isinstance(curves, SweepCurves) else curves
    styles = styles_of_all(shown)
    rows = list(dict.fromkeys(row for each in styles.values() for row in each.rows))
    legends = _legends(styles.values(), page)
    # One row of panels may wrap, into rows of about a length; several rows are a grid, which may not.
    wraps = -(-len(page.panels) // (page.columns or MAX_COLUMNS)) if len(rows) == 1 else 1
    wide, tall = -(-len(page.panels) // wraps), wraps * len(rows)
    longest = max((len(label) for title, lines in legends for label in (title, *lines)), default=0)
    side = 0.8 + 0.085 * longest
    # The subtitle and the bold title need so much; panels take what is over.
    width = max(0.5 + wide * page.panel_width + side, 0.4 + 0.085 * len(page.subtitle), 0.4 + 0.13 * len(page.title))
    notes = [line for note in page.notes for line in textwrap.wrap(note, int(width * 14))]
    top, bottom = 0.75, 0.12 + NOTE_HEIGHT * len(notes)
    height = top + max(tall * PANEL_HEIGHT + 0.35, _legend_height(legends)) + bottom
    with matplotlib.rc_context(RC):
        area = (0.1 / width, bottom / height, 1 - (side + 0.2) / width, 1 - (top + bottom) / height)
        engine = ConstrainedLayoutEngine(rect=area, wspace=0.04, hspace=0.05)
        figure = Figure(figsize=(width, height), layout=engine)
        share_x = isinstance(page.x_label, str)
        axes = figure.subplots(tall, wide, sharex=share_x, sharey=page.share_y, squeeze=False)
        _fill(axes, [(row, key, shown[key], styles[key]) for row in rows for key in page.panels], page, draw)
        left = 0.15 / width
        figure.text(left, 1 - 0.13 / height, page.title, fontsize=13, fontweight="bold", va="top")
        figure.text(left, 1 - 0.41 / height, page.subtitle, fontsize=10.5, color="#333333", va="top")
        figure.text(left, 0.1 / height, "\n".join(notes), fontsize=8.5, color="#444444", va="bottom", linespacing=1.3)
        _draw_legends(figure, legends, width - side, height - top)
    return figure


def _fill(axes: Any, panels: Sequence[tuple[str, str, SweepCurves, Styles]], page: Page, draw: Draw) -> None:
    """Args: `panels` are row, key, what is shown and how, in the order in which they fill `axes`."""
    wide = axes.shape[1]
    for index, (row, key, curves, styles) in enumerate(panels):
        ax = axes[index // wide, index % wide]
        draw(ax, key, [cell for cell in curves.cells if styles.row_of(cell) == row], styles)
        if len(page.panels) == len(panels) or row == panels[0][0]:
            characters = int(TITLE_CHARACTERS * page.panel_width / PANEL_WIDTH)
            ax.set_title(textwrap.fill(page.panels[key], characters), loc="left")
        if index % wide == 0:
            _label_row(ax, row)
    for unused in axes.flat[len(panels) :]:
        unused.set_axis_off()
    _label_edges(axes, [key for _, key, _, _ in panels], page)


def _label_edges(axes: Any, keys: Sequence[str], page: Page) -> None:
    """Labels the columns that hold the first panel of a row, and the rows that hold the last of a column; where
    panels do not share an axis, all."""
    used = [(row, column) for row, column in itertools.product(*map(range, axes.shape)) if axes[row, column].axison]
    left = {min(column for other, column in used if other == row) for row, _ in used}
    bottom = {max(row for row, other in used if other == column) for _, column in used}
    for row, column in used:
        if column in left:
            axes[row, column].set_ylabel(page.y_label)
            axes[row, column].tick_params(labelleft=True)
        if not isinstance(page.x_label, str):
            axes[row, column].set_xlabel(page.x_label[keys[row * axes.shape[1] + column]])
        elif row in bottom:
            axes[row, column].set_xlabel(page.x_label)
            axes[row, column].tick_params(labelbottom=True)


def _label_row(ax: Axes, row: str) -> None:
    ax.annotate(
        "\n".join(textwrap.fill(line, ROW_LABEL_CHARACTERS) for line in row.splitlines()),
        xy=(0, 0.5),
        xycoords="axes fraction",
        xytext=(-46, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="center",
        multialignment="center",
        fontweight="bold",
    )


def _legends(styles: Iterable[Styles], page: Page) -> list[tuple[str, dict[str, Line2D]]]:
    """Every axis once."""
    from matplotlib.lines import Line2D

    found: dict[str, dict[str, Line2D]] = {}
    for title, lines in (legend for each in styles for legend in each.legends(page.lines)):
        found.setdefault(title, {}).update(lines)
    if page.base is not None:
        found["reference"] = {"base model": Line2D([], [], **page.base)}
    return list(found.items())


def _draw_legends(figure: Figure, legends: Sequence[tuple[str, dict[str, Line2D]]], left: float, top: float) -> None:
    """One below the other, from (`left`, `top`) in inches downwards."""
    width, height = figure.get_size_inches()
    for title, lines in legends:
        legend = figure.legend(
            list(lines.values()),
            list(lines),
            title=title,
            title_fontproperties={"weight": "bold"},
            alignment="left",
            loc="upper left",
            bbox_to_anchor=(left / width, top / height),
            borderaxespad=0,
            handlelength=2.6,
        )
        legend.set_in_layout(False)
        top -= _legend_height([(title, lines)])


def _legend_height(legends: Sequence[tuple[str, dict[str, Line2D]]]) -> float:
    """Inches."""
    return sum(0.42 + 0.215 * len(lines) for _, lines in legends)
