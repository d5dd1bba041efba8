"""Writes a sweep to MLflow in the background: every write goes to a spool on the storage first, a thread sends it on.

MLflow that does not answer blocks nobody. Its writes wait in the spool, in their order, and are sent once it is back;
that they wait, and that they are in, is said once each. What is left when the process ends, however it ends, the next
one sends (`recover`). Each write can be repeated without changing anything, so that one whose answer was lost is sent
again: metrics with the timestamps they were given here, runs found by the id they were asked for under.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dft_sweeps.tracking.links import Reused
from dft_sweeps.tracking.params import check_limits
from dft_sweeps.tracking.sending import Sending
from dft_sweeps.tracking.spool import Spool, leftovers, new_spool
from dft_sweeps.tracking.store import TrackingUnavailable, masked
from dft_sweeps.tracking.writer import Ended, MetricRow, Tracker, unseen

PAUSES_S = (0.1, 0.3, 1.0, 2.0, 5.0)
"""Before MLflow is tried again; the last one from then on."""
TELL_AFTER_S = 5.0
"""How long MLflow may be silent before that is said."""
PATIENCE_S = 60.0
LAST_REQUEST_S = 1.0
"""How long it then waits for a request that is under way."""


class Background:
    """The calls of `Tracker` that write a sweep. Those that open a sweep or ask something need MLflow at once; all
    others return when the write is in the spool.

    Args:
        directory: of the spools, on the sweep's storage.
        say: takes a line about MLflow.
        patience_s: how long `flush` waits without any write getting in.

    Raises:
        TrackingUnavailable: MLflow does not answer where it must, or did not for so long that `flush` gave up.
        Exception: what MLflow refused a write with, from any call after it.
    """

    def __init__(
        self, tracker: Tracker, directory: Path, say: Callable[[str], None], patience_s: float = PATIENCE_S
    ) -> None:
        self._tracker, self._directory, self._say, self._patience_s = tracker, directory, say, patience_s
        self._sending: Sending | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._hurry, self._stop = threading.Event(), threading.Event()
        self._logged: dict[str, set[tuple[str, int]]] = {}
        self._runs: dict[str, str] = {}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._reason = ""
        """Why MLflow took nothing the last time that it did not."""
        self._told: set[Path] = set()

    # --- what needs an answer -----------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Sends what processes that have ended left behind. What MLflow refuses of it is set aside, for it must not
        stand in the way of every later run."""
        from mlflow.exceptions import MlflowException

        for spool in leftovers(self._directory):
            try:
                self._recover(spool)
            except OSError as error:
                raise TrackingUnavailable(masked(f"what waits in {spool.path} cannot be sent: {error}")) from error
            except (MlflowException, ValueError) as error:
                self._say(masked(f"MLflow refuses what an earlier run left, kept in {spool.refuse()}: {error}"))
            finally:
                spool.close()

    def _recover(self, spool: Spool) -> None:
        sending = Sending(self._tracker, spool)
        rows = sending.waiting
        if sending.destination not in ("", self._tracker.address):
            if spool.path not in self._told:
                self._told.add(spool.path)
                self._say(f"{rows} rows in {spool.path} wait for another MLflow, {sending.destination}")
            return
        while sending.waiting:
            sending.send()
        spool.remove()
        if rows:
            self._say(f"{rows} rows that an earlier run left are in MLflow now")

    def reconcile(self, sweep_id: str, training_ids: Collection[str] | None = None) -> list[str]:
        self.flush()
        return self._tracker.reconcile(sweep_id, training_ids)

    def open_sweep(
        self,
        name: str,
        sweep_id: str,
        spec_text: str,
        trials: Sequence[Mapping[str, Any]],
        measures: str,
        to_propose: int | None = None,
    ) -> str:
        return self._tracker.open_sweep(name, sweep_id, spec_text, trials, measures, to_propose)

    def set_links(self, run_id: str, reused: Sequence[Reused]) -> None:
        self._tracker.set_links(run_id, reused)

    # --- what goes to the spool ---------------------------------------------------------------------------------------

    def open_trial(
        self, parent_run_id: str, training_id: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> str:
        """As `Tracker.open_trial`, but the id is this writer's own: MLflow makes the run later."""
        check_limits(params)
        check_limits(tags)
        attempt = uuid.uuid4().hex
        asked = [parent_run_id, training_id, name, dict(params), dict(tags)]
        self._write("open_trial", attempt, [*asked, attempt, _now_ms()])
        self._logged[attempt] = set()
        return attempt

    def log(self, run_id: str, rows: Sequence[MetricRow]) -> int:
        new = unseen(rows, self._logged[run_id])
        if new:
            self._write("log", run_id, [[row.key, row.step, row.value, row.timestamp_ms] for row in new])
            self._logged[run_id].update((row.key, row.step) for row in new)
        return len(new)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        check_limits(tags)
        self._write("tag", run_id, [dict(tags)])

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self._write("log_text", run_id, [text, path])

    def log_file(self, run_id: str, path: str | Path) -> None:
        """A text file, as it is now."""
        self.log_text(run_id, Path(path).read_text(encoding="utf-8"), Path(path).name)

    def finish(self, run_id: str, status: Ended) -> None:
        self._write("finish", run_id, [status, _now_ms()])
        self._logged.pop(run_id, None)

    def ended(self) -> list[str]:
        """Ids of the runs whose end has got into MLflow since the last call."""
        return [self._ended.get() for _ in range(self._ended.qsize())]

    def flush(self, patience_s: float = 0.0) -> None:
        """Waits until MLflow has everything.

        Args:
            patience_s: how long without any write getting in, where that is longer than this writer's.

        Raises:
            TrackingUnavailable: nothing got in for long. The rest is left to the next process.
        """
        self._raise_error()
        if self._sending is None or self._thread is None:
            return
        sending = self._sending
        self._await(sending, max(patience_s, self._patience_s))
        self._stop.set()
        self._hurry.set()
        with self._changed:
            self._changed.notify_all()
        # A request that is under way may take long.
        self._thread.join(LAST_REQUEST_S if sending.waiting else None)
        self._sending, self._runs = None, sending.runs
        if not sending.waiting:
            self._stop.clear()
            self._hurry.clear()
            return sending.spool.remove()
        if not self._thread.is_alive():  # else it leaves the spool to the next process when its request has ended
            sending.spool.close()
        self._error = self._error or TrackingUnavailable(
            f"MLflow does not answer; {sending.waiting} rows wait in {sending.spool.path}. Nothing is lost: the same "
            f"command, or any other run on this storage, sends them first. {self._reason}"
        )
        raise self._error

    def _await(self, sending: Sending, patience_s: float) -> None:
        left, since, told = sending.waiting, time.monotonic(), patience_s <= self._patience_s
        self._hurry.set()
        with self._changed:
            while sending.waiting and not self._error and time.monotonic() - since < patience_s:
                self._changed.notify_all()  # an interrupt may have come between a write and this
                if sending.waiting != left:
                    left, since = sending.waiting, time.monotonic()
                self._changed.wait(0.2)
                if not told and time.monotonic() - since >= TELL_AFTER_S:
                    told = True
                    self._say(f"waiting for MLflow for up to {patience_s / 60:.0f} minutes")

    def _raise_error(self) -> None:
        if self._error:
            raise self._error

    def _write(self, kind: str, run: str, what: list[Any]) -> None:
        self._raise_error()
        if self._sending is None:
            spool = new_spool(self._directory)
            self._sending = Sending(self._tracker, spool, self._runs, self._ended.put)
            self._thread = threading.Thread(target=self._send_all, args=(self._sending,), name="mlflow", daemon=True)
            self._thread.start()
        self._sending.add(kind, run, what, durable=kind != "log")
        with self._changed:
            self._changed.notify_all()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _send_all(self, sending: Sending) -> None:
        silence = Silence(self._say)
        while True:
            with self._changed:
                while not sending.waiting and not self._stop.is_set():
                    self._changed.wait()
            if self._stop.is_set():
                return sending.spool.close()
            try:
                sending.send()
            except (TrackingUnavailable, OSError) as error:
                self._reason = " ".join(masked(str(error)).split())[:300]
                if self._hurry.wait(silence.goes_on(self._reason, sending)):
                    self._hurry.clear()
                continue
            except Exception as error:  # raised again in the thread that writes
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            silence.is_over(sending)
            with self._changed:
                self._changed.notify_all()


class Silence:
    """Says once that MLflow does not answer, and once that it has everything again."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._since, self._tries, self._told = 0.0, 0, False

    def goes_on(self, reason: str, sending: Sending) -> float:
        """How long to wait before the next try, in seconds."""
        self._since = self._since or time.time()
        self._tries += 1
        if not self._told and time.time() - self._since >= TELL_AFTER_S:
            self._told = True
            at = time.strftime("%H:%M:%S", time.localtime(self._since))
            self._say(
                f"MLflow does not answer since {at}; {sending.waiting} rows wait in {sending.spool.path}: {reason}"
            )
        return PAUSES_S[min(self._tries, len(PAUSES_S)) - 1]

    def is_over(self, sending: Sending) -> None:
        self._tries = 0
        if self._told and not sending.waiting:
            self._say(f"MLflow answers again, and has caught up after {time.time() - self._since:.0f} s")
        if not sending.waiting:
            self._since, self._told = 0.0, False


def _now_ms() -> int:
    return int(time.time() * 1000)
