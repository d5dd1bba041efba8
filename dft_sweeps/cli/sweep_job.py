"""What a submitted sweep's Ray job runs: `dft-sweeps run` or `rerun`, on its cluster, as the service is set up.

`python -m dft_sweeps.cli.sweep_job DIRECTORY`; DIRECTORY holds `spec.yaml`, resolved, and `job.json`. Exit codes are
those of `dft-sweeps run`. Being killed costs nothing but time: the next attempt takes up what is there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    directory = Path(sys.argv[1])
    # Ray's processes, of which this is a child, block the signal by which a job is stopped, or ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from dft_sweeps.cli import main as command
    from services.service_files import read_tracking
    from services.submitted_files import CANCELLED

    if (directory / CANCELLED).exists():  # while they still did
        print("interrupted", file=sys.stderr)
        sys.exit(command.INTERRUPTED)

    job = json.loads((directory / "job.json").read_text(encoding="utf-8"))
    tracking = read_tracking(Path(job["storage"]))
    tracking.enter()
    os.environ["MLFLOW_TRACKING_URI"] = tracking.uri
    os.environ.pop("DFT_SWEEPS_SERVER", None)  # with it, a rerun would be handed to the service that started this job
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    if not job["hub"]:
        os.environ["HF_HUB_OFFLINE"] = "1"
    asked = ["rerun", *job["rerun"]] if job["rerun"] else ["run", str(directory / "spec.yaml")]
    sys.argv = ["dft-sweeps", *asked, "--storage", job["storage"], "--address", "auto"]
    command.main()


if __name__ == "__main__":
    main()
