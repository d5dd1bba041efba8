from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.training.order import batch_indices, total_steps
from tests.training.tiny_policy import train_spec


@given(batch_size=st.integers(1, 9), samples=st.integers(1, 60), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_epoch_goes_once_through_the_samples_but_the_last_incomplete_batch(
    batch_size: int, samples: int, seed: int, epoch: int
) -> None:
    settings = train_spec(batch_size=batch_size, seed=seed)
    per_epoch = samples // batch_size
    steps = range(epoch * per_epoch + 1, (epoch + 1) * per_epoch + 1)
    batches = [batch_indices(step, settings, samples) for step in steps]
    seen = [index for batch in batches for index in batch]
    assert all(len(batch) == batch_size for batch in batches)
    assert len(seen) == len(set(seen)) == samples - samples % batch_size
    assert set(seen) <= set(range(samples))


def test_golden_order() -> None:
    """The order belongs to the mathematics that a training id names, so it never changes."""
    settings = train_spec(batch_size=4, seed=7)
    assert [batch_indices(step, settings, 10) for step in (1, 2, 3)] == [[8, 0, 7, 1], [3, 6, 2, 4], [9, 0, 8, 6]]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    settings = train_spec(batch_size=8, seed=3)
    forwards = [batch_indices(step, settings, 50) for step in range(1, 13)]
    backwards = [batch_indices(step, settings, 50) for step in range(12, 0, -1)]
    assert forwards == backwards[::-1]
    slower = train_spec("sft", batch_size=8, seed=3, learning_rate=1e-5, steps=500)
    assert [batch_indices(step, slower, 50) for step in range(1, 13)] == forwards
    assert forwards[:6] != forwards[6:]  # the second epoch
    assert [batch_indices(step, train_spec(batch_size=8, seed=4), 50) for step in range(1, 13)] != forwards


def test_total_steps() -> None:
    assert total_steps(train_spec(batch_size=8, steps=100), 8) == 100
    assert total_steps(train_spec(batch_size=8, steps=None, epochs=1), 17) == 2
    assert total_steps(train_spec(batch_size=8, steps=None, epochs=2.5), 17) == 5
    assert total_steps(train_spec(batch_size=8, steps=None, epochs=0.7), 17) == 1
    assert total_steps(train_spec(batch_size=8, steps=None, epochs=0.01), 17) == 1
    assert total_steps(train_spec(batch_size=256, steps=None, epochs=1), 100_000) == 390  # the paper's


@given(hundredths=st.integers(1, 500), batches=st.integers(1, 500))
@example(hundredths=29, batches=100)
def test_epochs_written_in_hundredths_are_not_a_step_short(hundredths: int, batches: int) -> None:
    settings = train_spec(batch_size=2, steps=None, epochs=hundredths / 100)
    assert total_steps(settings, 2 * batches) == max(hundredths * batches // 100, 1)


def test_fewer_samples_than_a_batch_are_refused() -> None:
    with pytest.raises(SpecError, match=r"train.batch_size is 8, but there are only 7 samples"):
        total_steps(train_spec(batch_size=8), 7)
