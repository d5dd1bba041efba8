"""What Tune is told when it asks for a job; with real trials in `test_real_trials` and `test_asha`."""

from __future__ import annotations

import pickle
import threading
import time

import pytest
from ray.tune.search import Searcher

from dft_sweeps.orchestration import tuning
from dft_sweeps.orchestration.halving import Contender, Halving
from dft_sweeps.orchestration.tuning import _Jobs, _Stop


def two_at_a_rung() -> tuple[Halving, _Jobs, _Stop]:
    halving, stopper = Halving([Contender("a", 9), Contender("b", 9)], [3], 2.0), _Stop()
    return halving, _Jobs(halving, stopper), stopper


def parked(halving: Halving, jobs: _Jobs) -> None:
    """Both trials have come to the rung, and Tune's own two have ended."""
    for tune_id, training_id in (("1", "a"), ("2", "b")):
        assert jobs.suggest(tune_id) == {"training_id": training_id, "until": 3, "after": 0}
        halving.arrived(training_id)
        jobs.on_trial_complete(tune_id)


def test_while_something_runs_tune_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "WAIT_S", 60.0)
    halving, jobs, _ = two_at_a_rung()
    jobs.suggest("1")
    jobs.suggest("2")
    started = time.monotonic()
    assert jobs.suggest("3") is None
    assert time.monotonic() - started < 30
    assert not halving.over


def test_with_nothing_running_it_waits_for_the_verdict_without_spinning() -> None:
    halving, jobs, _ = two_at_a_rung()
    parked(halving, jobs)
    halving.observe("a", 3, 0.5)

    def measured() -> None:
        time.sleep(1.2)
        halving.observe("b", 3, 0.7)

    thread = threading.Thread(target=measured)
    started, busy = time.monotonic(), time.thread_time()
    thread.start()
    assert jobs.suggest("3") == {"training_id": "b", "until": 9, "after": 3}
    assert time.monotonic() - started > 1.0
    assert time.thread_time() - busy < 0.1
    thread.join()
    halving.stop()
    assert jobs.suggest("4") == Searcher.FINISHED


def test_a_sweep_that_is_stopped_keeps_tune_waiting_no_longer() -> None:
    halving, jobs, stopper = two_at_a_rung()
    parked(halving, jobs)
    threading.Timer(0.3, lambda: setattr(stopper, "wanted", True)).start()
    assert jobs.suggest("3") == Searcher.FINISHED


def test_nothing_of_it_is_written_with_tunes_state() -> None:
    _, jobs, _ = two_at_a_rung()
    assert vars(pickle.loads(pickle.dumps(jobs))) == {}
