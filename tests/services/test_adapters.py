"""Adapters beside each other on one engine: each samples as its merged checkpoint does, alone or in one batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from dft_sweeps.data.encode import encode
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.data.sources import load_demonstrations
from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.spec.models import ArithmeticSource, DataSpec, ExecutionSpec, ModelSpec, TrainSpec
from dft_sweeps.training.adapter_files import save_adapter
from dft_sweeps.training.checkpoint import make_canary, save_checkpoint
from dft_sweeps.training.loop import CheckpointReady, train
from dft_sweeps.training.model_files import EMBEDDED, weights_digest
from dft_sweeps.training.policy import load_policy
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.state import TrainState
from services.engine import CanaryError
from services.engine_actor import EngineError
from services.lease import Engine
from services.pool import Pool
from tests.services.random_policies import Checkpoint, random_prompts, sampled

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = (3, 6, 9)


@dataclass(frozen=True)
class Trained:
    """The embedded base, and what a few steps of training made of it: adapters and the same merged into weights."""

    base: Checkpoint
    adapters: list[Checkpoint]
    merged: list[Checkpoint]
    prompts: list[tuple[int, ...]]


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    settings = TrainSpec.model_validate(
        {
            "objective": {"kind": "sft"},
            "learning_rate": 5e-2,
            "batch_size": 4,
            "steps": max(STEPS),
            "adapter": {"kind": "lora", "rank": 4, "alpha": 6.0},
        }
    )
    source = ArithmeticSource(kind="arithmetic", samples=64, wrong_steps=0.05, seed=1)
    prompts, root = Prompts(AutoTokenizer.from_pretrained(EMBEDDED)), tmp_path_factory.mktemp("lora")
    samples = encode(load_demonstrations(source, Path()).rows, DataSpec(source=source), prompts)
    policy, base_digest = load_policy(EMBEDDED, ModelSpec(), settings), weights_digest(EMBEDDED)
    base = Checkpoint(str(EMBEDDED), base_digest, make_canary(policy, samples))
    adapters, merged = [], []
    for event in train(TrainState(policy, settings), samples, frozenset(STEPS), ExecutionSpec(), Ranks()):
        if isinstance(event, CheckpointReady):
            canary, adapter, whole = make_canary(policy, samples), root / f"a{event.step}", root / f"m{event.step}"
            digest = save_adapter(policy, base_digest, canary, adapter, Ranks())
            adapters.append(Checkpoint(str(adapter), digest, canary))
            digest = save_checkpoint(policy, prompts, canary, whole, Ranks())
            merged.append(Checkpoint(str(whole), digest, canary))
    # Long enough to share a block of the prefix cache.
    return Trained(base, adapters, merged, [sample.ids[:40] for sample in samples[4:10] if len(sample.ids) > 40])


def _swap(engine: Engine, checkpoint: Checkpoint) -> float:
    return engine.swap(checkpoint.directory, checkpoint.digest, checkpoint.canary).canary_max_difference


def _adapt(engine: Engine, checkpoint: Checkpoint) -> float:
    return engine.adapt(checkpoint.directory, checkpoint.digest, checkpoint.canary).canary_max_difference


def _tokens(engine: Engine, prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [completion.token_ids for [completion] in engine.generate(sampled(prompts))]


def _process_id(engine: Engine) -> int:
    return ray.get(engine._actor.ready.remote())


def test_adapter_samples_as_its_merged_checkpoint_does(pool: Pool, lora: Trained) -> None:
    with pool.lease() as engine:
        expected = []
        for checkpoint in (lora.base, *lora.merged):
            _swap(engine, checkpoint)
            expected.append(_tokens(engine, lora.prompts))
        assert len({tuple(tokens) for tokens in expected}) == 4
        assert _swap(engine, lora.base) < 5e-5
        for adapter, tokens in zip(lora.adapters, expected[1:], strict=True):
            assert _adapt(engine, adapter) < 1e-4
            assert engine.weights_digest == adapter.digest
            assert _tokens(engine, lora.prompts) == tokens
        _swap(engine, lora.base)
        assert engine.weights_digest == lora.base.digest
        assert _tokens(engine, lora.prompts) == expected[0]


def test_one_batch_gives_each_what_it_gives_alone(pool: Pool, lora: Trained) -> None:
    """The prompts are shared, and long enough that a prefix cache that mixed adapters would be seen."""
    requests = sampled(lora.prompts, n=4, temperature=1.0)
    with pool.lease() as engine:
        _swap(engine, lora.base)
        alone = {lora.base.digest: engine.generate(requests)}
        for adapter in lora.adapters[:2]:
            _adapt(engine, adapter)
            alone[adapter.digest] = engine.generate(requests)
        together = engine.generate_of(dict.fromkeys(reversed(alone), requests))
    assert together.keys() == alone.keys()
    for digest, groups in alone.items():
        for one, other in zip(groups, together[digest], strict=True):
            assert [c.token_ids for c in one] == [c.token_ids for c in other]
            for a, b in zip(one, other, strict=True):
                assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_least_recently_used_adapter_makes_room(pool: Pool, lora: Trained) -> None:
    first, second, third = lora.adapters
    requests = sampled(lora.prompts)
    with pool.lease() as engine:
        _swap(engine, lora.base)
        tokens = {}
        for adapter in (first, second):
            _adapt(engine, adapter)
            tokens[adapter.digest] = _tokens(engine, lora.prompts)
        engine.generate_of({first.digest: requests})
        _adapt(engine, third)
        with pytest.raises(EngineError, match=f"asked for weights {second.digest}, the engine holds"):
            engine.generate_of({second.digest: requests, third.digest: requests})
        held = engine.generate_of({first.digest: requests, third.digest: requests, lora.base.digest: requests})
        assert [c.token_ids for [c] in held[first.digest]] == tokens[first.digest]
        _adapt(engine, second)
        assert _tokens(engine, lora.prompts) == tokens[second.digest]
        _adapt(engine, third)  # it is held, and is used again by that
        _adapt(engine, first)
        held = engine.generate_of({third.digest: requests, first.digest: requests})
        assert [c.token_ids for [c] in held[first.digest]] == tokens[first.digest]


def test_adapters_stay_for_the_next_lease_and_go_with_their_base(
    pool: Pool, lora: Trained, checkpoints: list[Checkpoint]
) -> None:
    adapter = lora.adapters[0]
    with pool.lease() as engine:
        _swap(engine, lora.base)
        first = _adapt(engine, adapter)
    with pool.lease() as engine:
        with pytest.raises(EngineError, match="not swapped any weights in"):
            _adapt(engine, adapter)
        _swap(engine, lora.base)
        again = engine.adapt("/nowhere", adapter.digest, adapter.canary)
        assert (again.seconds, again.canary_max_difference) == (0.0, first)
        _swap(engine, checkpoints[1])
        with pytest.raises(EngineError, match=f"asked for weights {adapter.digest}"):
            engine.generate_of({adapter.digest: sampled(lora.prompts)})
        _swap(engine, lora.base)
        assert engine.adapt(adapter.directory, adapter.digest, adapter.canary).seconds > 0


@pytest.mark.slow
def test_adapter_on_another_base_fails_by_the_canary_and_the_next_lease_works(
    pool: Pool, lora: Trained, checkpoints: list[Checkpoint]
) -> None:
    with pool.lease() as engine:
        _swap(engine, checkpoints[0])
        broken = _process_id(engine)
        with pytest.raises(CanaryError, match="not that checkpoint's weights"):
            _adapt(engine, lora.adapters[0])
        with pytest.raises(EngineError, match="the engine is broken"):
            engine.generate(sampled(lora.prompts))
    with pool.lease() as engine:
        assert _process_id(engine) != broken
        _swap(engine, lora.base)
        assert _adapt(engine, lora.adapters[0]) < 1e-4


def _config(directory: Path, **changes: object) -> None:
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _matrices(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = directory / "adapter_model.safetensors"
    matrices = load_file(file)
    change(matrices)
    save_file(matrices, file)


def _truncate(directory: Path) -> None:
    file = directory / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "adapter_config.json").unlink(), r"adapter_config\.json is missing"),
        (lambda path: (path / "adapter_config.json").write_text("{"), r"adapter_config\.json: not JSON"),
        (lambda path: _config(path, peft_type="IA3"), "not the configuration of a LoRA adapter"),
        (lambda path: _config(path, r=8), r"an adapter of rank 8; this engine takes ranks up to 4"),
        (lambda path: _config(path, use_dora=True), "use_dora is True; only plain LoRA is served"),
        (lambda path: _config(path, lora_alpha=None), "lora_alpha=None must be a rank and a scale"),
        (_truncate, "truncated"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "no safetensors files"),
        (lambda path: _matrices(path, dict.clear), "holds no LoRA matrices"),
        (lambda path: _matrices(path, lambda m: m.pop(f"{LAYER}.lora_B.weight")), r"layer 'model\.layers\.0\..*None"),
        (
            lambda path: _matrices(path, lambda m: m.update({f"{LAYER}.lora_A.weight": torch.zeros(4, 64)})),
            r"layer 'model\.layers\.0\.self_attn\.q_proj' of shape \(128, 128\) has matrices A, B of shapes",
        ),
        (lambda path: _matrices(path, lambda m: m.update({"strange": torch.zeros(1)})), "'strange' is no LoRA matrix"),
        (
            lambda path: _matrices(
                path, lambda m: m.update({"base_model.model.nope.lora_A.weight": torch.zeros(4, 1)})
            ),
            "no linear layer 'nope' that takes an adapter",
        ),
    ],
)
def test_adapter_that_does_not_fit_is_refused_and_the_engine_goes_on(
    pool: Pool, lora: Trained, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    adapter = lora.adapters[0]
    directory = shutil.copytree(adapter.directory, tmp_path / "damaged")
    damage(directory)
    with pool.lease() as engine:
        _swap(engine, lora.base)
        with pytest.raises(ValueError, match=message):
            engine.adapt(str(directory), "damaged", adapter.canary)
        with pytest.raises(ValueError, match="the canary has no prompts"):
            engine.adapt(adapter.directory, "no canary", Canary((), ()))
        _adapt(engine, adapter)
        assert len(engine.generate(sampled(random_prompts(1, 5, seed=0), max_new_tokens=2))) == 1
