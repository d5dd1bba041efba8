"""Two coordinators never run the same trial on the same storage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dft_sweeps.orchestration.locks import trial_locks
from dft_sweeps.spec.errors import SpecError

HOLD = """
import sys
from pathlib import Path
from dft_sweeps.orchestration.locks import trial_locks
with trial_locks(Path(sys.argv[1]), ["t-1", "t-2"]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_trial_held_by_another_process_is_refused_by_its_pid(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SpecError, match=f"t-2 is being run by process {other.pid}"), trial_locks(tmp_path, ["t-2"]):
            pass
        with trial_locks(tmp_path, ["t-3"]):
            pass
        other.kill()
    with trial_locks(tmp_path, ["t-2"]):  # a lock ends with its process
        assert (tmp_path / "trials" / "t-2.lock").read_text() == str(os.getpid())
