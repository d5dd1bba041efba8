"""The engine on tied checkpoints, whose reload is the harder one: right tokens, and wrong weights caught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import ray

from dft_sweeps.evaluation.generator import Canary, Completion, Request
from services.engine import CanaryError, VllmEngine
from tests.services.random_policies import ENGINE, STOP_TOKEN, Checkpoint, make_checkpoint, random_prompts, sampled

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    root = tmp_path_factory.mktemp("tied")
    return [make_checkpoint(root / str(seed), seed, tied=True) for seed in range(2)]


@pytest.fixture(scope="module")
def engine(cluster: None, tied: list[Checkpoint]) -> Iterator[Any]:
    """A `VllmEngine` outside the test process that leaves a step of its reload out when told to."""

    class EngineHolder:
        def __init__(self, directory: str) -> None:
            self._engine = VllmEngine(ENGINE, directory)

        def generate(self, requests: list[Request]) -> list[list[Completion]]:
            return self._engine.generate(requests, Event())

        def reload(self, directory: str, canary: Canary, leave_out: str = "") -> float:
            self._engine.require_loadable(directory, canary)
            with pytest.MonkeyPatch.context() as patch:
                if leave_out:
                    patch.setattr(f"services.engine.{leave_out}", lambda *arguments: None)
                return self._engine.reload(directory, canary)

    holder = ray.remote(EngineHolder).options(num_cpus=0).remote(tied[0].directory)
    yield holder
    ray.kill(holder)


def _reload(engine: Any, checkpoint: Checkpoint, **options: str) -> float:
    return ray.get(engine.reload.remote(checkpoint.directory, checkpoint.canary, **options))


def test_greedy_tokens_are_those_of_transformers_before_and_after_reloads(engine: Any, tied: list[Checkpoint]) -> None:
    prompts = random_prompts(count=3, length=40, seed=1)
    for checkpoint in (None, tied[1], tied[0], tied[1]):
        if checkpoint is not None:
            assert _reload(engine, checkpoint) < 1e-4
        completions = ray.get(engine.generate.remote(sampled(prompts)))
        expected = [(checkpoint or tied[0]).greedy(prompt, 24) for prompt in prompts]
        assert [completion.token_ids for [completion] in completions] == expected


def test_seeded_sampling_repeats_and_children_take_the_next_seeds(engine: Any, tied: list[Checkpoint]) -> None:
    _reload(engine, tied[0])
    requests = sampled(random_prompts(count=8, length=20, seed=2), n=4, temperature=1.0)
    first = ray.get(engine.generate.remote(requests))
    assert ray.get(engine.generate.remote(requests)) == first
    assert len({completion.token_ids for completions in first for completion in completions}) == 32
    third_child = [Request(r.prompt, 1, r.temperature, r.top_p, r.max_new_tokens, r.seed + 2) for r in requests]
    alone = ray.get(engine.generate.remote(third_child))
    assert [c.token_ids for [c] in alone] == [completions[2].token_ids for completions in first]


def test_logprobs_are_the_policys_own_whatever_the_temperature(engine: Any, tied: list[Checkpoint]) -> None:
    import torch
    from transformers import Qwen2ForCausalLM

    _reload(engine, tied[0])
    [prompt] = random_prompts(count=1, length=10, seed=3)
    [[completion]] = ray.get(engine.generate.remote([Request(prompt, 1, 0.7, 0.9, 12, seed=5)]))
    model = Qwen2ForCausalLM.from_pretrained(tied[0].directory, dtype="float32")
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion.token_ids])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)[range(len(completion.token_ids)), list(completion.token_ids)]
    assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_stop_token_ends_a_completion_and_is_kept(engine: Any, tied: list[Checkpoint]) -> None:
    _reload(engine, tied[0])
    requests = sampled(random_prompts(count=30, length=5, seed=4), n=16, temperature=1.5, max_new_tokens=100)
    completions = [c for group in ray.get(engine.generate.remote(requests)) for c in group]
    stopped = [c for c in completions if c.finish_reason == "stop"]
    assert 0 < len(stopped) < len(completions)
    assert all(c.token_ids.index(STOP_TOKEN) == len(c.token_ids) - 1 for c in stopped)
    assert all(
        len(c.token_ids) == 100 and STOP_TOKEN not in c.token_ids for c in completions if c.finish_reason == "length"
    )


def test_prompt_without_room_is_named_and_the_engine_goes_on(engine: Any, tied: list[Checkpoint]) -> None:
    _reload(engine, tied[0])
    short, long = random_prompts(1, 8, seed=5)[0], random_prompts(1, ENGINE.max_model_len, seed=5)[0]
    with pytest.raises(ValueError, match="request 1: a prompt of 512 tokens"):
        ray.get(engine.generate.remote(sampled([short, long])))
    with pytest.raises(ValueError, match=r"request 0: token ids must lie in \[0, 384\)"):
        ray.get(engine.generate.remote(sampled([(5, 384)])))
    [[completion]] = ray.get(engine.generate.remote(sampled([long[:-5]], max_new_tokens=50)))
    assert (len(completion.token_ids), completion.finish_reason) == (5, "length")


def test_damaged_directory_leaves_the_old_weights_at_work(engine: Any, tied: list[Checkpoint], tmp_path: Path) -> None:
    _reload(engine, tied[0])
    other = make_checkpoint(tmp_path, seed=1, tied=True)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated; "):
        _reload(engine, other)
    prompts = random_prompts(count=2, length=20, seed=6)
    completions = ray.get(engine.generate.remote(sampled(prompts)))
    assert [c.token_ids for [c] in completions] == [tied[0].greedy(prompt, 24) for prompt in prompts]


@pytest.mark.parametrize("leave_out", ["VllmEngine._reset_prefix_cache", "_repack_output_matrix"])
def test_canary_catches_a_reload_that_leaves_a_step_out(engine: Any, tied: list[Checkpoint], leave_out: str) -> None:
    _reload(engine, tied[0])
    with pytest.raises(CanaryError, match="not that checkpoint's weights"):
        _reload(engine, tied[1], leave_out=leave_out)
    assert _reload(engine, tied[1]) < 1e-4


def test_canary_catches_the_wrong_directory(engine: Any, tied: list[Checkpoint]) -> None:
    _reload(engine, tied[0])
    with pytest.raises(CanaryError, match="not that checkpoint's weights"):
        ray.get(engine.reload.remote(tied[1].directory, tied[0].canary))


def test_engine_without_room_for_adapters_says_so(engine: Any, tied: list[Checkpoint]) -> None:
    canary = tied[0].canary
    with pytest.raises(ValueError, match=r"without room for adapters \(max_adapters=0\)"):
        ray.get(engine.__ray_call__.remote(lambda holder: holder._engine.require_loadable_adapter("/nowhere", canary)))
