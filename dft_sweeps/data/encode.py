"""From demonstrations to token ids: the prompt as its template writes it, the completion, end of sequence."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dft_sweeps.data.durable import put_in_place
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.data.sources import Demonstration
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import DataSpec


@dataclass(frozen=True)
class Sample:
    """One demonstration in tokens. Targets are the tokens after the prompt, the end of sequence included."""

    ids: tuple[int, ...]
    prompt_length: int
    columns: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Numbers that go with the targets, by name, [targets] each: a weight, a reference's log-probabilities."""

    @property
    def first_target(self) -> int:
        """Where the first token to predict is; nothing comes before the first token of all to predict it from."""
        return max(self.prompt_length, 1)

    @property
    def targets(self) -> int:
        return len(self.ids) - self.first_target


class EncodedData(Sequence[Sample]):
    """Samples over flat arrays: a hundred thousand of them take four bytes a token.

    Args:
        ids: int32 tokens of all samples, one after the other.
        lengths: tokens of each sample.
        prompts: prompt tokens of each sample.
        overlong: samples longer than `max_length` that were left out or cut.
    """

    def __init__(
        self, ids: NDArray[np.int32], lengths: NDArray[np.int64], prompts: NDArray[np.int64], overlong: int = 0
    ) -> None:
        self._ids, self._lengths, self._prompts, self.overlong = ids, lengths, prompts, overlong
        self._ends = np.cumsum(lengths)

    @classmethod
    def of(cls, samples: Sequence[Sample], overlong: int = 0) -> EncodedData:
        return cls(
            np.fromiter(itertools.chain.from_iterable(sample.ids for sample in samples), dtype=np.int32),
            np.array([len(sample.ids) for sample in samples], dtype=np.int64),
            np.array([sample.prompt_length for sample in samples], dtype=np.int64),
            overlong,
        )

    def __len__(self) -> int:
        return len(self._lengths)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        length, end = int(self._lengths[index]), int(self._ends[index])
        return Sample(tuple(self._ids[end - length : end].tolist()), int(self._prompts[index]))

    @property
    def tokens(self) -> int:
        return len(self._ids)

    def save(self, path: Path) -> None:
        """Writes the samples to one `.npz` file, which is on the disk then, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
        np.savez(partial, ids=self._ids, lengths=self._lengths, prompts=self._prompts, overlong=np.array(self.overlong))
        put_in_place(partial, path)

    @classmethod
    def load(cls, path: Path) -> EncodedData:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["ids"], arrays["lengths"], arrays["prompts"], int(arrays["overlong"]))


def encode(rows: Sequence[Demonstration], data: DataSpec, prompts: Prompts) -> EncodedData:
    """Tokenizes the rows a trial trains on, in the order of the source.

    Raises:
        SpecError: fewer rows than `data.samples`, samples longer than `max_length` under ``overflow: error``, no sample
            left, or a tokenizer without an end-of-sequence token.
    """
    if prompts.tokenizer.eos_token_id is None:
        raise SpecError("the model's tokenizer has no end-of-sequence token")
    samples = [_encode_row(row, prompts) for row in _chosen(rows, data)]
    overlong = [len(sample.ids) for sample in samples if len(sample.ids) > data.max_length]
    if overlong and data.overflow == "error":
        raise SpecError(
            f"{len(overlong)} of {len(samples)} samples are longer than max_length {data.max_length} "
            f"(the longest has {max(overlong)} tokens); raise `data.max_length` or set `data.overflow: drop`"
        )
    if data.overflow == "truncate":
        samples = [_cut(sample, data.max_length) for sample in samples if sample.prompt_length < data.max_length]
    else:
        samples = [sample for sample in samples if len(sample.ids) <= data.max_length]
    if not samples:
        too_long = "their prompts alone fill" if data.overflow == "truncate" else "they are longer than"
        raise SpecError(f"no sample is left of {len(overlong)}: {too_long} max_length {data.max_length}")
    return EncodedData.of(samples, len(overlong))


def _cut(sample: Sample, length: int) -> Sample:
    """The sample's first `length` tokens, which are without the end of sequence where that is not all of them."""
    return Sample(sample.ids[:length], sample.prompt_length)


def _chosen(rows: Sequence[Demonstration], data: DataSpec) -> Sequence[Demonstration]:
    if data.samples is None:
        return rows
    if data.samples > len(rows):
        raise SpecError(f"data.samples is {data.samples}, but the source has {len(rows)} rows")
    if data.selection == "first":
        return rows[: data.samples]
    return [rows[index] for index in sorted(np.random.default_rng(data.seed).permutation(len(rows))[: data.samples])]


def _encode_row(row: Demonstration, prompts: Prompts) -> Sample:
    prompt, tokenizer = prompts.ids(row.prompt), prompts.tokenizer
    completion = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
    return Sample((*prompt, *completion, tokenizer.eos_token_id), len(prompt))
