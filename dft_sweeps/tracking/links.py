"""How a sweep's own run names the runs of other sweeps whose trials it shares: tags, and a list in its description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

REUSED_TAG = "dft.reused."
"""Followed by the training id; the value is the id of the finished run, of another sweep."""
NOTE_TAG = "mlflow.note.content"
"""What MLflow's UI shows as a run's description, in Markdown."""
HEADING = "**Trials that another sweep finished:**"
_MOST_LISTED = 20


@dataclass(frozen=True)
class Reused:
    """A finished run of another sweep that gives a sweep one of its trials."""

    training_id: str
    run_id: str
    name: str
    sweep_id: str
    experiment_id: str


def link_tags(reused: Sequence[Reused], present: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Tags to set on a sweep's run, which has those `present`, and the names of the tags to delete.

    What somebody wrote in the description, before the list, stays.
    """
    links = {f"{REUSED_TAG}{each.training_id}": each.run_id for each in reused}
    written = present.get(NOTE_TAG, "").partition(HEADING)[0].rstrip()
    note = "\n\n".join(filter(None, [written, _listed(reused)]))
    wanted = links | ({NOTE_TAG: note} if note else {})
    known = [key for key in present if key.startswith(REUSED_TAG) or key == NOTE_TAG]
    return {key: value for key, value in wanted.items() if present.get(key) != value}, sorted({*known} - {*wanted})


def _listed(reused: Sequence[Reused]) -> str:
    lines = [
        f"- [{each.name}](#/experiments/{each.experiment_id}/runs/{each.run_id}), run {each.run_id} of {each.sweep_id}"
        for each in reused[:_MOST_LISTED]
    ]
    if more := len(reused) - len(lines):
        lines.append(f"- and {more} more, by the tags `{REUSED_TAG}<training id>` of this run")
    return "\n".join([HEADING, "", *lines]) if lines else ""
