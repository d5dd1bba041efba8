from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dft_sweeps.data.encode import EncodedData, Sample, encode
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.data.sources import Demonstration, load_demonstrations
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import DataSpec
from tests.data.durably import require_durable

BASE_MODEL = Path(__file__).parents[2] / "dft_sweeps" / "data" / "base_model"
ROWS = [Demonstration("Add: " + "7" * i, "1" * (2 * i)) for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE_MODEL)


def data_spec(**fields: Any) -> DataSpec:
    return DataSpec.model_validate({"source": {"kind": "arithmetic", "samples": 1}} | fields)


def test_a_sample_is_the_templates_prompt_then_the_completion_then_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    (sample,) = encode([Demonstration("What is 7 + 5?", "12")], data_spec(), Prompts(tokenizer))
    text = "<|im_start|>user\nWhat is 7 + 5?<|im_end|>\n<|im_start|>assistant\n12<|im_end|>"
    assert tokenizer.decode(sample.ids) == text
    assert sample.ids[: sample.prompt_length] == Prompts(tokenizer).ids("What is 7 + 5?")
    assert tokenizer.decode(sample.ids[sample.prompt_length :]) == "12<|im_end|>"
    assert sample.ids[-1] == tokenizer.eos_token_id and len(sample.ids) == sample.prompt_length + 3


def test_an_empty_completion_has_one_target_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    (sample,) = encode([Demonstration("What?", "")], data_spec(), Prompts(tokenizer))
    assert sample.ids[sample.prompt_length :] == (tokenizer.eos_token_id,)


def test_a_sample_at_the_limit_is_kept_and_one_above_is_not(tokenizer: PreTrainedTokenizerBase) -> None:
    lengths = [len(sample.ids) for sample in encode(ROWS, data_spec(), Prompts(tokenizer))]
    assert lengths == sorted(set(lengths))
    limit = lengths[20]
    found = encode(ROWS, data_spec(max_length=limit), Prompts(tokenizer))
    assert [len(sample.ids) for sample in found] == lengths[:21]
    assert (found.overlong, found.tokens) == (19, sum(lengths[:21]))
    assert encode(ROWS[:21], data_spec(max_length=limit, overflow="error"), Prompts(tokenizer)).overlong == 0


def test_overlong_samples_are_refused_with_their_number_and_the_longest(tokenizer: PreTrainedTokenizerBase) -> None:
    lengths = [len(sample.ids) for sample in encode(ROWS, data_spec(), Prompts(tokenizer))]
    message = rf"^19 of 40 samples are longer than max_length {lengths[20]} \(the longest has {lengths[-1]} tokens\)"
    with pytest.raises(SpecError, match=message):
        encode(ROWS, data_spec(max_length=lengths[20], overflow="error"), Prompts(tokenizer))
    with pytest.raises(SpecError, match="no sample is left of 40: they are longer than max_length 2"):
        encode(ROWS, data_spec(max_length=2), Prompts(tokenizer))
    with pytest.raises(SpecError, match="no sample is left of 40: their prompts alone fill max_length 2"):
        encode(ROWS, data_spec(max_length=2, overflow="truncate"), Prompts(tokenizer))


def test_overlong_samples_are_cut_off_with_their_end(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = list(encode(ROWS, data_spec(), Prompts(tokenizer)))
    limit = len(whole[20].ids)
    found = list(encode(ROWS, data_spec(max_length=limit, overflow="truncate"), Prompts(tokenizer)))
    assert found[:21] == whole[:21]
    fits = [sample for sample in whole if sample.prompt_length < limit]
    assert [sample.ids for sample in found] == [sample.ids[:limit] for sample in fits]
    assert [sample.prompt_length for sample in found] == [sample.prompt_length for sample in fits]
    assert all(tokenizer.eos_token_id not in sample.ids[sample.prompt_length :] for sample in found[21:])
    assert min(sample.targets for sample in found) >= 1


def test_a_prompt_that_fills_the_length_leaves_no_target(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = list(encode(ROWS, data_spec(), Prompts(tokenizer)))
    limit = whole[5].prompt_length
    found = encode(ROWS, data_spec(overflow="truncate", max_length=limit), Prompts(tokenizer))
    assert found.overlong == sum(len(sample.ids) > limit for sample in whole) > 35
    assert [len(sample.ids) for sample in found] == [min(len(sample.ids), limit) for sample in whole[:5]]
    assert found[4].targets == limit - whole[4].prompt_length == 1


def test_a_share_of_the_rows_is_drawn_by_the_seed_and_keeps_its_order(tokenizer: PreTrainedTokenizerBase) -> None:
    everything = list(encode(ROWS, data_spec(), Prompts(tokenizer)))

    def drawn(seed: int) -> list[int]:
        found = encode(ROWS, data_spec(samples=10, seed=seed), Prompts(tokenizer))
        return [everything.index(sample) for sample in found]

    assert drawn(0) == drawn(0) == sorted(set(drawn(0))) and len(drawn(0)) == 10
    assert drawn(0) != drawn(1)
    assert len({index for seed in range(30) for index in drawn(seed)}) == 40  # any row can be drawn
    assert list(encode(ROWS, data_spec(samples=40), Prompts(tokenizer))) == everything
    with pytest.raises(SpecError, match=r"data\.samples is 41, but the source has 40 rows"):
        encode(ROWS, data_spec(samples=41), Prompts(tokenizer))


def test_the_first_rows_are_those_of_the_source_whatever_the_seed(tokenizer: PreTrainedTokenizerBase) -> None:
    everything = list(encode(ROWS, data_spec(), Prompts(tokenizer)))
    for seed in (0, 1):
        assert (
            list(encode(ROWS, data_spec(samples=10, selection="first", seed=seed), Prompts(tokenizer)))
            == everything[:10]
        )
    with pytest.raises(SpecError, match=r"data\.samples is 41, but the source has 40 rows"):
        encode(ROWS, data_spec(samples=41, selection="first"), Prompts(tokenizer))


def test_a_tokenizer_that_cannot_write_a_prompt_or_an_end_is_refused() -> None:
    broken = AutoTokenizer.from_pretrained(BASE_MODEL)
    broken.eos_token = None
    with pytest.raises(SpecError, match="no end-of-sequence token"):
        encode(ROWS, data_spec(), Prompts(broken))
    broken = AutoTokenizer.from_pretrained(BASE_MODEL)
    broken.chat_template = None
    with pytest.raises(SpecError, match="no chat template"):
        encode(ROWS, data_spec(), Prompts(broken))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples = [
        Sample(tuple(random.integers(0, 200_000, size=length).tolist()), int(random.integers(0, length + 1)))
        for length in [1, *random.integers(1, 300, size=100).tolist()]
    ]
    for saved in (EncodedData.of(samples, 7), EncodedData.of(samples[:1], 0)):
        path = tmp_path / "new" / "data.npz"
        saved.save(path)
        found = EncodedData.load(path)
        assert (list(found), found.overlong) == (list(saved), saved.overlong)
        assert [file.name for file in path.parent.iterdir()] == ["data.npz"]
    require_durable(EncodedData.of(samples).save, tmp_path / "data.npz")


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
    data = encode(rows, spec, Prompts(tokenizer))
    assert (len(data), data.overlong) == (500, 0)
    texts = {(row.prompt, row.completion) for row in rows}
    for sample in data:
        text = tokenizer.decode(sample.ids).removeprefix("<|im_start|>user\n").removesuffix("<|im_end|>")
        assert tuple(text.split("<|im_end|>\n<|im_start|>assistant\n")) in texts
