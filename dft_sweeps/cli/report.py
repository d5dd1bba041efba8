"""`dft-sweeps report`: the tables and figures of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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


@click.command()
@click.argument("sweep", metavar="ID")
@click.option("--benchmark", "wanted", multiple=True, help="A table for this benchmark too; may be repeated.")
@click.option("--all-benchmarks", is_flag=True, help="A table for every benchmark.")
@storage_option
@tracking_uri_option
@json_option
def command(
    sweep: str,
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

    Trials that differ in train.seed alone are one row and one line, their mean, and intervals hold the spread
    over seeds. The best trial and step are named, with how they were chosen: on the questions that
    evaluation.selection_share holds out, or else on the test questions, which makes the number too high.

    \b
    Example:
      dft-sweeps report quickstart
      dft-sweeps report s-3f9a --benchmark gsm8k
    """
    uri = resolve_tracking_uri(storage, tracking_uri)
    print_report(uri, storage, sweep, lambda curves: curves.benchmarks if all_benchmarks else wanted, as_json)


def print_report(
    uri: str,
    storage: Path,
    sweep: str,
    wanted: Callable[[SweepCurves], Sequence[str]] = lambda curves: (),
    as_json: bool = False,
) -> None:
    """Writes the report of a sweep, adds it to the sweep's run, and prints the tables and where everything is."""
    from dft_sweeps.report.best import best
    from dft_sweeps.report.collect import collect
    from dft_sweeps.report.tables import records
    from dft_sweeps.report.write import write_report
    from dft_sweeps.tracking.reader import Reader
    from dft_sweeps.tracking.writer import Tracker

    reader = Reader(uri)
    found = reader.find_sweep(sweep)
    curves = collect(reader, found)
    benchmarks = _chosen(curves, wanted(curves))
    paths = write_report(curves, benchmarks, writable_storage(storage) / "reports" / found.sweep_id)
    tracker = Tracker(uri, None)
    for path in paths:
        tracker.log_file(found.run_id, path, "report")
    if as_json:
        found_best = [best(curves, sampling) for sampling in curves.samplings]
        return print_json(
            {
                "curves": records(curves),
                "best": [each for each in found_best if each is not None],
                "notes": curves.notes,
                "files": [str(path) for path in paths],
            }
        )
    _print(curves, benchmarks, paths)


def _chosen(curves: SweepCurves, wanted: Sequence[str]) -> list[str]:
    """The headline (the average, or the only benchmark) and then what is wanted besides."""
    unknown = sorted(set(wanted) - set(curves.benchmarks))
    if unknown:
        raise SpecError(
            f"no benchmark {unknown[0]!r} in this sweep; it has {', '.join(curves.benchmarks)}", "--benchmark"
        )
    return list(dict.fromkeys([*curves.benchmarks[:1], *wanted]))


def _print(curves: SweepCurves, benchmarks: Sequence[str], paths: Sequence[Path]) -> None:
    from dft_sweeps.report.best import sentences
    from dft_sweeps.report.tables import accuracy_tables, rich_table

    out = console()
    for table in accuracy_tables(curves, benchmarks):
        out.print(rich_table(table, out.width))
        out.print()
    for note in (*sentences(curves), *curves.accuracy_notes, *curves.notes):
        out.print(note, soft_wrap=True, markup=False)
    out.print()
    for path in paths:
        out.print(str(path), soft_wrap=True, markup=False)
