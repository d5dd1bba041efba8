from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dft_sweeps.data.encode import Sample
from dft_sweeps.data.packing import IGNORE, MicroBatch, empty_micro_batch, micro_batches, pack


@st.composite
def sample_lists(draw: st.DrawFn) -> list[Sample]:
    """Samples whose tokens are all different, so that a token tells where it came from."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    return [
        Sample(tuple(range(start, start + length)), draw(st.integers(0, length)))
        for start, length in zip(starts, lengths, strict=True)
    ]


def targets_of(sample: Sample) -> dict[int, int]:
    """The token each token of the sample is to predict."""
    first = max(sample.prompt_length, 1)
    return {sample.ids[i - 1]: sample.ids[i] for i in range(first, len(sample.ids))}


@given(samples=sample_lists(), row_length=st.integers(1, 40), tokens=st.integers(1, 120))
def test_every_target_is_predicted_once_by_the_token_before_it(
    samples: list[Sample], row_length: int, tokens: int
) -> None:
    """So no target crosses a boundary, no prompt token is a target, and nothing is lost."""
    found: list[tuple[int, int]] = []
    for batch in micro_batches(samples, row_length, tokens):
        kept = batch.labels != IGNORE
        found += zip(batch.ids[kept].tolist(), batch.labels[kept].tolist(), strict=True)
    expected = {token: target for sample in samples for token, target in targets_of(sample).items()}
    assert sorted(found) == sorted(expected.items())


@given(samples=sample_lists(), row_length=st.integers(1, 40), tokens=st.integers(1, 120))
def test_every_sample_lies_whole_in_a_row_with_positions_of_its_own(
    samples: list[Sample], row_length: int, tokens: int
) -> None:
    runs: list[tuple[int, ...]] = []
    for batch in micro_batches(samples, row_length, tokens):
        for ids, positions in zip(batch.ids, batch.positions, strict=True):
            starts = np.flatnonzero(positions == 0)
            for piece in np.split(np.arange(len(ids)), starts[1:]):
                assert positions[piece].tolist() == list(range(len(piece)))
                runs.append(tuple(ids[piece].tolist()))
    for sample in samples:
        assert sample.ids in runs
    padding = [run for run in runs if run not in [sample.ids for sample in samples]]
    assert all(not any(run) for run in padding)


@given(samples=sample_lists(), row_length=st.integers(1, 40), tokens=st.integers(1, 120))
def test_columns_and_sample_numbers_go_with_their_targets(samples: list[Sample], row_length: int, tokens: int) -> None:
    numbered = [
        replace(sample, columns={"token": np.array(sample.ids[sample.first_target :], dtype=np.float32)})
        for sample in samples
    ]
    seen: list[int] = []
    for batch in micro_batches(numbered, row_length, tokens):
        labels = batch.labels[batch.labels != IGNORE]
        assert batch.columns["token"].tolist() == labels.tolist()
        members = [samples[member].ids for member in batch.members]
        assert all(label in members[index] for label, index in zip(labels, batch.sample, strict=True))
        seen += batch.members
    assert sorted(seen) == list(range(len(samples)))


@given(samples=sample_lists(), row_length=st.integers(1, 40), tokens=st.integers(1, 120))
def test_micro_batches_keep_to_their_size_unless_a_single_row_is_larger(
    samples: list[Sample], row_length: int, tokens: int
) -> None:
    longest = max(len(sample.ids) for sample in samples)
    for batch in micro_batches(samples, row_length, tokens):
        assert batch.ids.shape == batch.positions.shape == batch.labels.shape
        assert batch.ids.size <= tokens or len(batch.ids) == 1
        assert batch.ids.shape[1] <= max(row_length, longest)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 60))
def test_rows_hold_every_sample_once_and_fit(lengths: list[int], row_length: int) -> None:
    rows = pack(lengths, row_length)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    for row in rows:
        assert len(row) == 1 or sum(lengths[index] for index in row) <= row_length
    # First fit: two rows that are both at most half full would have been one.
    assert sum(2 * sum(lengths[index] for index in row) <= row_length for row in rows) <= 1


def test_first_fit_decreasing() -> None:
    assert pack([3, 9, 5, 2, 7, 1], 10) == [[1, 5], [4, 0], [2, 3]]
    assert pack([4, 4, 4], 4) == [[0], [1], [2]]
    assert pack([50, 1], 10) == [[0], [1]]
    assert pack([], 10) == []


def test_a_packed_row() -> None:
    (batch,) = micro_batches([Sample((11, 12, 13, 14), 2), Sample((21, 22, 23), 1)], 10, 100)
    assert batch.ids.tolist() == [[11, 12, 13, 14, 21, 22, 23]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert batch.labels.tolist() == [[IGNORE, 13, 14, IGNORE, 22, 23, IGNORE]]
    assert batch.targets == 4


def test_padding_is_a_segment_of_its_own_without_targets() -> None:
    (batch,) = micro_batches([Sample((11, 12, 13, 14), 2), Sample((21, 22), 1)], 4, 100)
    assert batch.ids.tolist() == [[11, 12, 13, 14], [21, 22, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert batch.labels.tolist() == [[IGNORE, 13, 14, IGNORE], [22, IGNORE, IGNORE, IGNORE]]


@pytest.mark.parametrize(("prompt_length", "targets"), [(0, 3), (1, 3), (3, 1), (4, 0)])
def test_targets_of_prompts_of_any_length(prompt_length: int, targets: int) -> None:
    """The first token of all is never a target: there is nothing to predict it from."""
    (batch,) = micro_batches([Sample((5, 6, 7, 8), prompt_length)], 8, 8)
    assert batch.targets == targets


def test_the_empty_micro_batch_has_no_target() -> None:
    batch = empty_micro_batch(["scale"])
    assert isinstance(batch, MicroBatch) and batch.ids.shape == (1, 1) and batch.targets == 0
    assert {name: column.shape for name, column in batch.columns.items()} == {"scale": (0,)}
    assert micro_batches([], 8, 8) == []


def test_packing_is_the_same_every_time() -> None:
    random = np.random.default_rng(0)
    samples = [Sample(tuple(range(length)), 1) for length in random.integers(2, 9, size=50).tolist()]
    one, two = micro_batches(samples, 16, 64), micro_batches(samples, 16, 64)
    assert [batch.ids.tolist() for batch in one] == [batch.ids.tolist() for batch in two]
