"""`dft-sweeps rerun --server`: hands what is to be run again to a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dft_sweeps.cli.printing import print_json
from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dft_sweeps.cli.client import Server
    from dft_sweeps.cli.rerun import Asked

_INSTEAD = {
    "--set": "`submit` the spec with it",
    "--address": "the service runs sweeps on its own cluster",
    "--dry-run": "where MLflow is reached, `rerun --tracking-uri` shows what would run",
}


def refuse_of_service(given: Mapping[str, object]) -> None:
    """Raises SpecError for an option that was given and a service does not know."""
    for option, instead in _INSTEAD.items():
        if given[option]:
            raise SpecError(f"a service takes no {option}; {instead}", f"{option} with --server")


def submit_reruns(api: Server, asked: Asked, sweep: str | None, figure: int | None, follow: bool, as_json: bool) -> int:
    """Has the service rerun a sweep, or every sweep of a figure; returns the largest of their exit codes.

    Raises:
        SpecError: what the service refuses, or a figure that no sweep makes.
    """
    from dft_sweeps.cli.submit import follow_sweep, say_submitted
    from dft_sweeps.spec.reruns import of_figure

    if sweep is not None:
        ids = [sweep]
    else:
        assert figure is not None
        measured = [row for row in api.sweeps() if row["run_id"]]  # of others MLflow has nothing that could be rerun
        ids = of_figure(((row["name"], row["sweep_id"]) for row in measured), figure)
    body = {"failed": asked.failed, "cells": asked.cells, "figure": figure, "fresh": asked.fresh, "seeds": asked.seeds}
    submissions = []
    for id_ in ids:
        submissions.append(api.rerun(id_, **body))
        if not as_json:
            say_submitted(submissions[-1], follow)
    if as_json:
        print_json(submissions)
    codes = [follow_sweep(api, each["sweep_id"], quiet=as_json) for each in submissions if follow]
    return max(codes, default=0)
