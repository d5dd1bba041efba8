"""The histograms of the targets' probabilities come from MLflow whole, and are drawn beside the base model's."""

from __future__ import annotations

import csv
import io
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from dft_sweeps.report.collect import collect
from dft_sweeps.report.curves import SweepCurves
from dft_sweeps.report.probabilities import csv_text, probability_figure
from dft_sweeps.report.style import BASE_STEPS, Styles
from dft_sweeps.report.write import write_report
from dft_sweeps.spec.models import HistogramSpec
from dft_sweeps.tracking.names import probability_bin
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.store import connect
from dft_sweeps.tracking.writer import Tracker
from tests.report.synthetic_sweep import histogram, trials, write_sweep
from tests.report.test_figures import GRIDS, OBJECTIVE, RATE, made_up

EDGES = HistogramSpec().edges


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    storage = tmp_path_factory.mktemp("storage")
    uri = f"sqlite:///{storage}/mlflow.db"
    write_sweep(Tracker(uri, str(storage / "artifacts")), steps=20, edges=EDGES)
    return uri


@pytest.fixture(scope="module")
def curves(uri: str) -> SweepCurves:
    reader = Reader(uri)
    return collect(reader, reader.find_sweep("quickstart"))


def drawn(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.axison]


def steps(ax: Axes) -> dict[str, list[float]]:
    """Colour to the shares in percent of each step line."""
    found = [patch for patch in ax.patches if isinstance(patch, StepPatch) and not patch.get_fill()]
    return {to_hex(patch.get_edgecolor()).upper(): list(patch.get_data().values) for patch in found}


def percent(shares: tuple[float, ...]) -> list[float]:
    return [100 * share for share in shares]


def test_every_histogram_is_read_back_with_the_edges_that_were_logged(curves: SweepCurves) -> None:
    for trial, made in zip(curves.trials, trials(), strict=True):
        kind, rate = made["axes"][OBJECTIVE], made["axes"][RATE]
        assert trial.histograms == {step: tuple(histogram(kind, rate, step, EDGES)) for step in (0, 10, 20)}
        assert trial.edges == EDGES
    assert curves.histogram_notes == ("Measured on the targets of 32 training samples.",)


def test_a_panel_shows_the_base_model_and_every_objective_at_its_last_step(curves: SweepCurves) -> None:
    figure = probability_figure(curves)
    assert figure is not None
    styles = Styles(curves)
    sft, dft = curves.trials[0], curves.trials[2]
    assert (sft.values[OBJECTIVE], dft.values[OBJECTIVE]) == ("sft", "dft")
    assert sft.values[RATE] == dft.values[RATE] == "3e-4"
    assert steps(drawn(figure)[0]) == {
        BASE_STEPS["color"]: percent(sft.histograms[0]),
        styles.look(sft).colour: percent(sft.histograms[20]),
        styles.look(dft).colour: percent(dft.histograms[20]),
    }


def test_a_combination_without_a_trial_stays_blank_and_its_neighbours_keep_their_labels(curves: SweepCurves) -> None:
    figure = probability_figure(curves)  # the clean variant has one learning rate of two
    assert figure is not None
    assert [ax.axison for ax in figure.axes] == [True, True, True, False]
    above_blank = figure.axes[1]
    assert above_blank.get_xlabel() == "probability of the target token"
    assert above_blank.xaxis.get_tick_params()["labelbottom"]


def test_the_csv_holds_every_bin_of_every_step(curves: SweepCurves) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(curves))))
    assert len(rows) == len(curves.trials) * 3 * (len(EDGES) - 1)
    for trial in curves.trials:
        for step, shares in trial.histograms.items():
            own = [row for row in rows if (row["training_id"], row["step"]) == (trial.training_id, str(step))]
            assert [float(row["share"]) for row in own] == list(shares)
            assert [float(row["probability_low"]) for row in own] == list(EDGES[:-1])
            assert [float(row["probability_high"]) for row in own] == list(EDGES[1:])
            assert own[0][OBJECTIVE] == trial.values[OBJECTIVE]


def test_a_sweep_without_histograms_gets_no_figure_and_no_csv(curves: SweepCurves, tmp_path: Path) -> None:
    without = replace(curves, trials=tuple(replace(trial, histograms={}) for trial in curves.trials))
    assert probability_figure(without) is None
    with_, bare = (
        {path.name for path in write_report(made, (), tmp_path / name)}
        for name, made in (("with", curves), ("without", without))
    )
    assert with_ - bare == {"probabilities.csv", "probabilities.png", "probabilities.svg"}
    assert bare < with_


def test_a_step_that_lacks_a_bin_is_left_out(uri: str) -> None:
    reader = Reader(uri)
    sweep = reader.find_sweep("quickstart")
    run = reader.trials(sweep)[-1].run_id
    assert run is not None
    connect(uri, create=False).log_metric(run, probability_bin(0), 0.5, step=30)
    assert list(collect(reader, sweep).trials[-1].histograms) == [0, 10, 20]


def test_histograms_whose_edges_were_not_logged_are_left_out(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    write_sweep(Tracker(uri, str(tmp_path / "artifacts")), steps=10)
    reader = Reader(uri)
    sweep = reader.find_sweep("quickstart")
    for trial in reader.trials(sweep):
        assert trial.run_id is not None
        for index in range(20):
            connect(uri, create=False).log_metric(trial.run_id, probability_bin(index), 0.05, step=0)
    curves = collect(reader, sweep)
    assert [(trial.edges, trial.histograms) for trial in curves.trials] == [((), {})] * len(trials())
    assert probability_figure(curves) is None


def with_histograms(
    curves: SweepCurves, histograms: dict[int, tuple[float, ...]], edges: tuple[float, ...] = (0.0, 0.5, 1.0)
) -> SweepCurves:
    made = (replace(trial, histograms=histograms, edges=edges) for trial in curves.trials)
    return replace(curves, trials=tuple(made))


@pytest.mark.parametrize(("least", "lowest"), [(0.0, 0.1), (0.03, 0.1), (0.0009, 0.063), (2e-5, 0.0014)])
def test_the_log_axis_is_the_papers_and_goes_further_down_for_lower_shares(least: float, lowest: float) -> None:
    histograms = {0: (0.25, 0.25, 0.5), 60: (0.0, least, 1 - least)}
    curves = with_histograms(made_up({}, ("gsm8k",)), histograms, (0.0, 0.01, 0.1, 1.0))
    figure = probability_figure(curves)
    assert figure is not None
    (ax,) = drawn(figure)
    assert ax.get_yscale() == "log"
    assert ax.get_ylim() == pytest.approx((lowest, 125))
    assert {"0.1", "1", "10", "100"} <= {label.get_text() for label in ax.get_yticklabels()}


def tick_labels(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_xticklabels()]


def test_the_papers_bins_are_equally_wide_and_have_a_label_at_every_edge(curves: SweepCurves) -> None:
    figure = probability_figure(curves)
    assert figure is not None
    (ax, *_) = drawn(figure)
    assert tick_labels(ax) == [
        "0", "1e-4", "1e-3", "0.01", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"
    ]  # fmt: skip
    places = {tuple(patch.get_data().edges) for patch in ax.patches if isinstance(patch, StepPatch)}
    assert places == {tuple(range(14))}


def test_labels_of_many_edges_are_thinned_out() -> None:
    bins = 80
    edges = tuple(index / bins for index in range(bins + 1))
    figure = probability_figure(with_histograms(made_up({}, ("gsm8k",)), {0: (1 / bins,) * bins}, edges))
    assert figure is not None
    (ax,) = drawn(figure)
    assert list(ax.get_xticks()) == list(range(bins + 1))
    labels = ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]
    assert [label for label in tick_labels(ax) if label] == labels
    assert tick_labels(ax)[::8] == labels


@pytest.mark.parametrize("bins", [1, 2, 19, 37, 128])
def test_labels_of_edges_do_not_overlap(bins: int) -> None:
    edges = tuple((index / bins) ** 3 for index in range(bins + 1))
    figure = probability_figure(with_histograms(made_up({}, ("gsm8k",)), {0: (1 / bins,) * bins}, edges))
    assert figure is not None
    (ax,) = drawn(figure)
    assert (tick_labels(ax)[0], tick_labels(ax)[-1]) == ("0", "1.0")
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_trials_of_different_edges_stand_at_their_own() -> None:
    curves = with_histograms(made_up(GRIDS["two objectives"], ("gsm8k",)), {0: (0.2, 0.8), 60: (0.1, 0.9)})
    finer = replace(curves.trials[1], edges=(0.0, 0.1, 0.5, 1.0), histograms={60: (0.2, 0.3, 0.5)})
    figure = probability_figure(replace(curves, trials=(curves.trials[0], finer)))
    assert figure is not None
    (ax,) = drawn(figure)
    assert tick_labels(ax) == ["0", "0.1", "0.5", "1.0"]
    places = [list(patch.get_data().edges) for patch in ax.patches if isinstance(patch, StepPatch)]
    assert places == [[0, 2, 3]] * 3 + [[0, 1, 2, 3]]  # the base model is filled and outlined


def test_before_the_first_step_the_base_model_is_drawn_alone() -> None:
    figure = probability_figure(with_histograms(made_up(GRIDS["two objectives"], ("gsm8k",)), {0: (0.2, 0.8)}))
    assert figure is not None
    assert [steps(ax) for ax in drawn(figure)] == [{BASE_STEPS["color"]: [20.0, 80.0]}]


def test_many_objectives_have_a_panel_each() -> None:
    kinds = ["sft", "dft", "power", "focal", "eaft", "psft", "asft", "iw_sft", "sentence_weighted"]
    curves = with_histograms(made_up({OBJECTIVE: kinds}, ("gsm8k",)), {0: (0.2, 0.8), 60: (0.1, 0.9)})
    figure = probability_figure(curves)
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in drawn(figure)] == [f"objective: {kind}" for kind in kinds]
    assert [len(steps(ax)) for ax in drawn(figure)] == [2] * len(kinds)
    assert len({colour for ax in drawn(figure) for colour in steps(ax)}) == len(kinds) + 1


def test_trials_of_different_lengths_are_shown_where_each_of_them_ends() -> None:
    curves = with_histograms(made_up(GRIDS["two objectives"], ("gsm8k",)), {0: (0.2, 0.8), 60: (0.1, 0.9)})
    short = replace(curves.trials[0], histograms={0: (0.2, 0.8), 30: (0.15, 0.85)})
    for trials_, subtitle in (
        (curves.trials, "at step 60"),
        ((short, curves.trials[1]), "at the last step of each trial"),
    ):
        figure = probability_figure(replace(curves, trials=trials_))
        assert figure is not None
        assert f"under the base model and {subtitle}" in [text.get_text() for text in figure.texts]
    assert steps(drawn(figure)[0])[Styles(curves).look(short).colour] == [15.0, 85.0]
