"""The log-probabilities of the training targets under the reference, computed once for all trials that need them.

They lie in `<storage>/reference/`, named by the digest of model, data and dtype. The first trial that gets the lock
beside the file computes them; the others wait and read. A holder that dies frees the lock, and the next one computes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from dft_sweeps.orchestration.agreement import from_rank_0
from dft_sweeps.orchestration.locks import try_lock
from dft_sweeps.orchestration.trial import TrialJob
from dft_sweeps.spec.identity import digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from dft_sweeps.data.encode import Sample
    from dft_sweeps.training.logprobs import Column
    from dft_sweeps.training.policy import Policy
    from dft_sweeps.training.sharding import Ranks

LOOK_EVERY_S = 1.0
_WAIT, _THERE, _OURS = range(3)
UNREADABLE = (OSError, EOFError, KeyError, ValueError, SyntaxError, NotImplementedError, TokenError, BadZipFile)
"""What numpy raises on damaged `.npz` files."""


def reference_file(job: TrialJob) -> Path:
    model = job.spec.model
    name = digest([job.base_digest, job.data_digest, model.dtype, model.parameter_dtype])
    return Path(job.storage) / "reference" / f"{name}.npz"


def shared_reference(
    job: TrialJob, policy: Policy, data: Sequence[Sample], ranks: Ranks, note: Callable[[str], None] | None
) -> Column:
    """The column, from the file or computed. Collective.

    Args:
        policy: the reference, so the initial policy, untouched so far.
        note: takes a line of progress; rank 0's.

    Raises:
        RuntimeError: the file is damaged.
    """
    from dft_sweeps.training.logprobs import all_logprobs, save_column

    path = reference_file(job)
    with _turn(path, policy, ranks) as ours:
        started = time.monotonic()
        column = all_logprobs(policy, data, job.execution, ranks) if ours else _read(path, data)
        if ours and ranks.rank == 0:
            save_column(path, column)
        if note:
            what = "computed" if ours else "found"
            note(f"reference log-probabilities of {len(data):,} samples {what} in {time.monotonic() - started:.1f} s")
    return column


def _read(path: Path, data: Sequence[Sample]) -> Column:
    from dft_sweeps.training.logprobs import load_column

    try:
        column = load_column(path)
        fits = [len(piece) for piece in column] == [sample.targets for sample in data]
    except UNREADABLE as error:
        raise RuntimeError(f"{path} is damaged; remove it, and it is computed again ({error})") from error
    if not fits:
        raise RuntimeError(f"{path} does not fit the data; remove it, and it is computed again")
    return column


@contextlib.contextmanager
def _turn(path: Path, policy: Policy, ranks: Ranks) -> Iterator[bool]:
    """Waits until the file is there, or is this trial's to write, which it then is for the block; says which."""
    with contextlib.ExitStack() as held:
        lock = None
        if ranks.rank == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(path.with_suffix(".lock").open("a"))
        # The ranks talk at every look, or those that wait for long would run into their collectives' timeouts.
        while (turn := from_rank_0(_look(path, lock), ranks, policy.model.device)) == _WAIT:
            time.sleep(LOOK_EVERY_S)
        yield turn == _OURS


def _look(path: Path, lock: TextIO | None) -> int:
    if lock is None:
        return _WAIT
    if path.exists():
        return _THERE
    if not try_lock(lock):
        return _WAIT
    return _THERE if path.exists() else _OURS  # it may have come before the lock was free
