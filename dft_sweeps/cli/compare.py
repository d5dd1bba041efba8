"""`dft-sweeps compare`: two trials, cells, sweeps or checkpoints, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dft_sweeps.cli.options import json_option, resolve_tracking_uri, storage_option, tracking_uri_option
from dft_sweeps.cli.printing import console, print_json
from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from dft_sweeps.report.cells import Cell
    from dft_sweeps.report.comparison import Comparisons, Correction, Difference
    from dft_sweeps.report.sides import Side


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--sweep", metavar="ID", help="A and B are trials of this sweep. [default: sweeps, or trials of any]")
@click.option("--step", type=click.IntRange(0), help="Compare trials at this step. [default: the last of each]")
@click.option(
    "--sampling",
    help="Compare under this sampling: a trial's by its name, a checkpoint's by the beginning of its description, e.g. "
    "'16 samples at temperature 1'. [default: the first of trials, the one in common with a checkpoint]",
)
@click.option("--grader", type=click.Choice(["own", "paper"]), default="own", show_default=True,
              help="Each benchmark's own grader, or the published harness's.")  # fmt: skip
@click.option("--correction", type=click.Choice(["holm", "max-t"]), default="holm", show_default=True,
              help="How p-values are corrected for all comparisons that the command makes; see above.")  # fmt: skip
@storage_option
@tracking_uri_option
@json_option
def command(
    a: str,
    b: str,
    sweep: str | None,
    step: int | None,
    sampling: str | None,
    grader: str,
    correction: Correction,
    storage: Path,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Compare trials, sweeps or checkpoints, paired by question: A's accuracy minus B's.

    A trial is given by its name, its id (t-...), or the beginning of either; several that differ in their training
    seed by that name without the seed; a sweep by its id or name; a checkpoint by its directory, or by a hub id that
    `dft-sweeps evaluate` was given before. Trials of two sweeps are paired by their names, seeds aside.

    Per benchmark, and for the average: the difference with its 95% intervals for new questions and for other samples
    on the same questions, and a p-value. With one training seed on a side it is that of a sign-flip test over
    questions, or, where A and B have different numbers of samples of a question (p*), it inverts the interval for new
    questions; nothing here tells of other seeds. With several on both, intervals hold the spread over seeds, and p is
    the two-level one that inverts the interval for new questions. Questions held out for selection are left out.

    \b
    p-values are also corrected for all comparisons that the command makes:
      holm    holds whatever the comparisons have in common. Right in general, and the only one with several seeds.
      max-t   flips the signs of a question in all comparisons at once, and so uses that these are correlated. Right
              for many comparisons on the same questions with one seed each (two sweeps, trial by trial), where Holm
              gives more away; where comparisons share no questions it is no better. Needs equally many samples.

    \b
    Examples:
      dft-sweeps compare objective=dft objective=sft --sweep quickstart
      dft-sweeps compare s-3f9a s-77c0 --correction max-t --json
      dft-sweeps compare storage/trials/t-3f9a/step-000200 Qwen/Qwen2.5-Math-1.5B
    """
    from dft_sweeps.evaluation.store import CorruptEntry
    from dft_sweeps.report.comparison import compare_all

    uri = resolve_tracking_uri(storage, tracking_uri)
    try:
        pairs, left_out = _pairs(uri, storage, (a, b), sweep, step, grader == "paper")
    except CorruptEntry as error:
        raise SpecError(str(error)) from error
    found = compare_all(pairs, sampling, correction)
    found.not_compared[:0] = left_out
    if as_json:
        return print_json({"differences": found.differences, "notes": [*found.not_compared, *found.notes]})
    _print(found)


def _pairs(
    uri: str, storage: Path, given: tuple[str, str], sweep: str | None, step: int | None, paper: bool
) -> tuple[list[tuple[Side, Side]], list[str]]:
    """What to compare, and what was left out, in words."""
    from dft_sweeps.report.finding import ids, pair_up
    from dft_sweeps.report.sides import trial_side
    from dft_sweeps.report.stored_results import checkpoint_side
    from dft_sweeps.tracking.reader import Reader

    sides = [_cells(uri, name, sweep) for name in given]
    if all(isinstance(each, list) for each in sides):
        first, second = sides
        if len(first) == len(second) == 1:
            if shared := ids(first[0]) & ids(second[0]):
                raise SpecError(f"{given[0]!r} and {given[1]!r} are one trial ({', '.join(sorted(shared))})")
            pairs, left_out = [(first[0], second[0])], []
        elif 1 in {len(first), len(second)}:
            raise SpecError("a trial is compared with a trial, a sweep with a sweep")
        else:
            pairs, left_out = pair_up(first, second)
        reader = Reader(uri)
        return [tuple(trial_side(reader, cell, step, paper) for cell in pair) for pair in pairs], left_out
    found: list[Side] = []
    for name, cells in zip(given, sides, strict=True):
        if cells is None:
            found.append(checkpoint_side(storage, name, Path.cwd(), paper))
        elif len(cells) > 1:
            raise SpecError(f"a checkpoint is compared with a checkpoint or a trial; {name!r} is a sweep")
        else:
            found.append(trial_side(Reader(uri), cells[0], step, paper))
    return [(found[0], found[1])], []


def _cells(uri: str, name: str, sweep: str | None) -> list[Cell] | None:
    """The trials, cells or sweep of this name; None for a checkpoint."""
    from dft_sweeps.report.finding import find
    from dft_sweeps.report.stored_results import is_checkpoint, is_hub_id
    from dft_sweeps.tracking.reader import Reader

    if is_checkpoint(name, Path.cwd()):
        return None
    try:
        return find(Reader(uri), name, sweep)
    except SpecError:
        if is_hub_id(name):
            return None
        raise


def _print(found: Comparisons) -> None:
    out = console()
    several = len(found.differences) > 1
    for a, b in dict.fromkeys((each.a, each.b) for each in found.differences):
        out.print(_table([each for each in found.differences if (each.a, each.b) == (a, b)]))
    chosen = found.differences[0].correction
    method = {"holm": "Holm's method", "max-t": "max-T over shared sign flips"}[chosen]
    family = f"corrected for {len(found.differences)} comparisons by {method}" if several else "there is one comparison"
    lines = _methods(found.differences)
    lines.append(f"p ({chosen}): {family}.")
    lines += [f"Not compared: {each}." for each in found.not_compared]
    lines += [f"Note: {each}." for each in found.notes]
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)


def _methods(rows: Sequence[Difference]) -> list[str]:
    """What the p-values are of, in words."""
    from dft_sweeps.evaluation.paired import INTERVAL, SIGN_FLIP

    tests, of_these_seeds = ({getattr(each, name) for each in rows} for name in ("p_test", "p_these_seeds_test"))
    lines = []
    if SIGN_FLIP in tests:
        lines.append("p: sign-flip test over questions.")
    if tests & {SIGN_FLIP, INTERVAL}:
        lines.append("Neither p-values nor intervals hold the spread over training seeds.")
    if of_these_seeds != {None}:
        lines.append(
            "p with several seeds: for other seeds and questions, one less the highest level whose interval leaves out "
            "0 (t over seeds joined to the interval over questions). p, these seeds: sign-flip test over questions on "
            "means over the seeds; it tells of these trained policies and nothing of other seeds, so claim by p. SD: "
            "standard deviation of the accuracy over seeds."
        )
    if INTERVAL in tests | of_these_seeds:
        lines.append("p*: A and B have different numbers of samples of a question, for which no sign-flip test holds; "
                     "one less the highest level whose interval for new questions leaves out 0.")  # fmt: skip
    return lines


def _p_value(p_value: float | None, test: str | None) -> str:
    from dft_sweeps.evaluation.paired import INTERVAL

    return f"{p_value:.4f}{'*' if test == INTERVAL else ''}"


def _table(rows: Sequence[Difference]) -> Any:
    from rich.table import Table

    first = rows[0]
    seeds = first.p_these_seeds is not None
    names = [f"{name} ({count} seeds)" if count > 1 else name
             for name, count in ((first.a, first.seeds_a), (first.b, first.seeds_b))]  # fmt: skip
    title = " minus ".join(names) if names[0] != names[1] else f"{names[0]}, first sweep minus second"
    table = Table(title=f"{title}: accuracy (%){_steps(first)}, {first.sampling}", title_justify="left")
    table.add_column("benchmark")
    table.add_column("grader")
    spread = ["SD A, B"] if seeds else []
    alone = ["p, these seeds"] if seeds else []
    for heading in ("A", "B", *spread, "A - B", "95% for new questions", "95% for this fixed list", "p",
                    f"p ({first.correction})", *alone):  # fmt: skip
        table.add_column(heading, justify="right")
    for each in rows:
        table.add_row(
            each.benchmark,
            each.grader,
            f"{100 * each.accuracy_a:.1f}",
            f"{100 * each.accuracy_b:.1f}",
            *(f"{100 * (each.seed_spread_a or 0):.1f}, {100 * (each.seed_spread_b or 0):.1f}" for _ in spread),
            f"{100 * each.difference:+.1f}",
            _range(each.ci_low, each.ci_high),
            _range(each.fixed_low, each.fixed_high),
            _p_value(each.p_value, each.p_test),
            f"{each.p_corrected:.4f}",
            *(_p_value(each.p_these_seeds, each.p_these_seeds_test) for _ in alone),
        )
    return table


def _steps(row: Difference) -> str:
    """E.g. `` at step 120``; the steps of a trial and a checkpoint that has none, or of two trials."""
    steps = [step for step in (row.step_a, row.step_b) if step is not None]
    return f" at step {' and '.join(map(str, dict.fromkeys(steps)))}" if steps else ""


def _range(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f}"
