from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dft_sweeps.training.histogram import probability_histogram
from dft_sweeps.training.logprobs import all_logprobs, load_column, save_column
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from tests.training.loops import execution
from tests.training.tiny_policy import random_samples, tiny_model

SAMPLES = random_samples(30)


@torch.no_grad()
def alone(sample_ids: tuple[int, ...], prompt_length: int) -> list[float]:
    logits = tiny_model().double()(input_ids=torch.tensor([sample_ids])).logits[0, prompt_length - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(sample_ids[prompt_length:])[:, None]).squeeze(-1).tolist()


def test_every_sample_gets_the_log_probabilities_it_has_alone() -> None:
    column = all_logprobs(Policy(tiny_model()), SAMPLES, execution(), Ranks())
    assert len(column) == len(SAMPLES)
    for sample, found in zip(SAMPLES, column, strict=True):
        np.testing.assert_allclose(found, alone(sample.ids, sample.prompt_length), atol=1e-5)


def test_a_column_is_read_as_it_was_written(tmp_path: Path) -> None:
    column = [np.arange(n, dtype=np.float32) for n in (3, 0, 5)]
    save_column(tmp_path / "below" / "column.npz", column)
    found = load_column(tmp_path / "below" / "column.npz")
    assert [piece.tolist() for piece in found] == [piece.tolist() for piece in column]
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["column.npz"]


def test_the_histogram_counts_every_target_of_its_samples_once() -> None:
    policy = Policy(tiny_model())
    shares = probability_histogram(policy, SAMPLES, len(SAMPLES), 20, execution(), Ranks())
    probabilities = np.exp(np.concatenate([alone(s.ids, s.prompt_length) for s in SAMPLES if s.targets]))
    counts, _ = np.histogram(probabilities, bins=20, range=(0, 1))
    np.testing.assert_allclose(shares, counts / len(probabilities), atol=1e-9)


def test_the_histogram_is_of_a_fixed_subset() -> None:
    policy = Policy(tiny_model())
    few = probability_histogram(policy, SAMPLES, 5, 1000, execution(), Ranks())
    assert few == probability_histogram(policy, SAMPLES, 5, 1000, execution(), Ranks())
    assert few != probability_histogram(policy, SAMPLES, 30, 1000, execution(), Ranks())
