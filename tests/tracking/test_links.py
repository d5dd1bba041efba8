"""How a sweep's run names the runs of other sweeps, and leaves alone what people wrote there."""

from __future__ import annotations

from pathlib import Path

from dft_sweeps.tracking.links import HEADING, NOTE_TAG, REUSED_TAG, Reused, link_tags
from dft_sweeps.tracking.params import MAX_VALUE
from dft_sweeps.tracking.writer import Tracker


def reused(count: int) -> list[Reused]:
    return [
        Reused(f"t-{index}", f"{index:032x}", f"learning_rate={index}e-4", "s-other", "7") for index in range(count)
    ]


def test_a_link_is_a_tag_and_a_line_of_the_description() -> None:
    tags, superfluous = link_tags(reused(1), {"mlflow.runName": "study"})
    assert tags[f"{REUSED_TAG}t-0"] == f"{0:032x}"
    assert f"- [learning_rate=0e-4](#/experiments/7/runs/{0:032x}), run {0:032x} of s-other" in tags[NOTE_TAG]
    assert superfluous == []


def test_links_are_replaced_and_a_description_stays() -> None:
    first, _ = link_tags(reused(2), {NOTE_TAG: "Our first try."})
    assert first[NOTE_TAG].startswith(f"Our first try.\n\n{HEADING}")
    assert link_tags(reused(2), first) == ({}, [])
    second, superfluous = link_tags(reused(1), first)
    assert superfluous == [f"{REUSED_TAG}t-1"]
    assert "learning_rate=1e-4" not in second[NOTE_TAG] and second[NOTE_TAG].startswith("Our first try.")
    none, superfluous = link_tags([], first)
    assert none == {NOTE_TAG: "Our first try."} and len(superfluous) == 2
    assert link_tags([], link_tags(reused(1), {})[0]) == ({}, [NOTE_TAG, f"{REUSED_TAG}t-0"][::-1])


def test_many_links_are_all_there_and_fit(tmp_path: Path) -> None:
    tags, _ = link_tags(reused(300), {})
    assert len(tags) == 301
    assert len(tags[NOTE_TAG]) < MAX_VALUE and "- and 280 more, by the tags" in tags[NOTE_TAG]
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    run = tracker.open_sweep("study", "s-1", "name: study\n", [], "m")
    tracker.set_links(run, reused(300))
    tracker.set_links(run, reused(299))
    found = tracker._client.get_run(run).data.tags
    assert sum(key.startswith(REUSED_TAG) for key in found) == 299
