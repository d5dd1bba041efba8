"""Rank 0's way out of a trial: everything goes to the trial's own files first, then to the coordinator's mailbox.

A checkpoint is announced only after every row before it is in the file and in the mailbox. The rows of a step are on
the disk before its state is saved (`flush`). One thread writes and sends, in the order of the calls, so that training
waits for neither disk nor mailbox but in `flush`. Once something of that failed nothing more is written, and every
further call raises the error.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TextIO

from dft_sweeps.orchestration.locks import try_lock
from dft_sweeps.orchestration.mailbox import (
    Checkpoint,
    CheckpointWritten,
    NonFinite,
    StepRow,
    StepRows,
    TrialFailed,
    TrialNote,
    TrialProvenance,
    TrialStarted,
    WorkersUp,
    now_ms,
)
from dft_sweeps.orchestration.resume import Start
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.spec.models import HistogramSpec
from dft_sweeps.tracking import names

if TYPE_CHECKING:
    from ray.actor import ActorHandle

SEND_EVERY_S = 1.0
EARLIER_ATTEMPT_S = 120.0
"""How long the processes of an attempt that was killed may take to end."""


class Reporter:
    def __init__(self, training_id: str, files: TrialFiles, mailbox: ActorHandle) -> None:
        self._training_id, self._files, self._mailbox = training_id, files, mailbox
        self._worker_started_ms = now_ms()
        self._rows: queue.SimpleQueue[StepRow] = queue.SimpleQueue()
        self._sent_at = 0.0
        self._sender = ThreadPoolExecutor(1, "reporter")
        self._failed: Exception | None = None

    def up(self) -> None:
        """Says that the workers are there, before anything else."""
        self._then(self._put, WorkersUp(self._training_id))

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Holds the trial's files for the block: its training process may outlive a coordinator that was killed.

        Raises:
            RuntimeError: an earlier attempt still trains.
        """
        self._files.attempt_lock.parent.mkdir(parents=True, exist_ok=True)
        with self._files.attempt_lock.open("a") as file:
            if not try_lock(file):
                self.note("waits for the processes of an earlier attempt to end")
                self._wait_for(file)
            try:
                yield
            finally:
                self._wait()  # another attempt may begin now

    def _wait_for(self, lock: TextIO) -> None:
        deadline = time.monotonic() + EARLIER_ATTEMPT_S
        while not try_lock(lock):
            if time.monotonic() > deadline:
                raise RuntimeError(f"another process trains this trial: it holds {lock.name}")
            time.sleep(0.5)

    def started(self, driver_started_ms: int, start: Start, histogram: HistogramSpec) -> None:
        """Settles the files for an attempt that begins at `start`, and says so."""
        if start.step:
            self._files.keep(start.step)
        else:
            self._files.fresh(histogram.model_dump())
        started = TrialStarted(self._training_id, driver_started_ms, self._worker_started_ms, start.step, start.note)
        self._then(self._put, started)

    def provenance(self, tags: dict[str, str]) -> None:
        self._then(self._files.write_provenance, tags)
        self._then(self._put, TrialProvenance(self._training_id, tags))

    def handed_over(self, seconds: float, of: float) -> None:
        """How long training stood still for its checkpoints, of all its time."""
        self.note(f"stood still for its checkpoints for {seconds:.2f} s of {of:.0f} s, {seconds / of:.1%}")
        share = {names.HANDING_OVER_TAG: f"{seconds / of:.4f}"}
        self._then(self._put, TrialProvenance(self._training_id, share))

    def note(self, text: str) -> None:
        self._then(self._put, TrialNote(self._training_id, text))

    def step(self, step: int, metrics: dict[str, float]) -> None:
        self._rows.put(StepRow(step, now_ms(), metrics))
        if time.monotonic() - self._sent_at >= SEND_EVERY_S:
            self._sent_at = time.monotonic()
            self._then(self._send_rows)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Announces a checkpoint that is written. From any thread."""
        self._then(self._send_rows)
        self._then(self._files.add_checkpoint, checkpoint)
        self._then(self._put, CheckpointWritten(self._training_id, checkpoint))

    def non_finite(self, record: dict[str, Any]) -> None:
        """The end of a trial that another attempt would not change."""
        self.flush()
        self._files.write_non_finite(record)
        file = self._files.non_finite
        self._put(NonFinite(self._training_id, record["step"], str(file)))
        reason = f"step {record['step']}: loss or gradient is not finite; {file} names the batch"
        self._put(TrialFailed(self._training_id, reason))

    def finish(self) -> None:
        self.flush()
        self._files.finish()

    def flush(self) -> None:
        """Returns when everything is on the disk and in the mailbox."""
        self._then(self._send_rows)
        self._wait()
        self._raise_failure()

    def _then(self, work: Callable[..., None], *arguments: Any) -> None:
        self._raise_failure()
        self._sender.submit(self._do, work, *arguments)

    def _wait(self) -> None:
        self._sender.submit(lambda: None).result()

    def _raise_failure(self) -> None:
        if self._failed:
            raise self._failed

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _do(self, work: Callable[..., None], *arguments: Any) -> None:
        if not self._failed:
            try:
                work(*arguments)
            except Exception as error:  # raised in the thread that trains
                self._failed = error

    def _send_rows(self) -> None:
        if rows := [self._rows.get() for _ in range(self._rows.qsize())]:
            self._files.append_rows(rows)
            self._put(StepRows(self._training_id, tuple(rows)))

    def _put(self, event: Any) -> None:
        import ray

        ray.get(self._mailbox.put.remote(event))
