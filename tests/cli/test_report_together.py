"""`dft-sweeps report` of several sweeps: each one's own, and what they show together, from a real MLflow store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from dft_sweeps.cli import report
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Tracker
from tests.report.synthetic_sweep import SPEC, write_sweep

RATES, SIZES = "s-0123456789abcdef", "s-fedcba9876543210"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sweeps of equal measures, one that measures something else, and two of equal measures without any trial."""
    storage = tmp_path_factory.mktemp("storage")
    tracker = Tracker(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts"))
    write_sweep(tracker, "rates", RATES)
    write_sweep(tracker, "sizes", SIZES)
    for name, measures in (("other", "n"), ("empty", "m"), ("bare", "m")):
        tracker.open_sweep(name, f"s-{name}", yaml.safe_dump(SPEC, sort_keys=False), [], measures)
    return storage


def call(storage: Path, *arguments: str) -> Result:
    return CliRunner().invoke(report.command, ["--storage", str(storage), *arguments])


@pytest.mark.slow
def test_sweeps_are_reported_each_and_together(storage: Path) -> None:
    result = call(storage, "rates", "sizes", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    together = storage / "reports" / f"{RATES}_{SIZES}"
    stems = [f"ablation_{sampling}{what}" for sampling in ("sampled", "greedy") for what in ("", "_average")]
    names = {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert {Path(path) for path in document["files"]} == {together / name for name in names}
    assert "Sweeps: rates and sizes." in (together / "ablation_sampled.svg").read_text()
    assert [len(each["curves"]) > 0 for each in document["sweeps"]] == [True, True]
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    for sweep in (RATES, SIZES):
        assert (storage / "reports" / sweep / "tables.md").exists()
        run = reader.find_sweep(sweep).run_id
        logged = reader._client.list_artifacts(run, f"report/{together.name}")
        assert {Path(file.path).name for file in logged} == names


def test_one_sweep_under_two_names_is_one(storage: Path) -> None:
    result = call(storage, "rates", RATES)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("rates, average of the benchmarks: accuracy (%), sampled") == 1


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        (("rates", "other"), "rates and other measure different things"),
        (("empty", "bare"), "these sweeps show nothing together: that takes finished trials of several learning"),
        (("rates", "nonesuch"), "no sweep 'nonesuch'; choose one of:"),
    ],
)
def test_what_cannot_be_drawn_together(storage: Path, sweeps: tuple[str, ...], message: str) -> None:
    result = call(storage, *sweeps)
    assert isinstance(result.exception, SpecError)
    assert message in str(result.exception)
