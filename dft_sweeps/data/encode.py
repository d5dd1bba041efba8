"""From demonstrations to token ids: the tokenizer's chat template around the prompt, the completion, end of sequence.

The template is the one evaluation renders prompts with, so the policy is trained on the prompts it is measured on.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dft_sweeps.data.sources import Demonstration
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """One demonstration in tokens. Targets are the tokens after the prompt, the end of sequence included."""

    ids: tuple[int, ...]
    prompt_length: int


@dataclass(frozen=True)
class EncodedData:
    samples: tuple[Sample, ...]
    overlong: int
    """Samples longer than `max_length` that were left out."""

    @property
    def tokens(self) -> int:
        return sum(len(sample.ids) for sample in self.samples)

    def save(self, path: Path) -> None:
        """Writes the samples to one `.npz` file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
        np.savez(
            partial,
            ids=np.fromiter(itertools.chain.from_iterable(sample.ids for sample in self.samples), dtype=np.int32),
            lengths=np.array([len(sample.ids) for sample in self.samples], dtype=np.int64),
            prompts=np.array([sample.prompt_length for sample in self.samples], dtype=np.int64),
            overlong=np.array(self.overlong),
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> EncodedData:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            ends = np.cumsum(arrays["lengths"])
            pieces = np.split(arrays["ids"], ends[:-1])
            samples = [Sample(tuple(ids.tolist()), int(p)) for ids, p in zip(pieces, arrays["prompts"], strict=True)]
            return cls(tuple(samples), int(arrays["overlong"]))


def encode(rows: Sequence[Demonstration], data: DataSpec, tokenizer: PreTrainedTokenizerBase) -> EncodedData:
    """Tokenizes the rows a trial trains on, in the order of the source.

    Raises:
        SpecError: fewer rows than `data.samples`, samples longer than `max_length` under ``overflow: error``, or a
            tokenizer without a chat template or an end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise SpecError("the model's tokenizer has no end-of-sequence token")
    samples = [_encode_row(row, tokenizer) for row in _chosen(rows, data)]
    kept = tuple(sample for sample in samples if len(sample.ids) <= data.max_length)
    overlong = len(samples) - len(kept)
    if overlong and data.overflow == "error":
        longest = max(len(sample.ids) for sample in samples)
        raise SpecError(
            f"{overlong} of {len(samples)} samples are longer than max_length {data.max_length} "
            f"(the longest has {longest} tokens); raise `data.max_length` or set `data.overflow: drop`"
        )
    if not kept:
        raise SpecError(f"no sample is left: all {overlong} are longer than max_length {data.max_length}")
    return EncodedData(kept, overlong)


def _chosen(rows: Sequence[Demonstration], data: DataSpec) -> Sequence[Demonstration]:
    if data.samples is None:
        return rows
    if data.samples > len(rows):
        raise SpecError(f"data.samples is {data.samples}, but the source has {len(rows)} rows")
    return [rows[index] for index in sorted(np.random.default_rng(data.seed).permutation(len(rows))[: data.samples])]


def _encode_row(row: Demonstration, tokenizer: PreTrainedTokenizerBase) -> Sample:
    prompt = prompt_ids(row.prompt, tokenizer)
    completion = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
    return Sample((*prompt, *completion, tokenizer.eos_token_id), len(prompt))


def prompt_ids(prompt: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Token ids of a user's turn under the tokenizer's chat template, up to where the answer begins.

    Raises:
        SpecError: the tokenizer has no chat template.
    """
    require_template(tokenizer)
    turn = [{"role": "user", "content": prompt}]
    return tuple(tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False))


def require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises SpecError where the tokenizer has no chat template."""
    if tokenizer.chat_template is None:
        raise SpecError("the model's tokenizer has no chat template, so there is no telling how to write a prompt")
