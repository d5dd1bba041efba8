"""A sweep's charts on one page of MLflow: the state of its page as somebody might share it, kept as a tag of the
experiment and shown at an address that names the tag.

The format is that of the page itself and no promise of MLflow's; a server that does not take it is no error here, for
MLflow's usual charts of the same trials are at another address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dft_sweeps.tracking import names
from dft_sweeps.tracking.store import connect, outage_as_error

if TYPE_CHECKING:
    from dft_sweeps.tracking.reader import TrialRow

VIEW_TAG = "mlflow.sharedViewState."
"""Before the view's name, on its experiment."""
HEADLINE = names.eval_metric("eval", names.AVERAGE, "accuracy")
_ACCURACY = re.compile(r"eval/([^/]+)/accuracy")
_BY_STEP, _BY_AXIS = "Accuracy by step", "Accuracy at the last step"
_MOST_DRAWN = 100
"""Points of a chart; MLflow's own limit."""
_REFUSALS = ("PERMISSION_DENIED", "INVALID_PARAMETER_VALUE")


@outage_as_error
def keep_view(tracking_uri: str, experiment_id: str, name: str, state: str) -> str | None:
    """Has MLflow hold a view of an experiment, over one of that name. Why it does not take it; None where it does.

    Raises:
        TrackingUnavailable: nothing answers at `tracking_uri`.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

    if len(state) > MAX_EXPERIMENT_TAG_VAL_LENGTH:  # of this version; a server of another may have a lower limit
        return f"it has {len(state)} characters, and a tag {MAX_EXPERIMENT_TAG_VAL_LENGTH} at most"
    client = connect(tracking_uri, create=False)
    tag = VIEW_TAG + name
    if client.get_experiment(experiment_id).tags.get(tag) == state:
        return None
    try:
        client.set_experiment_tag(experiment_id, tag, state)
    except MlflowException as error:
        if error.error_code not in _REFUSALS:
            raise
        return str(error).splitlines()[0]
    return None


def view_state(condition: str, trials: Sequence[TrialRow]) -> str:
    """MLflow's page of the runs for which the condition holds, as JSON: accuracy by optimizer step, of the average and
    of every benchmark; and accuracy at the last step by each axis of numbers, and by all axes in parallel coordinates.

    Args:
        condition: MLflow's filter; the trials' runs.
        trials: what they measured and on what they differ.
    """
    keys = sorted({key for trial in trials for key in trial.metrics if _ACCURACY.fullmatch(key)} - {HEADLINE})
    by_step = [_by_step(key) for key in (HEADLINE, *keys)]
    by_axis = _by_axes([trial.axes for trial in trials])
    state = {
        "searchFilter": condition,
        "orderByKey": f"metrics.`{HEADLINE}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [*by_step, *by_axis],
        "compareRunSections": [_section(_BY_STEP), *([_section(_BY_AXIS)] if by_axis else [])],
        "isAccordionReordered": True,  # else MLflow's own sections, of all metrics, come between
    }
    return json.dumps(state, separators=(",", ":"))


def _by_axes(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Charts by what the trials differ in: axes that are one param each, so no variants; and not by the seed."""
    values: dict[str, list[Any]] = {}
    for axes in given:
        for axis in axes.keys() - {"train.seed", "variant"}:
            values.setdefault(axis, []).append(axes[axis])
    differing = [axis for axis, found in sorted(values.items()) if any(value != found[0] for value in found)]
    single = [axis for axis in differing if all(isinstance(value, str | int | float) for value in values[axis])]
    numbers = [axis for axis in single if all(type(value) in (int, float) for value in values[axis])]
    return [*map(_by_axis, numbers), *([_by_all(single)] if numbers and len(single) > 1 else [])]


def _section(name: str) -> dict[str, Any]:
    return {"uuid": name, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}


def _card(kind: str, section: str, name: str) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{section}: {name}",
        "metricSectionId": section,
        "displayName": name,
        "runsCountToCompare": _MOST_DRAWN,
        "deleted": False,
        "isGenerated": False,
    }


def _by_step(key: str) -> dict[str, Any]:
    return _card("LINE", _BY_STEP, key) | {
        "metricKey": key,
        "selectedMetricKeys": [key],
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "xAxisScaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "scaleType": "linear",
        "range": {},
        "lineSmoothness": 0,
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
    }


def _by_axis(axis: str) -> dict[str, Any]:
    return _card("SCATTER", _BY_AXIS, axis) | {
        "xaxis": {"key": axis, "type": "PARAM"},
        "yaxis": {"key": HEADLINE, "type": "METRIC"},
    }


def _by_all(axes: Sequence[str]) -> dict[str, Any]:
    return _card("PARALLEL", _BY_AXIS, "all") | {"selectedParams": list(axes), "selectedMetrics": [HEADLINE]}
