"""The `dft-sweeps` command. Commands are imported when they are used, so that `--help` is quick."""

from __future__ import annotations

import importlib
import sys

import click

from dft_sweeps import __version__
from dft_sweeps.data.durable import NO_MORE_WRITES
from dft_sweeps.orchestration.interrupts import repeat_lost_interrupts
from dft_sweeps.spec.errors import SpecError

DONE, TRIAL_FAILED, USER_ERROR, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

COMMANDS = {
    "plan": ("dft_sweeps.cli.plan", "Check a spec and show what it would run and cost."),
    "run": ("dft_sweeps.cli.run", "Run a sweep: train, evaluate, record, report."),
    "rerun": ("dft_sweeps.cli.rerun", "Run again what is missing of a sweep, or chosen cells of it."),
    "serve": ("dft_sweeps.cli.serve", "Serve the sweep API on a cluster."),
    "submit": ("dft_sweeps.cli.submit", "Submit a sweep to a service."),
    "logs": ("dft_sweeps.cli.logs", "Show a submitted sweep's log."),
    "cancel": ("dft_sweeps.cli.cancel", "Cancel a submitted sweep."),
    "evaluate": ("dft_sweeps.cli.evaluate", "Evaluate checkpoints on their own, without a sweep."),
    "grade": ("dft_sweeps.cli.grade", "Grade completions made anywhere."),
    "list": ("dft_sweeps.cli.list_", "List the sweeps."),
    "status": ("dft_sweeps.cli.status", "Show how far a sweep's trials are."),
    "report": ("dft_sweeps.cli.report", "Make the tables and figures of a sweep."),
    "compare": ("dft_sweeps.cli.compare", "Compare trials, checkpoints or sweeps question by question."),
    "ui": ("dft_sweeps.cli.ui", "Open the MLflow UI on the recorded curves."),
    "doctor": ("dft_sweeps.cli.doctor", "Check this machine or cluster, and say how to mend it."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and help; imports one only to run it or to show its own help."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(COMMANDS[name][0]).command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def group() -> None:
    """Sweeps of fine-tuning objectives: one YAML file in, curves with error bars out.

    \b
    Start here:
      dft-sweeps doctor                              is this machine fit?
      dft-sweeps plan sweep_specs/quickstart.yaml    what would run, and what is done already
      dft-sweeps run  sweep_specs/quickstart.yaml    train, evaluate every checkpoint, draw the curves
      dft-sweeps ui                                  browse the runs in MLflow
      dft-sweeps rerun quickstart --seeds 3          the same cells from more seeds
      dft-sweeps serve                               take sweeps from others: submit, logs, cancel
      dft-sweeps evaluate Qwen/Qwen2.5-Math-1.5B --benchmarks math500    measure any model

    \b
    Exit codes: 0 done; 1 a trial failed; 2 something in what you gave is wrong;
    3 the cluster, a service or the storage cannot be reached; 130 interrupted.
    """


def main() -> None:
    """Entry point: one message and an exit code for every expected error, a traceback only for defects."""
    repeat_lost_interrupts()
    try:
        result = group.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(USER_ERROR)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except SpecError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(USER_ERROR)
    except Exception as error:
        if not (outage := _outage(error)):
            raise
        click.echo(f"unreachable: {outage}", err=True)
        sys.exit(UNREACHABLE)
    sys.exit(result if isinstance(result, int) else DONE)


def _outage(error: Exception) -> str:
    """What is not there, if the error says that a service or the storage is not; by the classes' names, for importing
    them would cost seconds."""
    if isinstance(error, OSError) and error.errno in NO_MORE_WRITES:
        return f"the storage fails: {error}"
    names = {"TrackingUnavailable", "ClusterUnavailable", "PoolError"}
    return str(error) if any(kind.__name__ in names for kind in type(error).__mro__) else ""


if __name__ == "__main__":
    main()
