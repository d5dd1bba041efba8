"""Packing: whole samples side by side in rows, rows in micro-batches, all inside one optimizer batch.

A row restarts its positions at every sample, which is how attention knows the samples apart. The token before a
sample's first target predicts it; the last token of a sample predicts nothing, so no target crosses a boundary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dft_sweeps.data.encode import Sample

IGNORE = -100
"""Label of a position without a target."""


@dataclass(frozen=True)
class MicroBatch:
    """Packed rows. `ids`, `positions` and `labels` are [rows, row length], int64."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    """At each position the token to predict there (already shifted), or IGNORE."""
    sample: NDArray[np.int64]
    """Which sample of the micro-batch each target belongs to, [targets], targets in the order of the flattened rows."""
    columns: dict[str, NDArray[np.float32]]
    """The samples' columns, [targets] each, in the same order."""
    members: tuple[int, ...]
    """Which of the samples given these are."""

    @property
    def targets(self) -> int:
        return len(self.sample)


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """First-fit decreasing: indices of samples by row, none longer than `row_length` unless a single sample is."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for row, left in enumerate(room):
            if lengths[index] <= left:
                rows[row].append(index)
                room[row] -= lengths[index]
                break
        else:
            rows.append([index])
            room.append(row_length - lengths[index])
    return rows


def micro_batches(samples: Sequence[Sample], row_length: int, tokens: int) -> list[MicroBatch]:
    """Packs samples into rows of `row_length` and rows into micro-batches of at most `tokens` tokens.

    A row is never split, so a micro-batch holds at least one. Rows of a micro-batch are padded to the longest.
    """
    lengths = [len(sample.ids) for sample in samples]
    rows = pack(lengths, row_length)
    rows.sort(key=lambda row: -sum(lengths[index] for index in row))
    batches: list[list[list[int]]] = []
    width = 0
    for row in rows:  # longest first, so the first row of a micro-batch sets its width
        if batches and (len(batches[-1]) + 1) * width <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
            width = sum(lengths[index] for index in row)
    return [_collate(samples, batch) for batch in batches]


def _collate(given: Sequence[Sample], members: Sequence[Sequence[int]]) -> MicroBatch:
    rows = [[given[index] for index in row] for row in members]
    width = max(sum(len(sample.ids) for sample in row) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    # Padding counts positions from 0 like a sample of its own, so no real token attends to it.
    positions = np.zeros((len(rows), width), dtype=np.int64)
    labels = np.full((len(rows), width), IGNORE, dtype=np.int64)
    for row, packed in enumerate(rows):
        start = 0
        for sample in packed:
            end = start + len(sample.ids)
            ids[row, start:end] = sample.ids
            positions[row, start:end] = np.arange(len(sample.ids))
            first = sample.first_target
            labels[row, start + first - 1 : end - 1] = sample.ids[first:]
            start = end
        positions[row, start:] = np.arange(width - start)
    samples = [sample for packed in rows for sample in packed]
    which = np.repeat(np.arange(len(samples)), [sample.targets for sample in samples])
    columns = {name: np.concatenate([sample.columns[name] for sample in samples]) for name in samples[0].columns}
    return MicroBatch(ids, positions, labels, which, columns, tuple(itertools.chain.from_iterable(members)))


def empty_micro_batch(columns: Iterable[str]) -> MicroBatch:
    """One token without a target: what a rank runs when it has no samples left and the others have."""
    zeros = np.zeros((1, 1), dtype=np.int64)
    nothing = np.zeros(0, dtype=np.float32)
    labels = np.full((1, 1), IGNORE)
    return MicroBatch(zeros, zeros, labels, np.zeros(0, dtype=np.int64), dict.fromkeys(columns, nothing), ())
