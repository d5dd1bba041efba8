"""Trials and cells by what a user calls them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dft_sweeps.report.cells import Cell, cells
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.reader import Reader, SweepRow


def cells_of(reader: Reader, sweep: SweepRow) -> list[Cell]:
    return cells(reader.trials(sweep), reader.spec_text(sweep))


def find(reader: Reader, wanted: str, sweep: str | None) -> list[Cell]:
    """All cells of a sweep; or one trial, or one cell of several seeds, of `sweep` or else of any.

    A trial goes by its name, its id or the beginning of either; a cell by its trials' name without the seed, or the
    beginning of that.

    Raises:
        SpecError: there is no such thing, or several; lists them.
    """
    if sweep is not None:
        found = cells_of(reader, reader.find_sweep(sweep))
        if (one := _one(wanted, found)) is None:
            raise SpecError(f"no trial {wanted!r} in the sweep {sweep!r}; it has{_lines(found)}")
        return [one]
    try:
        return cells_of(reader, reader.find_sweep(wanted))
    except SpecError as error:
        found = [cell for each in reader.sweeps() for cell in cells_of(reader, each)]
        if (one := _one(wanted, found)) is None:
            raise SpecError(f"{error}\nNor is there a trial {wanted!r}") from error
        return [one]


def pair_up(first: Sequence[Cell], second: Sequence[Cell]) -> tuple[list[tuple[Cell, Cell]], list[str]]:
    """Cells of two sweeps of equal names, seeds aside; and what was left out, in words.

    Raises:
        SpecError: there are none.
    """
    named = {cell.name: cell for cell in second}
    pairs = [(cell, named[cell.name]) for cell in first if cell.name in named]
    paired = {one.name for one, _ in pairs}
    alone = [cell.name for cell in (*first, *second) if cell.name not in paired]
    shared = [one.name for one, other in pairs if ids(one) & ids(other)]
    left_out = [f"in one sweep only: {', '.join(alone)}"] if alone else []
    left_out += [f"the same trial in both sweeps: {', '.join(shared)}"] if shared else []
    pairs = [(one, other) for one, other in pairs if one.name not in shared]
    if not pairs:
        raise SpecError("; ".join(["the sweeps have no trials of equal names to compare", *left_out]))
    return pairs, left_out


def ids(cell: Cell) -> set[str]:
    return {trial.training_id for trial in cell.trials}


def _one(wanted: str, found: Sequence[Cell]) -> Cell | None:
    """The trial or cell of this name or id, or the one whose name or id starts so."""
    trials = {cell.trials[0].training_id: cell for each in found for cell in _alone(each)}
    several = {tuple(sorted(ids(cell))): cell for cell in found if len(cell.trials) > 1}
    for fits in (lambda text: text == wanted, lambda text: text.startswith(wanted)):
        matching = {id_: cell for id_, cell in trials.items() if fits(cell.trials[0].name) or fits(id_)}
        of_cells = [cell for members, cell in several.items() if fits(cell.name) or matching.keys() >= set(members)]
        # Seeds of a cell that is meant are not meant one by one.
        rest = [cell for id_, cell in matching.items() if not any(id_ in ids(cell) for cell in of_cells)]
        if len(of_cells) + len(rest) > 1:
            raise SpecError(
                f"{wanted!r} fits several trials; choose one by its id, or its sweep with --sweep:"
                + _lines([*of_cells, *rest])
            )
        if of_cells or rest:
            return [*of_cells, *rest][0]
    return None


def _alone(cell: Cell) -> list[Cell]:
    """Each trial as a cell of its own, under its full name."""
    return [Cell(trial.name, trial.axes, (trial,)) for trial in cell.trials]


def _lines(found: Iterable[Cell]) -> str:
    lines = []
    for cell in found:
        if len(cell.trials) > 1:
            lines.append(f"{cell.name}  ({len(cell.trials)} seeds)")
        lines += [f"{trial.training_id}  {trial.name}" for trial in cell.trials]
    more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
    return "".join(f"\n  {line}" for line in lines[:20]) + more
