"""What trials measured of their own speed, and what sweeps used, as tags of their MLflow runs. Changes nothing."""

from __future__ import annotations

from dft_sweeps.spec.costs import Measurement
from dft_sweeps.spec.reckoning import Hours
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
"""On sweeps, with a dot and an attempt's id behind it: what that attempt has used, so that none writes over what
another has written. Alone: what all attempts had used until they were told apart."""
_HOURS_TAGS = (CPU_HOURS_TAG, GPU_HOURS_TAG)
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


def hours_tags(used: Hours, attempt: str) -> dict[str, str]:
    """Of what one attempt has used, in all."""
    return {f"{tag}.{attempt}": str(hours) for tag, hours in zip(_HOURS_TAGS, used, strict=True)}


@outage_as_error
def used_hours(tracking_uri: str, sweep_id: str, but: str = "") -> Hours:
    """What all attempts at a sweep have used, except for the attempt `but`."""
    own_runs = f"tags.`{names.SWEEP_ID_TAG}` = '{sweep_id}' and tags.`{names.PARENT_TAG}` IS NULL"
    written = [item for tags in _tags(tracking_uri, own_runs) for item in tags.items()]
    others = [(key, value) for key, value in written if not key.endswith(f".{but}")]
    return Hours(*(sum(float(value) for key, value in others if key.startswith(tag)) for tag in _HOURS_TAGS))


def _tags(tracking_uri: str, wanted: str) -> list[dict[str, str]]:
    """Of the newest runs for which the filter `wanted` holds."""
    try:
        client = connect(tracking_uri, create=False)
    except FileNotFoundError:
        return []
    found = search_runs(client, sweep_experiments(client), wanted, MOST_RUNS)
    return [dict(run.data.tags) for run in found]
