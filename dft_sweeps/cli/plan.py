"""`dft-sweeps plan`: checks a spec and shows what it would run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dft_sweeps.cli.options import (
    json_option,
    resolve_tracking_uri,
    set_option,
    spec_argument,
    storage_option,
    tracking_uri_option,
)
from dft_sweeps.cli.printing import console, print_json
from dft_sweeps.cli.prompts_in_words import prompts_in_words, sampling_in_words
from dft_sweeps.cli.smallest_differences import ASSUMPTIONS, differences_table, small_sets, smallest_differences

if TYPE_CHECKING:
    from dft_sweeps.orchestration.prepare import PreparedSweep
    from dft_sweeps.spec.plan import Cell, Plan


@click.command()
@spec_argument
@set_option
@storage_option
@tracking_uri_option
@json_option
def command(spec: Path, overrides: tuple[str, ...], storage: Path, tracking_uri: str | None, as_json: bool) -> None:
    """Check a spec and show its trials: what each would train on and evaluate, and which are done already.

    Everything the spec names is read and checked, the model, the data and the benchmarks; nothing is started.

    \b
    Example:
      dft-sweeps plan sweep_specs/quickstart.yaml
      dft-sweeps plan sweep_specs/quickstart.yaml --set trial.train.steps=20
    """
    from dft_sweeps.cli.gather import finished, plan_of, this_machine
    from dft_sweeps.orchestration.prepare import prepare
    from dft_sweeps.spec.load import load_sweep

    prepared = prepare(load_sweep(spec, overrides))
    plan = plan_of(prepared, finished(resolve_tracking_uri(storage, tracking_uri), prepared), this_machine())
    if as_json:
        return print_json(_record(prepared, plan))
    print_plan(prepared, plan)


def _record(prepared: PreparedSweep, plan: Plan) -> dict[str, object]:
    return {
        "sweep": prepared.sweep_id,
        "name": prepared.sweep.spec.name,
        "measures": prepared.measures,
        "model": {"parameters": prepared.model.parameters, "weights_digest": prepared.model.weights_digest},
        "concurrent_trials": plan.concurrent_trials,
        "missing": plan.missing,
        "base_completions": plan.base_completions,
        "prompts": prompts_in_words(prepared),
        "smallest_differences": smallest_differences(prepared),
        "smallest_differences_assume": ASSUMPTIONS,
        "trials": [
            {
                "fingerprint": cell.training_id,
                "name": cell.name,
                "axes": cell.axes,
                "batch_size": cell.batch_size,
                "steps": cell.steps,
                "tokens": cell.tokens,
                "overlong": cell.overlong,
                "dropped": cell.dropped,
                "preset": {"name": cell.preset.name, "values": cell.preset.values, "words": cell.preset.words},
                "evaluated_steps": cell.evaluated_steps,
                "completions": cell.completions,
                "done": cell.done,
            }
            for cell in plan.cells
        ],
    }


def print_plan(prepared: PreparedSweep, plan: Plan) -> None:
    from rich.table import Table

    out = console()
    table = Table("trial", "id", "steps", "batch", "epochs", "tokens", "evaluated at", "completions", "")
    for cell in plan.cells:
        steps = ", ".join(map(str, cell.evaluated_steps[:6])) + (" ..." if len(cell.evaluated_steps) > 6 else "")
        table.add_row(
            cell.name,
            cell.training_id,
            f"{cell.steps:,}",
            f"{cell.batch_size:,}",
            f"{cell.epochs:.2g}",
            f"{cell.tokens:,}",
            steps,
            f"{cell.completions:,}",
            "done" if cell.done else "",
        )
    out.print(table)
    todo = plan.to_run
    out.print(
        f"Sweep {prepared.sweep_id}: {len(todo)} of {len(plan.cells)} trials to run, "
        f"{sum(cell.tokens for cell in todo):,} training tokens, "
        f"{plan.base_completions + sum(cell.completions for cell in todo):,} completions "
        f"(the base model's {plan.base_completions:,} are shared by all trials).",
        soft_wrap=True,
    )
    for line in [*_recipes(plan.cells), *_overlong(todo), prompts_in_words(prepared), *sampling_in_words(prepared)]:
        out.print(line, soft_wrap=True, markup=False)
    differences = smallest_differences(prepared)
    if differences:
        out.print(differences_table(differences))
        for line in filter(None, [ASSUMPTIONS, small_sets(differences)]):
            out.print(line, soft_wrap=True, markup=False)
    out.print(plan.missing or f"This machine runs {plan.concurrent_trials} of them at a time.", soft_wrap=True)


def _recipes(cells: Sequence[Cell]) -> list[str]:
    """What presets set, in one line for all trials in which that is the same."""
    counts = Counter(cell.preset.words for cell in cells)
    if len(counts) == 1:
        return [f"Recipe: {words}." for words in counts]
    return [f"Recipe of {count} trials: {words}." for words, count in counts.items()]


def _overlong(cells: Sequence[Cell]) -> list[str]:
    """What data.max_length changes: in one line where it is the same for all trials, which mostly share data."""
    counts = {(cell.overlong, cell.dropped) for cell in cells}
    if len(counts) == 1 and (0, 0) not in counts:
        return [overlong_in_words(*counts.pop(), "each trial's data")]
    return [overlong_in_words(cell.overlong, cell.dropped, f"`{cell.name}`") for cell in cells if cell.overlong]


def overlong_in_words(overlong: int, dropped: int, whose: str) -> str:
    begun = f"{overlong:,} samples of {whose} are longer than data.max_length and"
    if dropped == overlong:
        return f"{begun} left out."
    rest = f"; {dropped:,} of them left out, for their prompts alone fill it" if dropped else ""
    return f"{begun} cut off there{rest}."
