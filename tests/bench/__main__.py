"""The benchmark: ``python -m tests.bench``, or ``make bench`` for all of it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.bench import table
from tests.bench.row import Machine, Row


@dataclass(frozen=True)
class Part:
    what: str
    minutes: float
    """On 2 cores."""
    rows: Callable[[Machine], Iterable[Row]]


def _training(shape: str) -> Callable[[Machine], Iterable[Row]]:
    def rows(machine: Machine) -> Iterable[Row]:
        from tests.bench import throughput, workload

        return throughput.rows(getattr(workload, shape), machine)

    return rows


def _head(machine: Machine) -> Iterable[Row]:
    from tests.bench import head

    return head.rows(machine)


def _grading(machine: Machine) -> Iterable[Row]:
    from tests.bench import grading

    return grading.rows(machine)


def _gpu(machine: Machine) -> Iterable[Row]:
    from tests.bench import gpu

    return gpu.rows(machine)


def _evaluation(module: str) -> Callable[[Machine], Iterable[Row]]:
    def rows(machine: Machine) -> Iterable[Row]:
        return import_module(f"tests.bench.{module}").rows(machine)

    return rows


PARTS = {
    "training": Part("a DFT step against TRL at V = 151,936", 8, _training("HEADLINE")),
    "training_v8192": Part("a DFT step against TRL at V = 8,192", 6, _training("SMALL_VOCABULARY")),
    "training_shipped_base": Part("a DFT step against TRL on the shipped base", 2, _training("SHIPPED")),
    "head": Part("the head's time and memory against every peer's; DFT against SFT", 8, _head),
    "grading": Part("answers graded per second", 1, _grading),
    "pool": Part("the pool's tokens/s against vLLM in one process", 21, _evaluation("pool")),
    "swap": Part("new weights in a warm engine against an engine's start", 8, _evaluation("swap")),
    "lm_eval": Part("a checkpoint evaluated, against lm-eval-harness with vLLM", 13, _evaluation("harness")),
    "adaptive": Part("tokens to a verdict, against 16 fixed samples", 3, _evaluation("adaptive")),
    "replicas": Part("two engines against one, on two cores", 15, _evaluation("replicas")),
    "handing_over": Part("what evaluation costs training, beside it and in it", 9, _evaluation("handing_over")),
    "logging_share": Part("what logging costs a training step", 2, _evaluation("logging_share")),
    "planning": Part("the quickstart's wall time as planned, and as it is", 14, _evaluation("planning")),
    "scheduling": Part("1,000 trials on 500 nodes and Figure 3 on 8 GPUs, simulated", 6, _evaluation("simulation")),
    "gpu": Part("tokens/s and FLOP utilisation on a GPU", 0, _gpu),
}
GROUPS = {"evaluation": ("pool", "swap", "lm_eval", "adaptive", "replicas")}
"""What --only takes for several parts."""
_EPILOG = """\
parts, with minutes on 2 cores:
{parts}

--only evaluation runs {evaluation}.

A part that this machine cannot run gives rows that say why. Figures are medians of at least
five rounds in which the sides take turns; quiet the machine first, for every process that runs
beside this one is in them. To see one part at work:

  python -m tests.bench --only training_shipped_base --quick
"""


def main(arguments: Sequence[str] | None = None) -> None:
    listed = "\n".join(f"  {name:<22} {part.minutes:>3.0f}  {part.what}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure the package against its peers; write DIRECTORY/bench.json and DIRECTORY/bench.md.",
        epilog=_EPILOG.format(parts=listed, evaluation=", ".join(GROUPS["evaluation"])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", action="append", choices=[*PARTS, *GROUPS], metavar="NAME", help="run this part (repeatable)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds: to develop, not to quote")
    parser.add_argument("--full", action="store_true", help="lm_eval: all of GSM8K once, too")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per side, at least 5 to quote (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of a measured process (default 2)")
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIRECTORY", help="default build")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.threads) < 1:
        parser.error("--rounds and --threads are at least 1")
    machine = Machine(options.threads, 2 if options.quick else options.rounds, options.quick, options.full)
    started = time.perf_counter()
    rows: list[Row] = []
    for name in chosen(options.only):
        part = PARTS[name]
        print(f"==> {name}: {part.what} (about {part.minutes:.0f} min)", file=sys.stderr, flush=True)
        for row in part.rows(machine):
            rows.append(row)
            print(_line(row), file=sys.stderr, flush=True)
            table.write(rows, options.out)
    print(
        f"==> {len(rows)} rows in {options.out}/bench.json and {options.out}/bench.md, "
        f"{(time.perf_counter() - started) / 60:.0f} min",
        file=sys.stderr,
    )


def chosen(only: Sequence[str] | None) -> list[str]:
    """The parts to run, in the order asked for, each once."""
    named = (part for name in only or PARTS for part in GROUPS.get(name, (name,)))
    return list(dict.fromkeys(named))


def _line(row: Row) -> str:
    if row.not_run:
        return f"{row.name}: not run, {row.not_run}"
    return f"{row.name}: {row.ours:.4g} against {row.peer:.4g} {row.unit}, ratio {row.ratio:.3f}"


if __name__ == "__main__":
    main()
