from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dft_sweeps.data.encode import EncodedData, Sample, encode, prompt_ids
from dft_sweeps.data.sources import Demonstration, load_demonstrations
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import DataSpec

BASE_MODEL = Path(__file__).parents[2] / "dft_sweeps" / "data" / "base_model"
ROWS = [Demonstration("Add: " + "7" * i, "1" * (2 * i)) for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE_MODEL)


def data_spec(**fields: Any) -> DataSpec:
    return DataSpec.model_validate({"source": {"kind": "arithmetic", "samples": 1}} | fields)


def test_a_sample_is_the_templates_prompt_then_the_completion_then_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    (sample,) = encode([Demonstration("What is 7 + 5?", "12")], data_spec(), tokenizer).samples
    text = "<|im_start|>user\nWhat is 7 + 5?<|im_end|>\n<|im_start|>assistant\n12<|im_end|>"
    assert tokenizer.decode(sample.ids) == text
    assert sample.ids[: sample.prompt_length] == prompt_ids("What is 7 + 5?", tokenizer)
    assert tokenizer.decode(sample.ids[sample.prompt_length :]) == "12<|im_end|>"
    assert sample.ids[-1] == tokenizer.eos_token_id and len(sample.ids) == sample.prompt_length + 3


def test_an_empty_completion_has_one_target_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    (sample,) = encode([Demonstration("What?", "")], data_spec(), tokenizer).samples
    assert sample.ids[sample.prompt_length :] == (tokenizer.eos_token_id,)


def test_a_sample_at_the_limit_is_kept_and_one_above_is_not(tokenizer: PreTrainedTokenizerBase) -> None:
    lengths = [len(sample.ids) for sample in encode(ROWS, data_spec(), tokenizer).samples]
    assert lengths == sorted(set(lengths))
    limit = lengths[20]
    found = encode(ROWS, data_spec(max_length=limit, overflow="drop"), tokenizer)
    assert [len(sample.ids) for sample in found.samples] == lengths[:21]
    assert (found.overlong, found.tokens) == (19, sum(lengths[:21]))
    assert encode(ROWS[:21], data_spec(max_length=limit), tokenizer).overlong == 0


def test_overlong_samples_are_refused_with_their_number_and_the_longest(tokenizer: PreTrainedTokenizerBase) -> None:
    lengths = [len(sample.ids) for sample in encode(ROWS, data_spec(), tokenizer).samples]
    message = rf"^19 of 40 samples are longer than max_length {lengths[20]} \(the longest has {lengths[-1]} tokens\)"
    with pytest.raises(SpecError, match=message):
        encode(ROWS, data_spec(max_length=lengths[20]), tokenizer)
    with pytest.raises(SpecError, match="no sample is left: all 40 are longer than max_length 2"):
        encode(ROWS, data_spec(max_length=2, overflow="drop"), tokenizer)


def test_a_share_of_the_rows_is_drawn_by_the_seed_and_keeps_its_order(tokenizer: PreTrainedTokenizerBase) -> None:
    everything = list(encode(ROWS, data_spec(), tokenizer).samples)

    def drawn(seed: int) -> list[int]:
        found = encode(ROWS, data_spec(samples=10, seed=seed), tokenizer).samples
        return [everything.index(sample) for sample in found]

    assert drawn(0) == drawn(0) == sorted(set(drawn(0))) and len(drawn(0)) == 10
    assert drawn(0) != drawn(1)
    assert len({index for seed in range(30) for index in drawn(seed)}) == 40  # any row can be drawn
    assert encode(ROWS, data_spec(samples=40), tokenizer).samples == tuple(everything)
    with pytest.raises(SpecError, match=r"data\.samples is 41, but the source has 40 rows"):
        encode(ROWS, data_spec(samples=41), tokenizer)


def test_a_tokenizer_that_cannot_write_a_prompt_or_an_end_is_refused() -> None:
    broken = AutoTokenizer.from_pretrained(BASE_MODEL)
    broken.eos_token = None
    with pytest.raises(SpecError, match="no end-of-sequence token"):
        encode(ROWS, data_spec(), broken)
    broken = AutoTokenizer.from_pretrained(BASE_MODEL)
    broken.chat_template = None
    with pytest.raises(SpecError, match="no chat template"):
        encode(ROWS, data_spec(), broken)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples = [
        Sample(tuple(random.integers(0, 200_000, size=length).tolist()), int(random.integers(0, length + 1)))
        for length in [1, *random.integers(1, 300, size=100).tolist()]
    ]
    for saved in (EncodedData(tuple(samples), 7), EncodedData(tuple(samples[:1]), 0)):
        path = tmp_path / "new" / "data.npz"
        saved.save(path)
        assert EncodedData.load(path) == saved
        assert [file.name for file in path.parent.iterdir()] == ["data.npz"]


def test_the_real_training_problems_have_no_unknown_token(
    tokenizer: PreTrainedTokenizerBase, shared_data: Path
) -> None:
    path = shared_data / "train" / "gsm8k_train.jsonl"
    with path.open(encoding="utf-8") as lines:
        fields = list(json.loads(next(lines)))
    source = {"kind": "file", "path": path.name, "prompt": fields[0], "completion": fields[1]}
    spec = data_spec(source=source, samples=500)
    rows = load_demonstrations(spec.source, path.parent).rows
    assert len(rows) == 7473
    data = encode(rows, spec, tokenizer)
    assert (len(data.samples), data.overlong) == (500, 0)
    texts = {(row.prompt, row.completion) for row in rows}
    for sample in data.samples:
        text = tokenizer.decode(sample.ids).removeprefix("<|im_start|>user\n").removesuffix("<|im_end|>")
        assert tuple(text.split("<|im_end|>\n<|im_start|>assistant\n")) in texts
