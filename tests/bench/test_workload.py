from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from tests.bench import workload


def test_a_trained_tokenizer_comes_back_from_a_model_directory_as_it_was(tmp_path: Path) -> None:
    """Transformers splits words for a Qwen2 directory in its own way, whatever the tokenizer's file says."""
    text = "Ann has 48 clips, and sells 24/2 = <<24/2=12>>12 of them.\nHow many are left?\n#### 36"
    trained = workload.train_tokenizer([text] * 10, 400)
    trained.save_pretrained(tmp_path)
    workload.write_model(workload.SHIPPED, trained, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text)["input_ids"] == trained(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert loaded.chat_template == trained.chat_template is not None


def test_samples_have_the_lengths_of_the_data(shared_data: Path) -> None:
    rows = workload.gsm8k()
    tokenizer = workload.shipped_tokenizer()
    chosen = workload.by_length(rows, tokenizer, 16)
    assert len({row.prompt for row in chosen}) == 16
    lengths, picked = (
        np.array([len(ids) for ids in tokenizer([r.prompt + r.completion for r in of])["input_ids"]])
        for of in (rows, chosen)
    )
    quartiles = [0.25, 0.5, 0.75]
    np.testing.assert_allclose(np.quantile(picked, quartiles), np.quantile(lengths, quartiles), rtol=0.05)
    np.testing.assert_allclose(picked.mean(), lengths.mean(), rtol=0.05)
