"""`dft-sweeps report`: the tables and figures of a sweep, or of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dft_sweeps.cli.options import (
    json_option,
    resolve_tracking_uri,
    storage_option,
    tracking_uri_option,
    writable_storage,
)
from dft_sweeps.cli.printing import console, print_json
from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from dft_sweeps.report.curves import SweepCurves
    from dft_sweeps.tracking.reader import SweepRow

Wanted = Callable[["SweepCurves"], Sequence[str]]
"""Which benchmarks of a sweep get tables of their own."""


@click.command()
@click.argument("sweeps", metavar="ID...", nargs=-1, required=True)
@click.option("--benchmark", "wanted", multiple=True, help="A table for this benchmark too; may be repeated.")
@click.option("--all-benchmarks", is_flag=True, help="A table for every benchmark.")
@storage_option
@tracking_uri_option
@json_option
def command(
    sweeps: tuple[str, ...],
    wanted: tuple[str, ...],
    all_benchmarks: bool,
    storage: Path,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Make the tables and figures of a sweep, finished or not, from what MLflow holds.

    ID is a sweep's id, the beginning of one, or the name of a sweep (its newest run). Prints the table of
    the average accuracy per sampling; writes tables (Markdown, CSV) and figures (PNG, SVG) to
    STORAGE/reports/ID, and adds them to the sweep's run in MLflow.

    Figures are accuracy by optimizer step and, where learning rate or batch size is an axis, the accuracy at
    the last step by those. Of several sweeps of equal measures, the latter are drawn in one figure besides.
    Of a sweep with a search, the accuracy at the last step is drawn by every dimension that was searched, and the
    best point of each arm (variant and axes' values) is named.

    Trials that differ in train.seed alone are one row and one line, their mean, and intervals hold the spread
    over seeds. The best trial and step are named, with how they were chosen: on the questions that
    evaluation.selection_share holds out, or else on the test questions, which makes the number too high.

    \b
    Example:
      dft-sweeps report quickstart
      dft-sweeps report s-3f9a --benchmark gsm8k
      dft-sweeps report figure3-learning-rate figure3-batch-size
    """
    uri = resolve_tracking_uri(storage, tracking_uri)
    chosen: Wanted = (lambda curves: curves.benchmarks) if all_benchmarks else lambda curves: wanted
    if len(sweeps) == 1:
        return print_report(uri, storage, sweeps[0], chosen, as_json)
    _print_reports(uri, storage, sweeps, chosen, as_json)


def print_report(
    uri: str, storage: Path, sweep: str, wanted: Wanted = lambda curves: (), as_json: bool = False
) -> None:
    """Writes the report of a sweep, adds it to the sweep's run, and prints the tables and where everything is."""
    from dft_sweeps.report.collect import collect
    from dft_sweeps.tracking.reader import Reader

    reader = Reader(uri)
    found = reader.find_sweep(sweep)
    report = _write(uri, storage, found, collect(reader, found), wanted)
    if as_json:
        return print_json(_record(report))
    _print(report)


def _print_reports(uri: str, storage: Path, sweeps: Sequence[str], wanted: Wanted, as_json: bool) -> None:
    """The report of each sweep, and then what they show together, which is added to the runs of all."""
    from dft_sweeps.report.collect import collect
    from dft_sweeps.report.write import write_together
    from dft_sweeps.tracking.reader import Reader
    from dft_sweeps.tracking.writer import Tracker

    reader = Reader(uri)
    rows = list({row.sweep_id: row for row in map(reader.find_sweep, sweeps)}.values())
    if len(rows) == 1:
        return print_report(uri, storage, rows[0].sweep_id, wanted, as_json)
    for row in rows[1:]:
        if row.measures != rows[0].measures:
            raise SpecError(
                f"{rows[0].name} and {row.name} measure different things (their `trial.evaluation`, template or "
                "context), so no figure shows both; report each alone"
            )
    curves = [collect(reader, row) for row in rows]
    folder = "_".join(row.sweep_id for row in rows)
    paths = write_together(curves, writable_storage(storage) / "reports" / folder)
    reports = [_write(uri, storage, row, each, wanted) for row, each in zip(rows, curves, strict=True)]
    tracker = Tracker(uri, None)
    for row in rows:
        for path in paths:
            tracker.log_file(row.run_id, path, f"report/{folder}")
    if as_json:
        return print_json({"sweeps": [_record(report) for report in reports], "files": [str(path) for path in paths]})
    for report in reports:
        _print(report)
    _print_paths(paths)


@dataclass(frozen=True)
class _Report:
    curves: SweepCurves
    benchmarks: list[str]
    """Those with tables."""
    paths: list[Path]


def _write(uri: str, storage: Path, row: SweepRow, curves: SweepCurves, wanted: Wanted) -> _Report:
    from dft_sweeps.report.write import write_report
    from dft_sweeps.tracking.writer import Tracker

    benchmarks = _chosen(curves, wanted(curves))
    paths = write_report(curves, benchmarks, writable_storage(storage) / "reports" / row.sweep_id)
    tracker = Tracker(uri, None)
    for path in paths:
        tracker.log_file(row.run_id, path, "report")
    return _Report(curves, benchmarks, paths)


def _record(report: _Report) -> dict[str, Any]:
    from dft_sweeps.report.best import best
    from dft_sweeps.report.tables import records

    curves = report.curves
    found_best = [best(curves, sampling) for sampling in curves.samplings]
    return {
        "curves": records(curves),
        "best": [each for each in found_best if each is not None],
        "notes": curves.notes,
        "files": [str(path) for path in report.paths],
    }


def _chosen(curves: SweepCurves, wanted: Sequence[str]) -> list[str]:
    """The headline (the average, or the only benchmark) and then what is wanted besides."""
    unknown = sorted(set(wanted) - set(curves.benchmarks))
    if unknown:
        raise SpecError(
            f"no benchmark {unknown[0]!r} in this sweep; it has {', '.join(curves.benchmarks)}", "--benchmark"
        )
    return list(dict.fromkeys([*curves.benchmarks[:1], *wanted]))


def _print(report: _Report) -> None:
    from dft_sweeps.report.best import sentences
    from dft_sweeps.report.tables import accuracy_tables, rich_table

    out = console()
    curves = report.curves
    for table in accuracy_tables(curves, report.benchmarks):
        out.print(rich_table(table, out.width))
        out.print()
    for note in (*sentences(curves), *curves.accuracy_notes, *curves.notes):
        out.print(note, soft_wrap=True, markup=False)
    out.print()
    _print_paths(report.paths)


def _print_paths(paths: Sequence[Path]) -> None:
    for path in paths:
        console().print(str(path), soft_wrap=True, markup=False)
