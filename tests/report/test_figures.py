"""The figures say what they show, in text that can be searched, and nothing in them overlaps."""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from dft_sweeps.report.curves import Measured, Sampling, SweepCurves, TrialCurves
from dft_sweeps.report.figures import accuracy_figure, save, training_figure
from dft_sweeps.report.probabilities import probability_figure
from dft_sweeps.report.style import Styles
from dft_sweeps.spec.models import HistogramSpec
from tests.report.synthetic_sweep import histogram

SAMPLED = Sampling("sampled", "eval", "temperature 1, 16 samples per question")
OBJECTIVE, RATE, BATCH = "train.objective.kind", "train.learning_rate", "train.batch_size"
EDGES = HistogramSpec().edges
NOTE = "Trained on demonstrations with wrong steps (5%); wrong steps favour DFT over SFT."

GRIDS = {
    "one trial": {},
    "two objectives": {OBJECTIVE: ["sft", "dft"]},
    "quickstart": {OBJECTIVE: ["sft", "dft"], RATE: ["3e-4", "1e-3"]},
    "ablation": {
        OBJECTIVE: ["sft", "dft"],
        RATE: ["1e-5", "5e-5", "1e-4", "2e-4"],
        BATCH: ["64", "128", "256"],
    },
}
GRIDS["long names"] = {
    OBJECTIVE: ["importance-weighted-sft-with-a-long-name", "dft"],
    RATE: ["1e-5", "5e-5"],
    "data.source.path": ["demonstrations-of-the-first-round.jsonl", "filtered.jsonl"],
    "variant": ["a-variant-described-by-its-whole-history", "clean"],
}
GRIDS["many objectives"] = {OBJECTIVE: [f"an-objective-with-a-long-name-{index}" for index in range(5)]}
BENCHMARKS = {
    "one": ("gsm8k",),
    "five": ("average", "math500", "minerva_math", "olympiadbench", "aime24", "amc23"),
}


def made_up(axes: dict[str, list[str]], benchmarks: tuple[str, ...], steps: int = 60) -> SweepCurves:
    trials = []
    for index, values in enumerate(itertools.product(*axes.values())):
        grown = [(step, 0.3 + (0.3 + 0.02 * index) * (1 - math.exp(-step / 15))) for step in range(0, steps + 1, 10)]
        measured = [Measured(step, value, value - 0.03, value + 0.03) for step, value in grown]
        trained = [(step, 0.1 + math.exp(-step / 10)) for step in range(1, steps + 1)]
        trials.append(
            TrialCurves(
                training_id=f"t-{index}",
                name=" ".join(values),
                status="FINISHED",
                values=dict(zip(axes, values, strict=True)),
                accuracy={("eval", name): measured for name in benchmarks},
                training={"nll": trained, "objective": trained},
                edges=EDGES,
                histograms={step: tuple(histogram("sft", 3e-4, step, EDGES)) for step in (0, steps)},
            )
        )
    name = "made-up" if "variant" not in axes else 8 * "made-up-"
    return SweepCurves("s-1", name, tuple(axes), (SAMPLED,), benchmarks, tuple(trials), (NOTE,), ("95% intervals.",))


def texts(figure: Figure) -> list[Text]:
    """What is drawn as text; ticks outside of an axis's range are objects too, but not drawn."""
    figure.draw_without_rendering()
    unseen = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        unseen |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in found if text not in unseen]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("benchmarks", BENCHMARKS)
def test_no_text_overlaps_another_or_leaves_the_figure(grid: str, benchmarks: str) -> None:
    curves = made_up(GRIDS[grid], BENCHMARKS[benchmarks])
    hard = {key: [replace(point, accuracy=0.05, low=0.04, high=0.06) for point in points]
            for key, points in curves.trials[0].accuracy.items() if key[1] == "aime24"}  # fmt: skip
    apart = replace(curves, trials=tuple(replace(each, accuracy=each.accuracy | hard) for each in curves.trials))
    figures = (accuracy_figure(curves, SAMPLED), accuracy_figure(apart, SAMPLED))
    for figure in (*figures, training_figure(curves), probability_figure(curves)):
        assert figure is not None
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
        for name, box in boxes:
            assert min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, name
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1), (one, other)


def test_the_svg_holds_every_label_as_text(tmp_path: Path) -> None:
    curves = made_up(GRIDS["ablation"], BENCHMARKS["five"])
    figure = accuracy_figure(curves, SAMPLED)
    assert figure is not None
    png, svg = save(figure, tmp_path / "accuracy_v1.0")
    expected = [
        "optimizer step",
        "accuracy (%)",
        "base model",
        "temperature 1, 16 samples",
        "average of the benchmarks",
    ]
    expected += [
        *BENCHMARKS["five"][1:],
        *GRIDS["ablation"][RATE],
        "batch size: 128",
        "learning rate",
        "sft",
        "dft",
        NOTE,
    ]
    drawing = svg.read_text()
    assert [label for label in expected if label not in drawing] == []
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    assert (width, height) == tuple(int(150 * inches) for inches in figure.get_size_inches())


def test_the_same_curves_give_the_same_file(tmp_path: Path) -> None:
    curves = made_up(GRIDS["quickstart"], BENCHMARKS["one"])
    drawings = []
    for name in ("one", "two"):
        figure = training_figure(curves)
        assert figure is not None
        drawings.append(save(figure, tmp_path / name)[1].read_bytes())
    assert drawings[0] == drawings[1]


def test_all_panels_share_one_range_that_holds_every_interval() -> None:
    figure = accuracy_figure(made_up(GRIDS["ablation"], BENCHMARKS["five"]), SAMPLED)
    assert figure is not None
    limits = {ax.get_ylim() for ax in figure.axes}
    assert len(limits) == 1
    ((low, high),) = limits
    assert low < 27 and high > 100 * (0.3 + 0.3 + 0.02 * 23) * 0.97


def test_benchmarks_of_very_different_difficulty_have_ranges_of_their_own() -> None:
    curves = made_up(GRIDS["quickstart"], BENCHMARKS["five"])
    hard = {("eval", "aime24"): [Measured(step, 0.02 + step / 3000, 0.01, 0.05) for step in range(0, 61, 10)]}
    curves = replace(curves, trials=tuple(replace(each, accuracy=each.accuracy | hard) for each in curves.trials))
    figure = accuracy_figure(curves, SAMPLED)
    assert figure is not None
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert panels["aime24"].get_ylim() == (0.0, 6.0)
    assert panels["amc23"].get_ylim() == panels["math500"].get_ylim() != panels["aime24"].get_ylim()
    assert all(ax.yaxis.get_tick_params()["labelleft"] for ax in figure.axes)
    assert all(any(label.get_text() for label in ax.get_yticklabels()) for ax in figure.axes)


def test_a_trial_looks_the_same_whatever_else_is_in_the_sweep() -> None:
    alone, many = (
        made_up({OBJECTIVE: ["dft"]}, ("gsm8k",)),
        made_up({OBJECTIVE: ["ppo", "sft", "dft"]}, ("gsm8k",)),
    )
    assert Styles(alone).look(alone.trials[0]) == Styles(many).look(many.trials[2])
    looks = {Styles(many).look(trial) for trial in many.trials}
    assert len(looks) == 3


def test_every_trial_of_a_row_looks_different() -> None:
    curves = made_up(GRIDS["ablation"], ("gsm8k",))
    styles = Styles(curves)
    assert len({(styles.row_of(trial), styles.look(trial)) for trial in curves.trials}) == len(curves.trials)
    assert styles.rows == ["batch size: 64", "batch size: 128", "batch size: 256"]


def test_nothing_measured_gives_no_figure() -> None:
    curves = made_up({}, ("gsm8k",))
    empty = replace(curves, trials=(replace(curves.trials[0], accuracy={("eval", "gsm8k"): []}, training={}),))
    assert accuracy_figure(empty, SAMPLED) is None
    assert training_figure(empty) is None


def test_only_the_base_model_measured_still_draws() -> None:
    figure = accuracy_figure(made_up({}, ("gsm8k",), steps=0), SAMPLED)
    assert figure is not None
    assert "0" in {label.get_text() for label in figure.axes[0].get_xticklabels()}
