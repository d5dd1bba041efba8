"""`dft-sweeps plan`: checks a spec and shows what it would run and what that would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dft_sweeps.cli.options import (
    json_option,
    resolve_tracking_uri,
    set_option,
    spec_argument,
    storage_option,
    tracking_uri_option,
)
from dft_sweeps.cli.plan_printing import overlong_in_words, print_plan
from dft_sweeps.cli.printing import print_json
from dft_sweeps.cli.prompts_in_words import prompts_in_words
from dft_sweeps.cli.smallest_differences import ASSUMPTIONS, smallest_differences

if TYPE_CHECKING:
    from dft_sweeps.orchestration.prepare import PreparedSweep
    from dft_sweeps.spec.plan import Cell, Plan, Total

__all__ = ["command", "overlong_in_words", "print_plan"]


@click.command()
@spec_argument
@set_option
@storage_option
@tracking_uri_option
@click.option("--address", help="Ray cluster to plan for, e.g. auto. [default: one started on this machine]")
@json_option
def command(
    spec: Path,
    overrides: tuple[str, ...],
    storage: Path,
    tracking_uri: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Check a spec and show its trials: what each would train on and evaluate, what it would cost, and which are done.

    Everything the spec names is read and checked, the model, the data and the benchmarks; nothing is started. Times
    are from the speeds that earlier runs of the same model measured on such machines, where there are any, and else
    from those that the spec declares under `cost`; where neither says, they are unknown. Of a TPE search the trials
    known so far are shown, and what it has still to propose is reckoned at their mean cost. With a scheduler that stops
    trials, each is shown as it would be whole, and the total is what is expected to be trained.

    \b
    Example:
      dft-sweeps plan sweep_specs/quickstart.yaml
      dft-sweeps plan sweep_specs/quickstart.yaml --set trial.train.steps=20
      dft-sweeps plan sweep_specs/figure1.yaml --address auto --set cost.price_per_gpu_hour=2.5
    """
    from dft_sweeps.cli.gather import cluster_at, finished, known_points, plan_of
    from dft_sweeps.orchestration.prepare import prepare
    from dft_sweeps.spec.load import load_sweep

    uri = resolve_tracking_uri(storage, tracking_uri)
    prepared = known_points(uri, prepare(load_sweep(spec, overrides)))
    plan = plan_of(prepared, finished(uri, prepared), cluster_at(address), uri)
    if as_json:
        return print_json(plan_record(prepared, plan))
    print_plan(prepared, plan, "This machine" if address is None else f"The cluster at {address}")


def plan_record(prepared: PreparedSweep, plan: Plan) -> dict[str, Any]:
    """The plan as JSON has it. Hours and seconds are null where a speed is not known. The total is the expected one
    where a scheduler stops trials; how many are expected to reach each of its rungs and the end stands beside it."""
    return {
        "sweep": prepared.sweep_id,
        "name": prepared.sweep.spec.name,
        "measures": prepared.measures,
        "model": {"parameters": prepared.model.parameters, "weights_digest": prepared.model.weights_digest},
        "concurrent_trials": plan.concurrent_trials,
        "missing": plan.missing,
        "base_completions": plan.base_completions,
        "to_propose": plan.to_propose,
        "prompts": prompts_in_words(prepared),
        "smallest_differences": smallest_differences(prepared),
        "smallest_differences_assume": ASSUMPTIONS,
        "total": _total_record(plan.total),
        "total_if_none_is_stopped": _total_record(plan.whole),
        "expected_to_reach": [reached._asdict() for reached in plan.reached],
        "reckoned_with": {
            "training": sorted({speed.origin for speed in plan.costs.trials.values()}),
            "engine": plan.costs.engine_origin,
            "completion_tokens_per_second": plan.costs.completion_tokens_per_second,
            "lengths": plan.lengths,
            "start_s": plan.costs.start_s,
            "workers_start_s": plan.costs.workers_start_s,
            "price_per_gpu_hour": plan.costs.price_per_gpu_hour,
        },
        "budget": budget.model_dump() if (budget := prepared.sweep.spec.budget) else None,
        "trials": [_trial_record(cell, plan) for cell in plan.cells],
    }


def _total_record(total: Total) -> dict[str, Any]:
    return {
        "trials": total.trials,
        "tokens": total.tokens,
        "completions": total.completions,
        "evaluation_tokens": total.evaluation_tokens,
        "gpu_hours": total.hours.gpus,
        "cpu_hours": total.hours.cpus,
        "seconds": total.seconds,
        "money": total.money,
    }


def _trial_record(cell: Cell, plan: Plan) -> dict[str, Any]:
    """What a trial costs is what it would cost from its start to its end, whether or not it is done, or is stopped."""
    speed = plan.costs.trials[cell.name]
    return {
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
        "evaluation_tokens": cell.evaluation_tokens,
        "tokens_per_second": speed.tokens_per_second,
        "start_s": speed.start_s,
        "gpu_hours": cell.hours.gpus,
        "cpu_hours": cell.hours.cpus,
        "seconds": cell.times.to_last_point,
        "done": cell.done,
    }
