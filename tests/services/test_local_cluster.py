"""The cluster of `serve`'s own ends with it, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.running import MARK, marked
from tests.services.served import wait_until

pytestmark = pytest.mark.ray

OWNER = """\
import sys, time
from pathlib import Path
from dft_sweeps.orchestration.cluster import set_environment
from services.local_cluster import local_cluster

set_environment(None)
with local_cluster(Path(sys.argv[1])) as address:
    print(address, flush=True)
    time.sleep(600)
"""


def test_no_process_of_a_cluster_outlives_an_owner_that_is_killed(tmp_path: Path) -> None:
    mark = f"{os.getpid()}-owner"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        env=os.environ | {MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout and ":" in owner.stdout.readline()
    assert len(marked(mark)) > 3
    owner.kill()
    owner.wait()
    wait_until(lambda: not marked(mark), 60)
