from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dft_sweeps.data.encode import Sample
from tests.bench import gpu
from tests.bench.row import Machine
from tests.bench.workload import encoded_samples, shipped_tokenizer
from tests.training.tiny_policy import tiny_model


def test_flops_of_the_products_are_those_that_pytorch_counts() -> None:
    model = tiny_model(tied=True)
    samples = [Sample(tuple(range(3, 3 + length)), prompt) for length, prompt in ((20, 1), (9, 5))]
    with FlopCounterMode(display=False) as counter:
        for sample in samples:
            hidden = model.model(torch.tensor([sample.ids])).last_hidden_state
            model.lm_head(hidden[:, sample.prompt_length - 1 : -1]).sum().backward()
    counted = sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
    shape: dict[str, Any] = model.config.to_dict()
    attention = 6 * shape["num_hidden_layers"] * shape["hidden_size"] * (20**2 + 9**2)
    assert gpu.model_flops(shape, samples) == counted + attention


def test_samples_of_digits_have_the_lengths_of_solutions() -> None:
    samples = encoded_samples(gpu.digits(gpu.COUNT), shipped_tokenizer())
    lengths = np.array([len(sample.ids) for sample in samples])
    assert 450 < lengths.mean() < 550
    assert lengths.max() < 4096
    assert sum(sample.targets for sample in samples) == pytest.approx(0.75 * lengths.sum(), rel=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_row_says_so() -> None:
    rows = list(gpu.rows(Machine()))
    assert [row.name for row in rows] == [
        "gpu_dft_mfu",
        "gpu_dft_tokens_per_second_vs_trl",
        "gpu_dft_tokens_per_second_vs_trl_liger",
    ]
    assert {row.not_run for row in rows} == {"this machine has no CUDA GPU"}
