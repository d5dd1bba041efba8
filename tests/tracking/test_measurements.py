"""What sweeps leave in MLflow for the plans of later ones."""

from __future__ import annotations

from pathlib import Path

from dft_sweeps.spec.costs import Measurement
from dft_sweeps.spec.reckoning import NOTHING, Hours
from dft_sweeps.tracking.measurements import (
    DEVICE_TAG,
    MEASURED_TAG,
    MODEL_TAG,
    hours_tags,
    measurements,
    used_hours,
)
from dft_sweeps.tracking.writer import Tracker


def test_measurements_are_of_the_model_and_the_machine(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert measurements(uri, "w", None) == []
    assert not (tmp_path / "mlflow.db").exists()
    tracker = Tracker(uri, str(tmp_path / "artifacts"))
    parent = tracker.open_sweep("a", "s-a", "name: a\n", [], "m")
    kept = {}
    for name, model, device in (
        ("cpu", "w", "x86_64 AVX512"),
        ("gpu", "w", "NVIDIA H100 80GB HBM3"),
        ("other", "v", "x86_64 AVX512"),
    ):
        kept[name] = Measurement("shape", "engine", name, 1.5, 2.5, 30, lengths={"gsm8k/96": [40, 4]})
        run = tracker.open_trial(parent, f"t-{name}", name, {}, {MODEL_TAG: model, DEVICE_TAG: device})
        tracker.tag(run, {MEASURED_TAG: kept[name].to_json()})
    tracker.open_trial(parent, "t-none", "none", {}, {MODEL_TAG: "w", DEVICE_TAG: "x86_64 AVX512"})
    assert measurements(uri, "w", ("H100", "A100")) == [kept["gpu"]]
    assert measurements(uri, "w", ("x86_64",)) == [kept["cpu"]]
    assert measurements(uri, "w", ("H200",)) == []
    assert sorted(each.objective for each in measurements(uri, "w", None)) == ["cpu", "gpu"]


def test_what_a_sweep_used_stands_on_its_own_run(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker(uri, str(tmp_path / "artifacts"))
    run = tracker.open_sweep("a", "s-a", "name: a\n", [], "m")
    assert used_hours(uri, "s-a") == NOTHING
    tracker.tag(run, hours_tags(Hours(1.25, 0.5), "one"))
    tracker.tag(run, hours_tags(Hours(2.25, 0.75), "one"))
    assert used_hours(uri, "s-a") == Hours(2.25, 0.75)
    tracker.tag(run, hours_tags(Hours(1.0, 0.5), "two"))
    assert used_hours(uri, "s-a") == Hours(3.25, 1.25)
    assert used_hours(uri, "s-a", but="one") == Hours(1.0, 0.5)
    tracker.tag(run, {"dft.cpu_hours": "4.0", "dft.gpu_hours": "2.0"})  # as all attempts together once wrote it
    assert used_hours(uri, "s-a") == Hours(7.25, 3.25)
    assert used_hours(uri, "s-b") == NOTHING
