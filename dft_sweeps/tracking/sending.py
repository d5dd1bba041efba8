"""Sends the writes of a spool to MLflow, in their order. Whatever was sent before may be sent again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from dft_sweeps.tracking.spool import Spool
from dft_sweeps.tracking.store import patience
from dft_sweeps.tracking.writer import METRICS_PER_BATCH, MetricRow, Tracker

TIMEOUT_S = 30
"""How long one request to a server may take."""


class Sending:
    """One spool on its way. One thread calls `add`, one calls `send`.

    Args:
        runs: those made already, by the id they were asked for under.
        on_end: takes each run whose end has got in, by the id given to `add`.
    """

    def __init__(
        self,
        tracker: Tracker,
        spool: Spool,
        runs: Mapping[str, str] = MappingProxyType({}),
        on_end: Callable[[str], None] = lambda run: None,
    ) -> None:
        self._tracker, self.spool, self._on_end = tracker, spool, on_end
        self._offset, noted = spool.sent()
        self._metrics_in: dict[str, int] = {}
        """Offsets beyond that, up to which the metrics of a run are in; so that a request that fails costs none of the
        others again."""
        self._others_in = self._offset
        """Up to which all else is."""
        self.runs = {**runs, **noted}
        left = [write for write, _ in spool.after(self._offset, most=None)]
        self._added, self._sent = sum(map(_rows, left)), 0
        if spool.empty:
            spool.mark(0, self.runs)
            self.add("for", "", [tracker.address], durable=False)

    @property
    def waiting(self) -> int:
        """Rows, tags, texts and ends of runs that MLflow may not have yet. Whether there are any is what the file says:
        an interrupt may have come between a write and its being counted."""
        try:
            none = not any(True for _ in self.spool.after(self._offset))
        except OSError:  # as `send` will, and tries again
            none = False
        return 0 if none else max(1, self._added - self._sent)

    @property
    def destination(self) -> str:
        """The address that it was written for, without a password; empty where nothing was written."""
        for write, _ in self.spool.after(0):
            address: str = write["what"][0]
            return address
        return ""

    def add(self, kind: str, run: str, what: list[Any], durable: bool = True) -> None:
        """Adds a write, named like the tracker's method, for a run by its id in MLflow or the one asked for under."""
        write = {"kind": kind, "run": run, "what": what}
        self.spool.append(write, durable)
        self._added += _rows(write)

    def send(self) -> None:
        """Sends a chunk of what waits. Writes of one run keep their order, and so do those that are no metrics; the
        metrics of each run are gathered meanwhile, for a request takes MLflow longer than hundreds of rows in it.

        Raises:
            TrackingUnavailable: MLflow or the artifact store does not answer.
            OSError: the file system of either, or of the spool, failed.
            MlflowException: MLflow refuses a write. What got in before any of these counts as sent.
        """
        rows: dict[str, list[MetricRow]] = {}
        ends: dict[str, int] = {}
        offset = self._offset
        # MLflow's client would repeat a request to make a run without asking whether it is there by now.
        with patience(retries=0, timeout_s=TIMEOUT_S, always=True):
            try:
                for write, offset in self.spool.after(self._offset):
                    run = write["run"]
                    if write["kind"] == "log":
                        if offset > self._metrics_in.get(run, 0):
                            rows.setdefault(run, []).extend(MetricRow(*row) for row in write["what"])
                            ends[run] = offset
                    elif offset > self._others_in:
                        if run in rows:
                            self._log(run, rows.pop(run), ends[run])
                        self._call(write)
                        self._others_in = offset
                    if not rows:
                        self._offset = offset
                for run, of_run in rows.items():
                    self._log(run, of_run, ends[run])
                self._offset = offset
                self._metrics_in.clear()
            finally:
                self.spool.mark(self._offset, self.runs)

    def _log(self, run: str, rows: list[MetricRow], end: int) -> None:
        for start in range(0, len(rows), METRICS_PER_BATCH):
            self._tracker.send(self.runs.get(run, run), rows[start : start + METRICS_PER_BATCH])
        self._metrics_in[run] = end
        self._sent += len(rows)

    def _call(self, write: Mapping[str, Any]) -> None:
        run, what = write["run"], write["what"]
        if write["kind"] == "open_trial":
            self.runs[run] = self._tracker.open_trial(*what)
        elif write["kind"] != "for":
            calls: dict[str, Callable[..., None]] = {
                "tag": self._tracker.tag,
                "log_text": self._tracker.log_text,
                "finish": self._tracker.finish,
            }
            calls[write["kind"]](self.runs.get(run, run), *what)
            if write["kind"] == "finish":
                self._on_end(run)
        self._sent += 1


def _rows(write: Mapping[str, Any]) -> int:
    return len(write["what"]) if write["kind"] == "log" else 1
