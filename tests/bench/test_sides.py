"""The two sides of a throughput row train on the same thing: real data through TRL's own processing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench import sides, workload
from tests.bench.rounds import Rounds
from tests.bench.throughput import OURS, candidates

COUNT = 16


@pytest.fixture(scope="module")
def directory(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("trl")
    made = tmp_path_factory.mktemp("workload")
    workload.prepare(workload.SHIPPED, made, COUNT)
    return made


def trl_options(name: str) -> dict[str, Any]:
    """A candidate's by the beginning of its name."""
    return next(options for full, options in candidates(1024).items() if full.startswith(name))


def first_round(side: str, directory: Path, options: dict[str, Any]) -> dict[str, float]:
    """Runs a side until its first round and one more are over."""
    reports = io.StringIO()
    sides.SIDES[side](directory, options, lambda steps: Rounds(steps, "cpu", io.StringIO("go\n"), reports)).close()
    lines = [json.loads(line) for line in reports.getvalue().splitlines()]
    assert [line.keys() for line in lines[:-1]] == [{"seconds"}, {"seconds"}]
    return lines[-1]


def test_trl_trains_on_our_targets(directory: Path, tmp_path: Path) -> None:
    trainer = sides.trl_trainer(directory, trl_options("2 grouped"), tmp_path)
    ours = workload.encoded_samples(workload.read_samples(directory), trainer.processing_class)
    for sample, theirs in zip(ours, trainer.train_dataset, strict=True):
        assert theirs["input_ids"] == list(sample.ids)
        assert theirs["labels"] == [-100] * sample.prompt_length + list(sample.ids[sample.prompt_length :])


@pytest.mark.parametrize("name", ["2 grouped", "packed"])
def test_both_sides_have_one_loss(directory: Path, name: str) -> None:
    ours = first_round("ours", directory, OURS)
    theirs = first_round("trl", directory, trl_options(name))
    assert ours["targets"] == theirs["targets"] > 1000
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)


def test_the_first_round_leaves_the_weights_alone_and_the_second_does_not() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    rounds = Rounds(2, "cpu", io.StringIO("go\ngo\n"), io.StringIO())
    seen = []
    for _ in range(4):
        weight.grad = torch.ones(3)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.1
        seen.append(weight.detach().clone())
    rounds.close()
    assert torch.equal(seen[1], torch.ones(3))
    assert (seen[2] < 1).all() and (seen[3] < seen[2]).all()
