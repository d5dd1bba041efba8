"""Two ranks (FSDP2 over gloo, one thread each) do what one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.training.batch import split_batch
from dft_sweeps.training.model_files import weights_digest
from dft_sweeps.training.order import batch_indices
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from tests.training.loops import computed, execution
from tests.training.tiny_policy import CONTEXT, random_samples, tiny_model, train_spec, worst_error
from tests.training.two_ranks import GRADIENT_CASES, run_cases, run_in_group, start

TOLERANCE = 1e-5
STEPS = 3


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def one(directories: tuple[Path, Path]) -> dict[str, Any]:
    return run_cases(Ranks(), directories[0])


@pytest.fixture(scope="module")
def two(directories: tuple[Path, Path]) -> list[dict[str, Any]]:
    """What each of two ranks found."""
    start(2, run_in_group, directories[1], timeout_s=240)
    return [torch.load(directories[1] / f"results-{rank}.pt", weights_only=False) for rank in range(2)]


def test_without_a_process_group_there_is_one_rank_and_nothing_is_wrapped() -> None:
    assert Ranks.current() == Ranks(0, 1)
    policy = Policy(tiny_model())
    assert type(Ranks().shard(policy)) is Policy


def test_every_rank_keeps_half_the_weights_and_gathers_them_by_layer(two: list[dict[str, Any]]) -> None:
    modules, kept = zip(*(rank["shards"] for rank in two), strict=True)
    assert modules[0] == modules[1] == ["", "model.model.layers.0", "model.model.layers.1"]
    total = sum(parameter.numel() for parameter in tiny_model().parameters())
    assert sum(kept) == total and max(kept) < 0.51 * total


@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_gradients_equal_those_of_one_rank(case: str, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for rank in two:
        assert worst_error(rank["gradients"][case], one["gradients"][case]) <= TOLERANCE


def test_the_cases_have_ranks_with_fewer_micro_batches_and_with_none() -> None:
    def with_targets(count: int) -> list[tuple[int, int]]:
        """For each rank, its micro-batches with a target, and all it runs."""
        samples, settings = random_samples(count), train_spec(batch_size=count, steps=1)
        batch = [samples[index] for index in batch_indices(1, settings, count)]
        shares = [split_batch(batch, Policy(tiny_model()), execution(CONTEXT), Ranks(rank, 2)) for rank in range(2)]
        return [(sum(batch.targets > 0 for batch in share), len(share)) for share in shares]

    assert with_targets(GRADIENT_CASES["dft"]["samples"]) == [(3, 3), (2, 3)]
    assert with_targets(GRADIENT_CASES["four_samples"]["samples"]) == [(1, 2), (2, 2)]
    assert with_targets(GRADIENT_CASES["one_sample"]["samples"]) == [(1, 1), (0, 1)]


@pytest.mark.parametrize("model", ["untied", "tied"])
def test_three_steps_give_the_same_metrics_and_weights(
    model: str, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    for rank in two:
        assert worst_error(rank[model]["weights"], one[model]["weights"]) <= TOLERANCE
        for found, expected in zip(rank[model]["metrics"], one[model]["metrics"], strict=True):
            assert computed(found) == pytest.approx(computed(expected), rel=TOLERANCE)
    assert any(metrics["train/clipped"] for metrics in one[model]["metrics"])
    for first, second in zip(two[0][model]["metrics"], two[1][model]["metrics"], strict=True):
        assert first["train/grad_norm"] == second["train/grad_norm"]


def test_the_same_run_twice_is_the_same_bit_for_bit(two: list[dict[str, Any]]) -> None:
    for rank in two:
        for found, expected in zip(rank["again"]["metrics"], rank["untied"]["metrics"], strict=True):
            assert computed(found) == computed(expected)
    assert two[0]["again"]["digests"] == two[0]["untied"]["digests"]


@pytest.mark.parametrize("model", ["untied", "tied"])
@pytest.mark.parametrize("step", [2, STEPS])
def test_checkpoints_hold_the_whole_model(
    model: str, step: int, one: dict[str, Any], two: list[dict[str, Any]], directories: tuple[Path, Path]
) -> None:
    single, sharded = (load_file(directory / model / str(step) / "model.safetensors") for directory in directories)
    assert {name: tensor.shape for name, tensor in sharded.items()} == {n: t.shape for n, t in single.items()}
    assert worst_error(sharded, single) <= TOLERANCE
    if step == STEPS:
        for name, tensor in sharded.items():
            assert torch.equal(tensor, two[0][model]["weights"][name])
    names = [[file.name for file in sorted((d / model / str(step)).iterdir())] for d in directories]
    assert names[0] == names[1]


@pytest.mark.parametrize("model", ["untied", "tied"])
def test_rank_0_names_the_checkpoints_and_the_others_write_none(
    model: str, two: list[dict[str, Any]], directories: tuple[Path, Path]
) -> None:
    assert two[0][model]["digests"] == [weights_digest(directories[1] / model / str(step)) for step in (2, STEPS)]
    assert two[1][model]["digests"] == ["", ""]
    assert sorted(path.name for path in (directories[1] / model).iterdir()) == ["2", "3"]


@pytest.mark.parametrize("model", ["untied", "tied"])
def test_canaries_are_the_same_on_all_ranks_and_in_the_files(
    model: str, one: dict[str, Any], two: list[dict[str, Any]], directories: tuple[Path, Path]
) -> None:
    assert two[0][model]["logprobs"] == two[1][model]["logprobs"]
    for found, expected in zip(two[0][model]["logprobs"], one[model]["logprobs"], strict=True):
        for row, expected_row in zip(found, expected, strict=True):
            assert row == pytest.approx(expected_row, abs=1e-4)
    stored = Canary.load(directories[1] / model / str(STEPS) / "canary.json")
    assert stored.logprobs == two[0][model]["logprobs"][-1]


def test_all_ranks_stop_when_one_of_them_has_a_loss_that_is_not_finite(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    assert one["non_finite"] == two[0]["non_finite"] == two[1]["non_finite"]
    assert one["non_finite"].startswith("step 1: loss or gradient is not finite; samples [")


@pytest.mark.parametrize("objective", ["dft", "psft", "iw_sft"])
def test_resumed_ranks_end_as_if_nothing_had_happened(
    objective: str, one: dict[str, Any], two: list[dict[str, Any]], directories: tuple[Path, Path]
) -> None:
    """Packed, accumulated and sharded, bit for bit; and as one rank, to rounding."""
    for results in (one, *two):
        whole, resumed = results["resumed"][objective]
        assert len(whole) == 4 and resumed == whole
    for found, expected in zip(two[0]["resumed"][objective][0], one["resumed"][objective][0], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    saved = directories[1] / f"resumed-{objective}" / "step-00000002"
    assert sorted(path.name for path in saved.iterdir()) == [
        "rank-00000.safetensors",
        "rank-00001.safetensors",
        "state.json",
    ]
