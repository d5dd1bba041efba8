"""Every kind of file on the storage, changed in a random place after the sweep: the command names it and never uses it.

`DFT_SWEEPS_FAULT_SEED` repeats a draw, `DFT_SWEEPS_FAULT_DRAWS` makes more. What kills or cuts off is in test_storm.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Whole
from tests.end_to_end.disturbing import DRAWS, dice, sweep
from tests.end_to_end.poison import POISONED, require_that_poison_is_named

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(2700)]


@pytest.fixture
def storage(whole: Whole, tmp_path: Path) -> Iterator[Path]:
    """The finished sweep's, which is as it was after the test."""
    shutil.copytree(whole.storage, tmp_path / "kept")
    yield whole.storage
    shutil.rmtree(whole.storage)
    (tmp_path / "kept").rename(whole.storage)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("name", POISONED)
def test_a_poisoned_file_is_named_and_never_used(
    whole: Whole, storage: Path, tmp_path: Path, name: str, draw: int
) -> None:
    """A new MLflow knows nothing of the sweep, and gets everything from the storage."""
    uri, rng = f"sqlite:///{tmp_path / 'other.db'}", dice(f"{name} poisoned", draw)
    print(
        require_that_poison_is_named(
            name, storage, rng, uri, lambda: sweep(storage, "--tracking-uri", uri), whole.points
        )
    )
