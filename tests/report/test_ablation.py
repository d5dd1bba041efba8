"""Accuracy against learning rate and batch size: what is drawn where, with which interval, and under which labels."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from dft_sweeps.report.ablation import ablation_figure, ablation_figures
from dft_sweeps.report.collect import collect
from dft_sweeps.report.curves import Measured, SweepCurves, TrialCurves
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Tracker
from tests.report.synthetic_sweep import write_sweep
from tests.report.test_figures import BATCH, BENCHMARKS, OBJECTIVE, RATE, SAMPLED, made_up, texts

OBJECTIVES = {OBJECTIVE: ["sft", "dft"]}
RATES = OBJECTIVES | {RATE: ["2e-4", "1e-4", "5e-5", "1e-5"]}
SIZES = OBJECTIVES | {BATCH: ["32", "64", "128", "256"]}
DFT, SFT = "#0072B2", "#D55E00"


def drawn(*sweeps: SweepCurves) -> Figure:
    figure = ablation_figure(sweeps, sweeps[0].samplings[0], sweeps[0].benchmarks)
    assert figure is not None
    figure.draw_without_rendering()
    return figure


def panels(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.axison]


def lines(ax: Axes) -> dict[tuple[str, str], list[tuple[float, float, float, float]]]:
    """By colour and dashes: value, accuracy and the ends of its bar, in percent."""
    found = {}
    for container in ax.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, (bars,) = container.lines
        segments = [segment if len(segment) else [[math.nan] * 2] * 2 for segment in bars.get_segments()]
        points = [
            (x, y, low, high)
            for (x, y), ((_, low), (_, high)) in zip(line.get_xydata(), segments, strict=True)  # type: ignore[arg-type]
        ]
        found[line.get_color(), line.get_linestyle()] = points
    return found


def words(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in texts(figure)).split())


def expected(curves: SweepCurves, axis: str, objective: str) -> list[tuple[float, ...]]:
    cells = [cell for cell in curves.cells if cell.values[OBJECTIVE] == objective]
    lasts = {float(cell.values[axis]): cell.accuracy["eval", curves.benchmarks[0]][-1] for cell in cells}
    return [
        (value, *(pytest.approx(100 * share) for share in (point.accuracy, point.low, point.high)))  # type: ignore[misc]
        for value, point in sorted(lasts.items())
    ]


def test_a_line_for_each_objective_by_the_value_with_its_interval() -> None:
    curves = made_up(RATES, ("gsm8k",))
    figure = drawn(curves)
    (ax,) = panels(figure)
    assert lines(ax)[SFT, "-"] == expected(curves, RATE, "sft")
    assert lines(ax)[DFT, "-"] == expected(curves, RATE, "dft")
    base = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in base] == [pytest.approx(30.0)]  # type: ignore[index]
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "learning rate", "accuracy (%)")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1e-5", "5e-5", "1e-4", "2e-4"]
    assert list(ax.get_xticks()) == [1e-5, 5e-5, 1e-4, 2e-4]
    said = words(figure)
    for part in ("made-up: accuracy at the last step", "At the last step of each finished trial (60)", "base model",
                 "Bars: 95% intervals for new questions", "16 samples", "sft", "dft"):  # fmt: skip
        assert part in said


def test_batch_sizes_lie_evenly_on_a_logarithmic_axis() -> None:
    (ax,) = panels(drawn(made_up(SIZES, ("gsm8k",))))
    places = [ax.transData.transform((size, 50))[0] for size in (32, 64, 128, 256)]
    gaps = [right - left for left, right in itertools.pairwise(places)]
    assert gaps == [pytest.approx(gaps[0])] * 3
    assert (ax.get_xlabel(), [text.get_text() for text in ax.get_xticklabels()]) == (
        "batch size",
        ["32", "64", "128", "256"],
    )


def _changed(curves: SweepCurves, name: str, **changes: object) -> SweepCurves:
    return replace(
        curves,
        trials=tuple(replace(each, **changes) if each.name == name else each for each in curves.trials),  # type: ignore[arg-type]
    )


def test_the_last_step_is_drawn_and_never_the_best() -> None:
    curves = made_up(RATES, ("gsm8k",))
    peaked = {("eval", "gsm8k"): [Measured(0, 0.3, 0.2, 0.4), Measured(20, 0.9, 0.8, 1.0), Measured(40, 0.5, 0.4, 0.6)]}
    curves = _changed(curves, "dft 1e-4", accuracy=peaked)
    figure = drawn(curves)
    (ax,) = panels(figure)
    assert (1e-4, 50.0, 40.0, 60.0) in [tuple(map(pytest.approx, point)) for point in lines(ax)[DFT, "-"]]
    assert "At the last step of each finished trial (40 to 60), not at its best one." in words(figure)


def test_trials_that_are_not_finished_are_left_out() -> None:
    curves = _changed(made_up(RATES, ("gsm8k",)), "sft 1e-5", status="RUNNING")
    (ax,) = panels(drawn(curves))
    assert [value for value, *_ in lines(ax)[SFT, "-"]] == [5e-5, 1e-4, 2e-4]
    assert len(lines(ax)[DFT, "-"]) == 4
    none = replace(curves, trials=tuple(replace(trial, status="FAILED") for trial in curves.trials))
    assert ablation_figure([none], SAMPLED, none.benchmarks) is None


@pytest.mark.parametrize("axes", [{}, OBJECTIVES, OBJECTIVES | {"train.seed": ["1", "2"]}])
def test_without_such_an_axis_there_is_no_figure(axes: dict[str, list[str]]) -> None:
    assert ablation_figure([made_up(axes, ("gsm8k",))], SAMPLED, ["gsm8k"]) is None


def test_two_sweeps_stand_side_by_side_for_every_benchmark() -> None:
    rates = replace(made_up(RATES, BENCHMARKS["five"]), name="rates")
    sizes = replace(made_up(SIZES, BENCHMARKS["five"]), name="sizes")
    figure = drawn(rates, sizes)
    shown = [(ax.get_title(loc="left"), ax.get_xlabel()) for ax in panels(figure)]
    titles = ["average of the benchmarks", *BENCHMARKS["five"][1:]]
    assert shown == [(title, axis) for title in titles for axis in ("learning rate", "batch size")]
    for ax, curves, axis in zip(panels(figure)[:2], (rates, sizes), (RATE, BATCH), strict=True):
        assert lines(ax)[DFT, "-"] == expected(curves, axis, "dft")
    assert "Sweeps: rates and sizes." in words(figure)
    twice = drawn(rates, replace(rates, name="other"))
    assert [ax.get_title(loc="left") for ax in panels(twice)][:2] == [
        "average of the benchmarks,\nrates",
        "average of the benchmarks,\nother",
    ]


def test_the_headline_of_two_sweeps_fits_a_column() -> None:
    figures = ablation_figures([made_up(RATES, BENCHMARKS["five"]), made_up(SIZES, BENCHMARKS["five"])])
    assert list(figures) == ["ablation_sampled_average", "ablation_sampled"]
    headline = figures["ablation_sampled_average"]
    assert headline is not None
    assert [(ax.get_title(loc="left"), ax.get_xlabel()) for ax in panels(headline)] == [
        ("average of the benchmarks", "learning rate"),
        ("average of the benchmarks", "batch size"),
    ]
    assert headline.get_figwidth() < 8
    assert list(ablation_figures([made_up(RATES, ("gsm8k",))])) == ["ablation_sampled"]


def test_the_other_axis_of_a_grid_is_told_by_dashes() -> None:
    curves = made_up(OBJECTIVES | {RATE: ["1e-5", "1e-4"], BATCH: ["64", "128", "256"]}, ("gsm8k",))
    rate, size = panels(drawn(curves))
    assert {style: len(points) for style, points in lines(rate).items()} == {
        (colour, dashes): 2 for colour in (SFT, DFT) for dashes in ("-", "--", ":")
    }
    assert {style: len(points) for style, points in lines(size).items()} == {
        (colour, dashes): 3 for colour in (SFT, DFT) for dashes in ("-", "--")
    }


def test_bars_at_one_value_stand_side_by_side() -> None:
    (ax,) = panels(drawn(made_up(RATES, ("gsm8k",))))
    shown = [container.lines[0].get_transform().transform((1e-4, 50))[0] for container in ax.containers]  # type: ignore[attr-defined]
    points = (shown[1] - shown[0]) * 72 / ax.get_figure(root=True).dpi  # type: ignore[union-attr]
    assert 4 < points < 8


@pytest.mark.parametrize("axes", [RATES, SIZES, OBJECTIVES | {RATE: [f"{n}e-5" for n in range(1, 10)]}])
@pytest.mark.parametrize("benchmarks", BENCHMARKS)
def test_no_text_overlaps_another_or_leaves_the_figure(axes: dict[str, list[str]], benchmarks: str) -> None:
    curves = made_up(axes, BENCHMARKS[benchmarks])
    for figure in (drawn(curves), drawn(curves, made_up(SIZES, BENCHMARKS[benchmarks]))):
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
        for name, box in boxes:
            assert min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, name
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1), (one, other)
        labels = [label.get_text() for label in panels(figure)[0].get_xticklabels()]
        assert [labels[0], labels[-1]] == [curves.levels([*axes][1])[index] for index in (0, -1)]


def test_a_cell_of_several_seeds_is_its_mean_with_the_means_interval() -> None:
    curves = made_up(RATES, ("gsm8k",))
    point = Measured(60, 0.5, 0.1, 0.9, seeds=2, of_seeds=2)
    means: tuple[TrialCurves, ...] = tuple(
        replace(cell, accuracy={("eval", "gsm8k"): [point]}, seeds=(cell, cell)) for cell in curves.trials
    )
    figure = drawn(replace(curves, means=means))
    assert lines(panels(figure)[0])[SFT, "-"] == [(x, 50.0, 10.0, 90.0) for x in (1e-5, 5e-5, 1e-4, 2e-4)]
    assert "means over 2 seeds" in words(figure)


def test_what_is_drawn_is_what_mlflow_holds(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    write_sweep(Tracker(uri, str(tmp_path / "artifacts")))
    reader = Reader(uri)
    sweep = reader.find_sweep("quickstart")
    figure = drawn(collect(reader, sweep))
    average = panels(figure)[0]
    measured = {
        (row.axes["train.objective.kind"], row.axes["train.learning_rate"]): tuple(
            pytest.approx(100 * row.metrics[f"eval/average/{name}"]) for name in ("accuracy", "ci_low", "ci_high")
        )
        for row in reader.trials(sweep)
        if row.axes["variant"] == "wrong-steps"
    }
    for kind, colour in (("sft", SFT), ("dft", DFT)):
        assert lines(average)[colour, "-"] == [(rate, *measured[kind, rate]) for rate in (3e-4, 1e-3)]
    clean = lines(average)
    assert [len(clean[colour, "--"]) for colour in (SFT,)] == [1]  # the variant has one rate, and its DFT trial runs
    assert (DFT, "--") not in clean
