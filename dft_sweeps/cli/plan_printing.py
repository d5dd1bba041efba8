"""A plan in words and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dft_sweeps.cli.printing import console
from dft_sweeps.cli.prompts_in_words import prompts_in_words, sampling_in_words
from dft_sweeps.cli.smallest_differences import ASSUMPTIONS, differences_table, small_sets, smallest_differences

if TYPE_CHECKING:
    from rich.table import Table

    from dft_sweeps.orchestration.prepare import PreparedSweep
    from dft_sweeps.spec.plan import Cell, Plan

UNKNOWN = "?"
MOST_STEPS_SHOWN = 12


def print_plan(prepared: PreparedSweep, plan: Plan, where: str = "This machine") -> None:
    """Args: `where`: what would run it, at the beginning of a sentence."""
    out = console()
    spec = prepared.sweep.spec
    out.print(_table(plan, bool(spec.execution.gpus_per_worker or spec.pool.gpus_per_engine)))
    evaluated = _evaluated(plan.cells)
    for line in [*_totals(prepared, plan), *evaluated, *_recipes(plan.cells), *_overlong(plan.to_run)]:
        out.print(line, soft_wrap=True, markup=False)
    for line in [prompts_in_words(prepared), *sampling_in_words(prepared)]:
        out.print(line, soft_wrap=True, markup=False)
    differences = smallest_differences(prepared)
    if differences:
        out.print(differences_table(differences))
        for line in filter(None, [ASSUMPTIONS, small_sets(differences)]):
            out.print(line, soft_wrap=True, markup=False)
    out.print(plan.missing or f"{where} runs {plan.concurrent_trials} of them at a time.", soft_wrap=True)


def _table(plan: Plan, gpus: bool) -> Table:
    """Fits 100 columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("trial")
    table.add_column("id", no_wrap=True, min_width=18)
    measure = "GPU-h" if gpus else "CPU-h"
    for name in ("steps", "batch", "epochs", "tokens", "points", "eval\ntokens", measure, "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in plan.cells:
        held = hours(cell.hours.gpus if gpus else cell.hours.cpus)
        table.add_row(
            cell.name,
            cell.training_id,
            f"{cell.steps:,}",
            f"{cell.batch_size:,}",
            f"{cell.epochs:.2g}",
            short(cell.tokens),
            str(len(cell.evaluated_steps)),
            short(cell.evaluation_tokens),
            *(("", "done") if cell.done else (held, duration(cell.times.to_last_point))),
        )
    return table


def _evaluated(cells: Sequence[Cell]) -> list[str]:
    """At which steps, where that is the same for all trials."""
    [*steps] = {cell.evaluated_steps for cell in cells}
    if len(steps) > 1:
        return []
    shown = ", ".join(map(str, steps[0][:MOST_STEPS_SHOWN]))
    more = f", ... {steps[0][-1]}" if len(steps[0]) > MOST_STEPS_SHOWN else ""
    return [f"Evaluated after the steps {shown}{more}."]


def short(count: float) -> str:
    """Three digits: 950, 115k, 12.3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}" if count < 999.5 * size else f"{count / size:.0f}{unit}"
    return f"{count:.0f}"


def hours(amount: float | None) -> str:
    return UNKNOWN if amount is None else f"{amount:,.0f}" if amount >= 100 else f"{amount:.2g}"


def duration(amount: float | None) -> str:
    """Seconds in words: 45 s, 12 min, 3.4 h, 5.1 days."""
    if amount is None:
        return UNKNOWN
    if amount < 120:
        return f"{amount:.0f} s"
    if amount < 2 * 3600:
        return f"{amount / 60:.2g} min"
    return f"{amount / 3600:.1f} h" if amount < 48 * 3600 else f"{amount / 86400:.1f} days"


def _totals(prepared: PreparedSweep, plan: Plan) -> list[str]:
    total, costs = plan.total, plan.costs
    proposed = f" ({plan.to_propose} of them to be proposed, reckoned as those above)" if plan.to_propose else ""
    lines = [
        f"Sweep {prepared.sweep_id}: {total.trials} of {len(plan.cells) + plan.to_propose} trials to "
        f"run{proposed}, {total.tokens:,} training "
        f"tokens, {total.completions:,} completions (the base model's {plan.base_completions:,} are shared by all "
        f"trials) of about {total.evaluation_tokens:,} tokens."
    ]
    if not total.trials:
        return lines
    price = costs.price_per_gpu_hour
    money = f" At {price:g} per GPU-hour that is {hours(total.money)}." if price is not None else ""
    lines.append(
        f"In all {duration(total.seconds)}, {hours(total.hours.gpus)} GPU-hours and {hours(total.hours.cpus)} "
        f"CPU-hours, waiting engines included.{money}"
    )
    return [*lines, *_halving(plan), _reckoned_with(plan), *_budget(prepared, plan)]


def _halving(plan: Plan) -> list[str]:
    """How far trials are expected to train where some are stopped, and what it would be if none were."""
    if not plan.reached:
        return []
    (first, *others), whole = plan.reached, plan.whole
    ends = ["the end" if step is None else f"step {step:,}" for step, _ in plan.reached]
    on = [f"about {each.trials:,.0f} to {end}" for each, end in zip(others, ends[1:], strict=True)]
    trials = f"{first.trials:,.0f} trials train to {ends[0]}, {', '.join(on)}"
    return [
        f"That is expected of successive halving: {trials}. Every trial to its end, as in the rows above, would be "
        f"{whole.tokens:,} training tokens, {duration(whole.seconds)}, {hours(whole.hours.gpus)} GPU-hours and "
        f"{hours(whole.hours.cpus)} CPU-hours."
    ]


def _reckoned_with(plan: Plan) -> str:
    """Where the speeds come from, and what would make the unknown known."""
    training = {speed.origin for speed in plan.costs.trials.values()}
    engine = plan.costs.completion_tokens_per_second
    words = [
        f"training speed {' or '.join(sorted(training))}",
        f"engine speed {plan.costs.engine_origin}" + (f" ({engine:,.0f} tokens/s)" if engine else ""),
        f"length of completions {' or '.join(_LENGTHS[each] for each in plan.lengths)}",
    ]
    fields = ["cost.train_tokens_per_second"] if "unknown" in training else []
    fields += [] if engine else ["cost.completion_tokens_per_second"]
    declare = f" Declare {' and '.join(fields)}, or run a trial first, for what is unknown." if fields else ""
    return f"Reckoned with: {', '.join(words)}.{declare}"


_LENGTHS = {"measured": "measured", "declared": "declared", "at most": "taken as max_new_tokens, the most"}


def _budget(prepared: PreparedSweep, plan: Plan) -> list[str]:
    """Whether the plan keeps within the budget, a line for each part of it."""
    from dft_sweeps.orchestration.spending import amount, limits

    lines = []
    for limit in limits(prepared.sweep.spec, plan.total.hours):
        if limit.used is None:
            verdict = "what the plan needs is unknown; the budget is enforced while the sweep runs"
        else:
            verdict = f"the plan needs {amount(limit.used)}" + (": it would be refused" if limit.exceeded else "")
        lines.append(f"Budget: {amount(limit.most)}{limit.unit or ' in money'}; {verdict}.")
    return lines


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
