"""What trials measured of their own speed, and what sweeps used, as tags of their MLflow runs. Changes nothing."""

from __future__ import annotations

from dft_sweeps.spec.costs import Measurement
from dft_sweeps.spec.reckoning import NOTHING, Hours
from dft_sweeps.tracking import names
from dft_sweeps.tracking.search import search_runs, sweep_experiments
from dft_sweeps.tracking.store import connect, outage_as_error

MODEL_TAG = "dft.model"
"""On trials: digest of the initial policy's weights."""
DEVICE_TAG = "dft.device"
"""On trials: what they trained on."""
MEASURED_TAG = "dft.measured"
"""On trials: a `Measurement` as JSON."""
GPU_HOURS_TAG = "dft.gpu_hours"
CPU_HOURS_TAG = "dft.cpu_hours"
"""On sweeps: what all attempts at them have used."""
MOST_RUNS = 50
"""The newest runs that a plan learns from."""


@outage_as_error
def measurements(tracking_uri: str, weights_digest: str, devices: tuple[str, ...] | None) -> list[Measurement]:
    """Of the newest trials of a model, on devices whose tag has one of these words in it (on all where None).

    Empty where there is no database.
    """
    found = []
    for tags in _tags(tracking_uri, f"tags.`{MODEL_TAG}` = '{weights_digest}'"):
        device = tags.get(DEVICE_TAG, "")
        if MEASURED_TAG in tags and (devices is None or any(word in device for word in devices)):
            found.append(Measurement.from_json(tags[MEASURED_TAG]))
    return found


def hours_tags(used: Hours) -> dict[str, str]:
    return {CPU_HOURS_TAG: str(used.cpus), GPU_HOURS_TAG: str(used.gpus)}


@outage_as_error
def used_hours(tracking_uri: str, sweep_id: str) -> Hours:
    """What all attempts at a sweep have used."""
    condition = f"tags.`{names.SWEEP_ID_TAG}` = '{sweep_id}' and tags.`{CPU_HOURS_TAG}` != ''"
    for tags in _tags(tracking_uri, condition):
        return Hours(float(tags[CPU_HOURS_TAG]), float(tags[GPU_HOURS_TAG]))
    return NOTHING


def _tags(tracking_uri: str, wanted: str) -> list[dict[str, str]]:
    """Of the newest runs for which the filter `wanted` holds."""
    try:
        client = connect(tracking_uri, create=False)
    except FileNotFoundError:
        return []
    found = search_runs(client, sweep_experiments(client), wanted, MOST_RUNS)
    return [dict(run.data.tags) for run in found]
