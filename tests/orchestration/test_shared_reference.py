"""The reference's log-probabilities are computed by one and read by all, whoever dies meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dft_sweeps.data.encode import EncodedData
from dft_sweeps.orchestration import shared_reference as sharing
from dft_sweeps.orchestration.jobs import make_job
from dft_sweeps.orchestration.prepare import PreparedSweep, prepare
from dft_sweeps.orchestration.shared_reference import reference_file, shared_reference
from dft_sweeps.orchestration.trial import TrialJob
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.training.logprobs import all_logprobs
from dft_sweeps.training.model_files import EMBEDDED
from dft_sweeps.training.policy import Policy, load_policy
from dft_sweeps.training.sharding import Ranks
from tests.orchestration.real_trials import SPEC

HOLD = """
import sys
from pathlib import Path
from dft_sweeps.orchestration.locks import try_lock
lock = Path(sys.argv[1])
lock.parent.mkdir(parents=True)
with lock.open("a") as file:
    print(try_lock(file), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(SPEC)
    return prepare(load_sweep(path, ("trial.train.objective={kind: iw_sft}", "axes={train.seed: [1, 2]}")))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(EMBEDDED)


@pytest.fixture
def job(prepared: PreparedSweep, tmp_path: Path) -> TrialJob:
    return make_job(prepared, prepared.trials[0], tmp_path)


@pytest.fixture
def data(job: TrialJob) -> EncodedData:
    return EncodedData.load(Path(job.data_file))


def test_the_second_trial_reads_what_the_first_one_computed(
    prepared: PreparedSweep, job: TrialJob, data: EncodedData, policy: Policy, tmp_path: Path
) -> None:
    notes: list[str] = []
    expected = all_logprobs(policy, data, job.execution, Ranks())
    for trial in prepared.trials:
        column = shared_reference(make_job(prepared, trial, tmp_path), policy, data, Ranks(), notes.append)
        assert all(np.array_equal(*pair) for pair in zip(column, expected, strict=True))
    assert [" ".join(note.split()[:6]) for note in notes] == [
        "reference log-probabilities of 64 samples computed",
        "reference log-probabilities of 64 samples found",
    ]


def test_another_data_or_dtype_is_another_file(prepared: PreparedSweep, job: TrialJob, tmp_path: Path) -> None:
    other = make_job(prepared, prepared.trials[1], tmp_path)
    assert reference_file(other) == reference_file(job)  # the seed of the order is not the reference's
    changed = job.spec.model_copy(update={"model": job.spec.model.model_copy(update={"dtype": "bfloat16"})})
    files = {reference_file(job)}
    for field, value in (("spec", changed), ("data_digest", "other"), ("base_digest", "other")):
        files.add(reference_file(TrialJob(**{**job.__dict__, field: value})))
    assert len(files) == 4


def test_when_the_holder_dies_the_next_one_computes(
    job: TrialJob, data: EncodedData, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = threading.Semaphore(0)
    look = sharing._look
    monkeypatch.setattr(sharing, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(sharing, "_look", lambda *arguments: (looks.release(), look(*arguments))[1])
    notes: list[str] = []
    command = [sys.executable, "-c", HOLD, str(reference_file(job).with_suffix(".lock"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        waiting = threading.Thread(target=shared_reference, args=(job, policy, data, Ranks(), notes.append))
        waiting.start()
        for _ in range(3):
            assert looks.acquire(timeout=10)
        assert (notes, reference_file(job).exists()) == ([], False)
        holder.kill()
        waiting.join(30)
    assert "computed" in notes[0]
    assert reference_file(job).exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"cut off"])
def test_a_damaged_file_is_named(content: bytes, job: TrialJob, data: EncodedData, policy: Policy) -> None:
    reference_file(job).parent.mkdir()
    reference_file(job).write_bytes(content)
    with pytest.raises(RuntimeError, match=rf"{reference_file(job)} is damaged; remove it"):
        shared_reference(job, policy, data, Ranks(), None)


def test_a_file_of_other_samples_is_named(job: TrialJob, data: EncodedData, policy: Policy) -> None:
    shared_reference(job, policy, data, Ranks(), None)
    with pytest.raises(RuntimeError, match="does not fit the data"):
        shared_reference(job, policy, data[:5], Ranks(), None)
