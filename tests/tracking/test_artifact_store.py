"""An artifact store whose client raises errors of its own, as boto3 does: its silence is waited out like MLflow's.

MLflow is real; the store is a folder behind a scheme of its own, for no client of an object store is installed here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from dft_sweeps.tracking import background
from dft_sweeps.tracking.background import Background
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.store import TrackingUnavailable
from dft_sweeps.tracking.writer import Tracker

PATH = "evaluations/step-00000003.json"


class EndpointError(Exception):
    """Neither an OSError nor MLflow's, like all of botocore's."""


class ObjectStore(LocalArtifactRepository):
    down = False

    def __init__(self, artifact_uri: str, *given: object, **options: object) -> None:
        super().__init__(urlsplit(artifact_uri).path)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        if ObjectStore.down:
            raise EndpointError("could not connect to the endpoint")
        super().log_artifact(local_file, artifact_path)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        if ObjectStore.down:
            raise EndpointError("could not connect to the endpoint")
        super()._download_file(remote_file_path, local_path)

    download_artifacts = ArtifactRepository.download_artifacts  # by `_download_file`, as from other machines


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    monkeypatch.setattr(background, "PAUSES_S", (0.01,))
    _artifact_repository_registry.register("objects", ObjectStore)
    yield Tracker(f"sqlite:///{tmp_path}/mlflow.db", f"objects://{tmp_path}/artifacts")
    ObjectStore.down = False
    del _artifact_repository_registry._registry["objects"]


def test_a_store_that_is_away_is_waited_for_and_refuses_nothing(tracker: Tracker, tmp_path: Path) -> None:
    said: list[str] = []
    writer = Background(tracker, tmp_path / "spool", said.append, patience_s=60.0)
    trial = {"training_id": "t-0", "name": "trial", "axes": {}}
    parent = writer.open_sweep("objects", "s-objects", "name: objects\n", [trial], "m")
    run = writer.open_trial(parent, "t-0", "trial", {}, {})

    ObjectStore.down = True
    writer.log_text(run, "1", PATH)
    back = threading.Timer(1.0, lambda: setattr(ObjectStore, "down", False))
    back.start()
    writer.flush()
    back.join()

    ObjectStore.down = True
    with pytest.raises(TrackingUnavailable, match="the artifact store does not answer: could not connect"):
        writer.open_sweep("objects", "s-other", "name: objects\n", [trial], "m")

    hasty = Background(tracker, tmp_path / "spool", said.append, patience_s=0.2)
    hasty.log_text(parent, "2", PATH)
    with pytest.raises(TrackingUnavailable, match="rows wait in"):
        hasty.flush()
    again = Background(tracker, tmp_path / "spool", said.append)
    with pytest.raises(TrackingUnavailable, match="could not connect"):
        again.recover()
    ObjectStore.down = False
    again.recover()
    for run_id, text in ((parent, "2"), (_made(tracker, run), "1")):
        assert Path(tracker._client.download_artifacts(run_id, PATH, str(tmp_path))).read_text() == text
    assert not any("refuses" in line for line in said)
    assert not list((tmp_path / "spool").iterdir())


def _made(tracker: Tracker, asked: str) -> str:
    """The run that MLflow has of one that the background writer was asked for."""
    [found] = tracker._client.search_runs(["1"], f"tags.`dft.attempt` = '{asked}'")
    run_id: str = found.info.run_id
    return run_id


def test_a_store_that_is_away_while_it_is_read_is_an_outage(tracker: Tracker) -> None:
    tracker.open_sweep("objects", "s-read", "name: objects\n", [{"training_id": "t-0", "name": "t", "axes": {}}], "m")
    reader = Reader(tracker.address)
    sweep = reader.find_sweep("s-read")
    assert [trial.training_id for trial in reader.trials(sweep)] == ["t-0"]
    ObjectStore.down = True
    with pytest.raises(TrackingUnavailable, match=r"trials\.json of run .* cannot be read"):
        reader.trials(sweep)
