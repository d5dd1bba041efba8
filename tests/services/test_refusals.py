"""What cannot be served is refused with what is wrong and where, and the pool goes on; what cannot start says why."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from services.lease import Engine
from services.pool import Pool, PoolError, PoolSettings, start_pool
from tests.end_to_end.running import title
from tests.services.random_policies import ENGINE, Checkpoint, make_checkpoint, random_prompts, require_works, sampled

pytestmark = pytest.mark.ray

PROMPTS = random_prompts(count=2, length=20, seed=11)
LOG_LINES = 25


def _cut_off(checkpoint: Checkpoint, directory: Path) -> None:
    shutil.copytree(checkpoint.directory, directory)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def _other_architecture(checkpoint: Checkpoint, directory: Path) -> None:
    shutil.copytree(checkpoint.directory, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


def _other_vocabulary(checkpoint: Checkpoint, directory: Path) -> None:
    make_checkpoint(directory, seed=1, tied=False, vocab_size=400)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_cut_off, r"{directory}/model\.safetensors: truncated; \d+ bytes, its header says \d+"),
        (_other_architecture, "{directory}: does not fit the running engine: .*engine has 'qwen2', checkpoint has 'll"),
        (_other_vocabulary, "{directory}: .*config vocab_size: engine has 384, checkpoint has 400"),
        (lambda checkpoint, directory: directory.mkdir(), r"{directory}: .*config\.json is missing"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused_and_the_next_request_answered(
    pool: Pool, checkpoints: list[Checkpoint], tmp_path: Path, make: Callable[[Checkpoint, Path], None], message: str
) -> None:
    directory = tmp_path / "refused"
    make(checkpoints[1], directory)
    with pool.lease() as engine:
        require_works(engine, checkpoints[0])
        with pytest.raises(ValueError, match=message.format(directory=directory)):
            engine.swap(str(directory), "refused", checkpoints[1].canary)
        assert engine.weights_digest == checkpoints[0].digest
        completions = engine.generate(sampled(PROMPTS))
        assert [c.token_ids for [c] in completions] == [checkpoints[0].greedy(prompt, 24) for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (tuple(random_prompts(1, ENGINE.max_model_len, seed=0)[0]), "request 1: a prompt of 512 tokens, .* 1 to 511"),
        ((), "request 1: a prompt of 0 tokens"),
        ((5, 384), r"request 1: token ids must lie in \[0, 384\)"),
        ((5, -1), r"request 1: token ids must lie in \[0, 384\)"),
    ],
)
def test_prompt_that_cannot_be_served_is_refused_and_the_next_request_answered(
    pool: Pool, checkpoints: list[Checkpoint], prompt: tuple[int, ...], message: str
) -> None:
    with pool.lease() as engine:
        require_works(engine, checkpoints[0])
        with pytest.raises(ValueError, match=message):
            engine.generate(sampled([PROMPTS[0], prompt]))
        completions = engine.generate(sampled(PROMPTS))
        assert [c.token_ids for [c] in completions] == [checkpoints[0].greedy(prompt, 24) for prompt in PROMPTS]


def test_requests_that_mean_nothing_are_refused_before_they_are_sent() -> None:
    for wrong in ({"n": 0}, {"temperature": -1.0}, {"max_new_tokens": 0}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match="not a way to sample"):
            replace(sampled(PROMPTS)[0], **wrong)


def test_pool_on_a_broken_directory_says_why(cluster: None, pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(PoolError) as error:
        start_pool(PoolSettings(ENGINE, name="hopeless", num_cpus=0.0), str(tmp_path))
    heading, told = str(error.value).split(": ", maxsplit=1)
    assert heading.startswith("the evaluation engines did not start within")
    assert told == f"ValueError: {tmp_path}: not a checkpoint directory, config.json is missing"


@pytest.mark.slow
def test_pool_whose_engine_fails_late_shows_vllms_log(cluster: None, pool: Pool, checkpoints: list[Checkpoint]) -> None:
    """Too small a cache is found after the weights are loaded: the end of vLLM's log is there, then its error."""
    settings = replace(ENGINE, kv_cache_gib=1e-4)
    with pytest.raises(PoolError) as error:
        start_pool(PoolSettings(settings, name="hopeless", num_cpus=0.0), checkpoints[0].directory)
    lines = str(error.value).splitlines()
    assert len(lines) <= LOG_LINES
    assert lines[-1].startswith("ValueError: To serve at least one request with the model's max seq len (512), ")
    assert any(f"Starting to load model {checkpoints[0].directory}" in line for line in lines[:-1])
    assert not any("ServeReplica" in line or "Traceback" in line for line in lines)


@pytest.mark.slow
def test_killed_engine_that_cannot_start_again_says_why(
    cluster: None, checkpoints: list[Checkpoint], tmp_path: Path
) -> None:
    """The directory a pool was started on went away: the lease that needs a new engine is told."""
    directory = shutil.copytree(checkpoints[0].directory, tmp_path / "vanishing")
    pool = start_pool(PoolSettings(ENGINE, name="vanishing", num_cpus=0.0), str(directory))
    try:
        with pool.lease() as engine:
            require_works(engine, checkpoints[0])
            _kill(engine)
            shutil.rmtree(directory)
        with pytest.raises(PoolError, match=r"'vanishing' could be leased: .*config\.json is missing"), pool.lease():
            pass
    finally:
        pool.shutdown()


@pytest.mark.slow
def test_engine_killed_while_it_starts_is_told_in_rays_words(
    cluster: None, pool: Pool, checkpoints: list[Checkpoint]
) -> None:
    """As the kernel does when memory runs out: the process has no last words of its own."""
    before, ended = set(_engines()), threading.Event()

    def kill() -> None:
        """Whichever are new, two seconds after they came, when they import vLLM: one of an earlier test may be late."""
        came: dict[psutil.Process, float] = {}
        while not ended.wait(0.1):
            for process in set(_engines()) - before:
                if time.monotonic() - came.setdefault(process, time.monotonic()) > 2:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        with pytest.raises(PoolError) as error:
            start_pool(PoolSettings(ENGINE, name="hopeless", num_cpus=0.0), checkpoints[0].directory)
    finally:
        ended.set()
        thread.join()
    assert "its worker process has died" in str(error.value)
    assert not any(word in str(error.value) for word in ("ServeReplica", "Traceback", "replica.py"))


def _engines() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "EngineActor" in title(child)]


def _kill(engine: Engine) -> None:
    ray.kill(engine._actor)


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in ({"tensor_parallel": 0}, {"max_adapters": -1}, {"max_adapter_rank": 0}):
        with pytest.raises(ValueError, match="not a way to start an engine"):
            replace(ENGINE, **wrong)
    for wrong in ({"replicas": 0}, {"replicas": 3, "max_replicas": 2}):
        with pytest.raises(ValueError, match="a pool of"):
            PoolSettings(ENGINE, **wrong)
    with pytest.raises(ValueError, match=r"an engine over 2 GPUs needs whole ones, not 0\.5"):
        PoolSettings(replace(ENGINE, tensor_parallel=2), num_gpus=0.5)


def test_engine_takes_its_share_of_the_cluster_for_each_of_its_parts() -> None:
    settings = PoolSettings(replace(ENGINE, tensor_parallel=2), num_cpus=3.0, num_gpus=1.0)
    assert settings.engine_resources == {"num_cpus": 6.0, "num_gpus": 2.0}
