"""`dft-sweeps compare`: two trials or two sweeps, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from dft_sweeps.cli.options import json_option, resolve_tracking_uri, storage_option, tracking_uri_option
from dft_sweeps.cli.printing import console, print_json
from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from dft_sweeps.report.comparison import Difference
    from dft_sweeps.tracking.reader import Reader, TrialRow


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--sweep", metavar="ID", help="A and B are trials of this sweep. [default: sweeps, or trials of any]")
@click.option("--step", type=click.IntRange(0), help="Compare at this step. [default: the last of each]")
@click.option("--sampling", help="Compare under this sampling. [default: the first]")
@click.option("--grader", type=click.Choice(["own", "paper"]), default="own", show_default=True,
              help="Each benchmark's own grader, or the published harness's.")  # fmt: skip
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
    storage: Path,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Compare two trials, or two sweeps trial by trial, paired by question: A's accuracy minus B's.

    A trial is given by its name, its id (t-...), or the beginning of either; a sweep by its id or name. Trials of two
    sweeps are paired by their names. Per benchmark, and for the average: the difference with its 95% intervals for
    new questions and for other samples on the same questions, and the p-value of a sign-flip test over questions,
    also as corrected by Holm's method for all comparisons that the command makes. Neither tells of other training
    seeds.

    \b
    Example:
      dft-sweeps compare objective=dft objective=sft --sweep quickstart
      dft-sweeps compare s-3f9a s-77c0 --json
    """
    from dft_sweeps.report.comparison import compare_all, side
    from dft_sweeps.tracking.reader import Reader

    reader = Reader(resolve_tracking_uri(storage, tracking_uri))
    pairs, notes = _pairs(reader, a, b, sweep)
    sides = [[side(reader, trial, step, sampling, grader == "paper") for trial in pair] for pair in pairs]
    differences, left_out = compare_all([(one, other) for one, other in sides])
    if as_json:
        return print_json({"differences": differences, "notes": [*notes, *left_out]})
    _print(differences, [*notes, *left_out])


def _pairs(reader: Reader, a: str, b: str, sweep: str | None) -> tuple[list[tuple[TrialRow, TrialRow]], list[str]]:
    """The trials to compare, and what was left out, in words."""
    first, second = _trials(reader, a, sweep), _trials(reader, b, sweep)
    if len(first) == len(second) == 1:
        if first[0].training_id == second[0].training_id:
            raise SpecError(f"{a!r} and {b!r} are one trial ({first[0].training_id})")
        return [(first[0], second[0])], []
    if 1 in {len(first), len(second)}:
        raise SpecError("a trial is compared with a trial, a sweep with a sweep")
    named = {trial.name: trial for trial in second}
    pairs = [(trial, named[trial.name]) for trial in first if trial.name in named]
    alone = [trial.name for trial in (*first, *second) if trial.name not in {one.name for one, _ in pairs}]
    shared = [one.name for one, other in pairs if one.training_id == other.training_id]
    notes = [f"in one sweep only: {', '.join(alone)}"] if alone else []
    notes += [f"the same trial in both sweeps: {', '.join(shared)}"] if shared else []
    pairs = [(one, other) for one, other in pairs if one.training_id != other.training_id]
    if not pairs:
        raise SpecError("; ".join(["the sweeps have no trials of equal names to compare", *notes]))
    return pairs, notes


def _trials(reader: Reader, wanted: str, sweep: str | None) -> list[TrialRow]:
    """The trials of a sweep, or one trial."""
    if sweep is not None:
        trials = reader.trials(reader.find_sweep(sweep))
        return [_one(wanted, trials) or _refuse(f"no trial {wanted!r} in the sweep {sweep!r}; it has", trials)]
    try:
        return reader.trials(reader.find_sweep(wanted))
    except SpecError as error:
        trials = list({trial.training_id: trial for each in reader.sweeps() for trial in reader.trials(each)}.values())
        trial = _one(wanted, trials)
        if trial is None:
            raise SpecError(f"{error}\nNor is there a trial {wanted!r}") from error
        return [trial]


def _one(wanted: str, trials: Sequence[TrialRow]) -> TrialRow | None:
    """The trial of this name or id, or the one whose name or id starts so."""
    exact = [trial for trial in trials if wanted in (trial.name, trial.training_id)]
    found = exact or [
        trial for trial in trials if trial.name.startswith(wanted) or trial.training_id.startswith(wanted)
    ]
    if len(found) > 1:
        _refuse(f"{wanted!r} fits several trials; choose one by its id, or its sweep with --sweep:", found)
    return found[0] if found else None


def _refuse(message: str, trials: Sequence[TrialRow]) -> NoReturn:
    raise SpecError(message + "".join(f"\n  {trial.training_id}  {trial.name}" for trial in trials[:20]))


def _print(differences: Sequence[Difference], notes: Sequence[str]) -> None:
    from rich.table import Table

    out = console()
    for a, b in dict.fromkeys((each.a, each.b) for each in differences):
        rows = [each for each in differences if (each.a, each.b) == (a, b)]
        steps = f"step {rows[0].step_a}" + (f" and {rows[0].step_b}" if rows[0].step_b != rows[0].step_a else "")
        title = f"{a} minus {b}" if a != b else f"{a}, first sweep minus second"
        table = Table(title=f"{title}: accuracy (%) at {steps}, {rows[0].sampling}", title_justify="left")
        table.add_column("benchmark")
        table.add_column("grader")
        for heading in ("A", "B", "A - B", "95% for new questions", "95% for this fixed list", "p", "p (Holm)"):
            table.add_column(heading, justify="right")
        for each in rows:
            table.add_row(
                each.benchmark,
                each.grader,
                f"{100 * each.accuracy_a:.1f}",
                f"{100 * each.accuracy_b:.1f}",
                f"{100 * each.difference:+.1f}",
                _range(each.ci_low, each.ci_high),
                _range(each.fixed_low, each.fixed_high),
                f"{each.p_value:.4f}",
                f"{each.p_holm:.4f}",
            )
        out.print(table)
    several = f"corrected for {len(differences)} comparisons" if len(differences) > 1 else "there is one comparison"
    out.print(f"p: sign-flip test over questions; Holm: {several}. Neither p-values nor intervals hold the spread over "
              "training seeds.", soft_wrap=True)  # fmt: skip
    for note in notes:
        out.print(f"Not compared: {note}.", soft_wrap=True, markup=False)


def _range(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f}"
