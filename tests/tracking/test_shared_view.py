"""Views that MLflow's page shows: kept as tags of real experiments."""

from __future__ import annotations

import json

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from dft_sweeps.tracking.reader import Reader, TrialRow
from dft_sweeps.tracking.shared_view import VIEW_TAG, keep_view, view_state
from dft_sweeps.tracking.writer import Tracker
from tests.report.synthetic_sweep import write_sweep
from tests.tracking.conftest import NewDatabase


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a store with a sweep of six trials."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    write_sweep(Tracker(uri, str(folder / "artifacts")))
    return uri


def tags(uri: str, experiment_id: str) -> dict[str, str]:
    found: dict[str, str] = MlflowClient(uri).get_experiment(experiment_id).tags
    return found


def row(**axes: object) -> TrialRow:
    metrics = {
        "eval/average/accuracy": 0.5,
        "eval/b/accuracy": 0.5,
        "eval_greedy/c/accuracy": 0.5,
        "eval/b/ci_low": 0.4,
    }
    return TrialRow("t", "t", axes, "FINISHED", "r", {}, metrics, {}, None, None)


def test_a_view_of_the_whole_sweep_is_kept_and_replaced(uri: str) -> None:
    reader = Reader(uri)
    sweep = reader.find_sweep("quickstart")
    state = view_state(f"tags.`mlflow.parentRunId` = '{sweep.run_id}'", reader.trials(sweep))
    for kept in (state, state, state.replace("SHOW_ALL", "HIDE_ALL")):
        assert keep_view(uri, sweep.experiment_id, sweep.sweep_id, kept) is None
        assert tags(uri, sweep.experiment_id)[VIEW_TAG + sweep.sweep_id] == kept


def test_postgresql_keeps_the_longest_view(new_database: NewDatabase) -> None:
    uri = new_database()
    experiment = MlflowClient(uri).create_experiment("e", "/nowhere")
    longest = "é" * 20_000
    assert keep_view(uri, experiment, "v", longest) is None
    assert tags(uri, experiment)[VIEW_TAG + "v"] == longest


def test_a_view_too_long_for_mlflow_is_refused_with_the_reason(uri: str) -> None:
    experiment = Reader(uri).find_sweep("quickstart").experiment_id
    assert keep_view(uri, experiment, "long", "x" * 20_001) == "it has 20001 characters, and a tag 20000 at most"
    assert VIEW_TAG + "long" not in tags(uri, experiment)


@pytest.mark.parametrize("code", ["INVALID_PARAMETER_VALUE", "PERMISSION_DENIED"])
def test_a_view_that_the_server_refuses_is_told(uri: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("Tag value exceeds\nits length", error_code=ErrorCode.Value(code))

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    experiment = Reader(uri).find_sweep("quickstart").experiment_id
    assert "Tag value exceeds" in str(keep_view(uri, experiment, "refused", "{}"))


def test_charts_are_of_the_first_sampling_and_of_axes_that_differ() -> None:
    trials = [
        row(
            **{"train.learning_rate": rate, "train.seed": seed, "train.batch_size": 16, "variant": kind, "a.kind": kind}
        )
        for seed, (rate, kind) in enumerate([(1e-4, "sft"), (2.0, "dft")])
    ]
    state = json.loads(view_state("c", trials))
    by_step = [chart["metricKey"] for chart in state["compareRunCharts"] if chart["type"] == "LINE"]
    by_axis = [chart["xaxis"]["key"] for chart in state["compareRunCharts"] if chart["type"] == "SCATTER"]
    (by_all,) = [chart["selectedParams"] for chart in state["compareRunCharts"] if chart["type"] == "PARALLEL"]
    assert (by_step, by_axis) == (["eval/average/accuracy", "eval/b/accuracy"], ["train.learning_rate"])
    assert by_all == ["a.kind", "train.learning_rate"]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert sections == {chart["metricSectionId"] for chart in state["compareRunCharts"]}
