from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch

from dft_sweeps.data.encode import Sample
from dft_sweeps.spec.models import HistogramSpec
from dft_sweeps.training.histogram import probability_histogram
from dft_sweeps.training.logprobs import all_logprobs, load_column, save_column
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from tests.data.durably import require_durable
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
    require_durable(lambda path: save_column(path, column), tmp_path / "column.npz")


def test_the_histogram_counts_every_target_of_its_samples_once() -> None:
    edges = HistogramSpec().edges
    shares = probability_histogram(Policy(tiny_model()), SAMPLES, len(SAMPLES), edges, execution(), Ranks())
    probabilities = np.exp(np.concatenate([alone(s.ids, s.prompt_length) for s in SAMPLES if s.targets]))
    expected = [np.mean((low <= probabilities) & (probabilities < high)) for low, high in itertools.pairwise(edges)]
    np.testing.assert_allclose(shares, expected, atol=1e-9)
    assert sum(share > 0 for share in shares) > 3


def test_a_probability_at_an_edge_is_in_the_bin_above_and_a_certain_one_in_the_last() -> None:
    policy = Policy(tiny_model())
    found = np.sort(np.exp(np.concatenate(all_logprobs(policy, SAMPLES, execution(), Ranks())).astype(np.float64)))
    edge, count = float(found[100]), len(found)
    below = probability_histogram(policy, SAMPLES, len(SAMPLES), (0.0, edge, 1.0), execution(), Ranks())
    assert below == [100 / count, (count - 100) / count]

    certain = tiny_model()
    with torch.no_grad():
        certain.get_output_embeddings().weight.mul_(1e6)
        chosen = certain(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].argmax().item()
    likeliest, other = Sample((5, 6, 7, int(chosen)), 3), Sample((5, 6, 7, int(chosen) - 1), 3)
    shares = probability_histogram(Policy(certain), [likeliest, other], 2, (0.0, 0.5, 1.0), execution(), Ranks())
    assert shares == [0.5, 0.5]


def test_the_histogram_is_of_a_fixed_subset() -> None:
    policy = Policy(tiny_model())
    edges = np.linspace(0, 1, 1001).tolist()
    few = probability_histogram(policy, SAMPLES, 5, edges, execution(), Ranks())
    assert few == probability_histogram(policy, SAMPLES, 5, edges, execution(), Ranks())
    assert few != probability_histogram(policy, SAMPLES, 30, edges, execution(), Ranks())
