"""Successive halving of real trials on warm workers: who goes on, what stays of who does not, and what others take up.

Only the evaluation engine is a script, which gives every trial the accuracy that the test wants.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dft_sweeps.orchestration.prepare import prepare
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.tracking import names
from dft_sweeps.tracking.reader import Reader
from tests.orchestration.real_trials import SPEC, Swept, sweep
from tests.orchestration.scored_pool import ScoredPool

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TEXT = SPEC.replace("limit: 2", "limit: 4").replace("max_new_tokens: 8", "max_new_tokens: 16") + (
    "axes: {train.learning_rate: [1e-4, 2e-4, 3e-4, 4e-4, 5e-4]}\n"
)
ASHA = "scheduler={kind: asha, rungs: [4, 8], reduction_factor: 2}"
RIGHT = (2, 0, 3, 1, 2)
"""Of four questions, by trial. Half of the five go on, and one of these two."""
STOPPED = [8, 4, None, 4, 4]
"""When they are measured in their order: of the two that tie, the last would go on too were it measured first."""


def swept(storage: Path, *overrides: str, concurrent: int = 2) -> Swept:
    path = storage.parent / "asha.yaml"
    path.write_text(TEXT)
    prepared = prepare(load_sweep(path, overrides))
    ids = [trial.training_id for trial in prepared.trials]
    right = dict(zip(ids, RIGHT, strict=True))

    def turn(training_id: str) -> bool:
        """Whether the scheduler has what the trials before this one have shown."""
        reader = Reader(f"sqlite:///{storage}/mlflow.db")
        before = reader.trials(reader.find_sweep(prepared.sweep_id))[: ids.index(training_id)]
        curves = [reader.curve(row.run_id, "eval/average/accuracy") if row.run_id else [] for row in before]
        return all(curve and curve[-1][0] >= 4 for curve in curves)

    return sweep(storage, *overrides, text=TEXT, concurrent=concurrent, pool=ScoredPool(prepared, right, turn))


def test_the_best_go_on_where_they_were_and_a_sweep_without_a_scheduler_takes_up_the_rest(
    cluster: None, tmp_path: Path
) -> None:
    whole = swept(tmp_path / "whole")
    assert whole.outcome.finished == 5
    halved = swept(tmp_path / "storage", ASHA)
    assert (halved.outcome.finished, halved.outcome.failed) == (5, {}), halved.text
    rows = halved.trials
    assert [(row.status, row.stopped_at) for row in rows] == [("FINISHED", rung) for rung in STOPPED], halved.text
    for index, rung in enumerate(STOPPED):
        assert rows[index].metrics["eval/average/accuracy"] == RIGHT[index] / 4
        expected = {
            key: [(step, value) for step, value in curve if step <= (rung or 12)]
            for key, curve in whole.curves(index).items()
        }
        assert halved.curves(index) == expected  # bit for bit, and no point twice
    assert {row.resumed_at for row in rows} == {None}  # nothing was interrupted
    workers = list((tmp_path / "storage" / "ray" / "train").iterdir())
    assert len(workers) == 2, halved.text  # those of the two slots, warm all along
    reader = halved.reader
    [parent] = reader.sweeps()
    assert (parent.status, parent.trials, parent.finished) == ("FINISHED", 5, 5)

    again = swept(tmp_path / "storage", ASHA)
    assert (again.outcome.finished, again.outcome.reused) == (0, 5)

    fifo = swept(tmp_path / "storage")
    assert (fifo.outcome.finished, fifo.outcome.reused) == (4, 1)
    for index, rung in enumerate(STOPPED):
        assert fifo.curves(index) == whole.curves(index)
        assert fifo.trials[index].stopped_at is None
        if rung:
            assert f"learning_rate={index + 1}e-4: resumed at step {rung} of 12" in fifo.text
    assert names.STOPPED_AT_TAG not in reader._client.get_run(fifo.trials[0].run_id).data.tags
    assert [row.stopped_at for row in halved.trials] == STOPPED
