"""Writes a sweep's tables and figures to a folder. Files of an earlier report are replaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dft_sweeps.report import figures, probabilities, tables
from dft_sweeps.report.ablation import ablation_figures
from dft_sweeps.report.best import sentences
from dft_sweeps.report.curves import SweepCurves
from dft_sweeps.report.searched import by_arm, search_figure
from dft_sweeps.spec.errors import SpecError


def write_report(curves: SweepCurves, benchmarks: Sequence[str], folder: Path) -> list[Path]:
    """Tables of `benchmarks` (``average`` may be one) as Markdown, all measurements as CSV, and the figures.

    Files on the target tokens' probabilities are written for a sweep that has measured them.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes = [*sentences(curves), *curves.accuracy_notes, *curves.notes]
    parts = [tables.markdown(table, notes) for table in tables.accuracy_tables(curves, benchmarks)]
    (folder / "tables.md").write_text("\n".join(parts), encoding="utf-8")
    (folder / "accuracy.csv").write_text(tables.csv_text(curves), encoding="utf-8")
    written = [folder / "tables.md", folder / "accuracy.csv"]
    if any(trial.histograms for trial in curves.trials):
        (folder / "probabilities.csv").write_text(probabilities.csv_text(curves), encoding="utf-8")
        written.append(folder / "probabilities.csv")
    shown = by_arm(curves)
    drawn = {f"accuracy_{sampling.name}": figures.accuracy_figure(shown, sampling) for sampling in curves.samplings}
    drawn |= {f"search_{sampling.name}": search_figure(curves, sampling) for sampling in curves.samplings}
    drawn |= ablation_figures([curves])
    drawn["training"] = figures.training_figure(shown)
    drawn["probabilities"] = probabilities.probability_figure(shown)
    for name, figure in drawn.items():
        if figure is not None:
            written += figures.save(figure, folder / name)
    return written


def write_together(sweeps: Sequence[SweepCurves], folder: Path) -> list[Path]:
    """What several sweeps of equal measures show together: accuracy against learning rate and batch size.

    Raises:
        SpecError: nothing of the kind is measured in any of them.
        OSError: the folder cannot be written.
    """
    drawn = ablation_figures(sweeps)
    if not any(drawn.values()):
        raise SpecError(
            "these sweeps show nothing together: that takes finished trials of several learning rates or batch sizes"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return [path for name, figure in drawn.items() if figure for path in figures.save(figure, folder / name)]
