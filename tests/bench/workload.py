"""What both sides of a throughput row train: a model, a tokenizer and a few real samples, written to one directory.

The samples are 16 of GSM8K's training problems at evenly spaced quantiles of their length in tokens, so a round has
the data's real mix of lengths without the luck of a draw. Every side loads the same files: the same weights, the same
text. A round is one pass over the samples, one optimizer batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dft_sweeps.data.encode import Sample, encode
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.data.sources import Demonstration, load_demonstrations
from dft_sweeps.data.tokenizer import CHAT_TEMPLATE, END_OF_TURN, PADDING, SPECIAL_TOKENS
from dft_sweeps.spec.models import DataSpec, FileSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "train" / "gsm8k_train.jsonl"
SHIPPED_BASE = Path(__file__).parents[2] / "dft_sweeps" / "data" / "base_model"

_SOURCE = FileSource(kind="file", path=str(GSM8K), prompt="question", completion="answer")

SAMPLES = 16
"""Samples in an optimizer batch, and in a round."""
BPE_VOCABULARY = 8192
_LONGEST = 4096


@dataclass(frozen=True)
class Shape:
    """A model to train."""

    suffix: str
    """What its rows' names end in."""
    description: str
    qwen2: Mapping[str, Any] | None
    """Fields of a Qwen2Config with random weights; None is the base model shipped with the package."""


HEADLINE = Shape(
    suffix="",
    description="Qwen2 shape of 102 M parameters (8 layers, width 512, tied head, V = 151,936), random weights",
    qwen2={
        "vocab_size": 151_936,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
)
SMALL_VOCABULARY = Shape(
    suffix="_v8192",
    description="Qwen2 shape of 95 M parameters (12 layers, width 768, tied head, V = 8,192), random weights",
    qwen2={
        "vocab_size": 8192,
        "hidden_size": 768,
        "intermediate_size": 2528,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
)
SHIPPED = Shape(
    suffix="_shipped_base",
    description="the shipped base model (Qwen2, 1 M parameters, 4 layers, width 128, V = 384)",
    qwen2=None,
)


@dataclass(frozen=True)
class Prepared:
    sentence: str
    """The data, for a row's detail."""
    longest: int
    """Tokens of the longest sample."""


def prepare(shape: Shape, directory: Path, samples: int = SAMPLES) -> Prepared:
    """Writes model, tokenizer and samples to `directory`.

    Raises:
        SpecError: GSM8K's training file is not beside the checkout.
    """
    rows = gsm8k()
    if shape.qwen2 is None:
        tokenizer = shipped_tokenizer()
        under = f"the base's own tokenizer (V = {len(tokenizer)})"
    else:
        tokenizer = train_tokenizer(text for row in rows for text in (row.prompt, row.completion))
        under = f"a byte-level BPE of {len(tokenizer):,} tokens with Qwen2's splitting, trained on it"
    write_model(shape, tokenizer, directory)
    chosen = by_length(rows, tokenizer, samples)
    encoded = write_samples(chosen, tokenizer, directory)
    tokens, targets = sum(len(sample.ids) for sample in encoded), sum(sample.targets for sample in encoded)
    longest = max(len(sample.ids) for sample in encoded)
    return Prepared(
        f"{samples} GSM8K training samples at the quantiles of its lengths under {under}: "
        f"{tokens:,} tokens, {targets:,} of them targets, the longest sample {longest} tokens",
        longest,
    )


def write_samples(rows: list[Demonstration], tokenizer: PreTrainedTokenizerBase, directory: Path) -> list[Sample]:
    """Saves tokenizer and text, and gives the samples as the package encodes them."""
    tokenizer.save_pretrained(directory)
    lines = [json.dumps({"prompt": row.prompt, "completion": row.completion}) for row in rows]
    (directory / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return encoded_samples(rows, tokenizer)


def gsm8k() -> list[Demonstration]:
    """GSM8K's training problems."""
    return list(load_demonstrations(_SOURCE, Path()).rows)


def shipped_tokenizer() -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SHIPPED_BASE)


def train_tokenizer(texts: Iterable[str], vocabulary: int = BPE_VOCABULARY) -> PreTrainedTokenizerBase:
    """A byte-level BPE with Qwen2's splitting of words, which is what a Qwen2 model's directory is loaded with."""
    from transformers import Qwen2TokenizerFast

    trained = Qwen2TokenizerFast().train_new_from_iterator(
        texts, vocabulary, new_special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    trained.eos_token = END_OF_TURN
    trained.pad_token = PADDING
    trained.chat_template = CHAT_TEMPLATE
    trained.model_max_length = _LONGEST
    return trained


def write_model(shape: Shape, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Saves the float32 model: the shipped base, or random weights of seed 0."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

    if shape.qwen2 is None:
        model = AutoModelForCausalLM.from_pretrained(SHIPPED_BASE, dtype=torch.float32)
    else:
        torch.manual_seed(0)
        config = Qwen2Config(
            **shape.qwen2,
            max_position_embeddings=_LONGEST,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = Qwen2ForCausalLM(config)
    model.save_pretrained(directory)


def by_length(rows: list[Demonstration], tokenizer: PreTrainedTokenizerBase, samples: int) -> list[Demonstration]:
    """Rows at the middles of `samples` equal shares of the lengths, in a fixed random order."""
    import numpy as np

    texts = [row.prompt + row.completion for row in rows]
    lengths = np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]])
    places = ((np.arange(samples) + 0.5) / samples * len(rows)).astype(int)
    chosen = np.argsort(lengths, kind="stable")[places]
    return [rows[index] for index in np.random.default_rng(0).permutation(chosen)]


def read_samples(directory: Path) -> list[Demonstration]:
    """The samples that `prepare` wrote."""
    lines = (directory / "samples.jsonl").read_text().splitlines()
    return [Demonstration(**json.loads(line)) for line in lines]


def encoded_samples(rows: list[Demonstration], tokenizer: PreTrainedTokenizerBase) -> list[Sample]:
    """The samples as the package encodes them for training."""
    return list(encode(rows, DataSpec(source=_SOURCE, max_length=_LONGEST), Prompts(tokenizer)))
