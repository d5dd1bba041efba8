"""On a GPU machine the training package runs with torch and transformers: the services' packages stay out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ABSENT = ("ray", "mlflow", "vllm", "datasets", "trl", "pebble", "math_verify", "matplotlib", "sqlalchemy", "click")
SCRIPT = """
import io, sys
from pathlib import Path

sys.modules.update(dict.fromkeys({absent!r}))  # importing any of them raises ImportError
from tests.bench.gpu import digits
from tests.bench.rounds import Rounds
from tests.bench.sides import train_ours
from tests.bench.workload import SHIPPED, shipped_tokenizer, write_model, write_samples
import dft_sweeps.training.histogram, dft_sweeps.training.logprobs

directory, tokenizer = Path(sys.argv[1]), shipped_tokenizer()
write_model(SHIPPED, tokenizer, directory)
write_samples(digits(4), tokenizer, directory)
options = {{"device": "cpu", "dtype": "bfloat16"}}
train_ours(directory, options, lambda steps: Rounds(steps, "cpu", io.StringIO("go\\n"), sys.stdout)).close()
"""


def test_training_needs_nothing_of_ray_or_mlflow(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(absent=ABSENT), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith('{"loss": ')
