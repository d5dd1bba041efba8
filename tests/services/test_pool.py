"""Leases on a pool of one engine: who gets it when, with which weights, and what happens when something dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import ray

from dft_sweeps.evaluation.generator import Canary, Request
from services.engine import CanaryError
from services.engine_actor import EngineError
from services.lease import Engine
from services.pool import Pool, PoolError, PoolSettings, start_pool
from tests.services.random_policies import ENGINE, Checkpoint, random_prompts, sampled

pytestmark = pytest.mark.ray

PROMPTS = random_prompts(count=3, length=20, seed=11)


def _process_id(engine: Engine) -> int:
    return ray.get(engine._actor.ready.remote())


def _require_works(engine: Engine, checkpoint: Checkpoint) -> None:
    engine.swap(checkpoint.directory, checkpoint.digest, checkpoint.canary)
    completions = engine.generate(sampled(PROMPTS))
    assert [c.token_ids for [c] in completions] == [checkpoint.greedy(prompt, 24) for prompt in PROMPTS]


def _next_line(stream: IO[str], start: str) -> str:
    """Skips what Ray prints to its driver's output."""
    return next(line for line in stream if line.startswith(start))


def _wait_until_gone(process_id: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(process_id) and psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"engine process {process_id} is still there after {seconds} s"
        time.sleep(0.2)


def test_checkpoints_swap_back_and_forth(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    with pool.lease() as engine:
        for checkpoint in (checkpoints[1], checkpoints[0], checkpoints[1], checkpoints[2]):
            _require_works(engine, checkpoint)
            assert engine.weights_digest == checkpoint.digest


def test_swap_to_the_weights_already_held_reads_nothing(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    with pool.lease() as engine:
        first = engine.swap(checkpoints[1].directory, checkpoints[1].digest, checkpoints[1].canary)
    with pool.lease() as engine:
        again = engine.swap("/nowhere", checkpoints[1].digest, checkpoints[1].canary)
        assert (again.seconds, again.canary_max_difference) == (0.0, first.canary_max_difference)


def test_generation_needs_the_weights_it_names(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    with pool.lease() as engine:
        with pytest.raises(EngineError, match="not swapped any weights in"):
            engine.generate(sampled(PROMPTS))
        _require_works(engine, checkpoints[0])
        with pytest.raises(EngineError, match="asked for weights other, the engine holds seed-0"):
            ray.get(engine._actor.generate.remote(engine._lease_id, "other", sampled(PROMPTS)))


def test_refused_directory_leaves_the_engine_at_work(pool: Pool, checkpoints: list[Checkpoint], tmp_path: Path) -> None:
    with pool.lease() as engine:
        _require_works(engine, checkpoints[0])
        with pytest.raises(ValueError, match=r"config\.json is missing"):
            engine.swap(str(tmp_path), "empty", checkpoints[0].canary)
        assert len(engine.generate(sampled(PROMPTS))) == 3


def test_failed_canary_breaks_the_engine_and_the_next_lease_gets_a_new_one(
    pool: Pool, checkpoints: list[Checkpoint]
) -> None:
    with pool.lease() as engine:
        broken = _process_id(engine)
        _require_works(engine, checkpoints[2])
        with pytest.raises(CanaryError):
            engine.swap(checkpoints[0].directory, checkpoints[0].digest, checkpoints[1].canary)
        with pytest.raises(EngineError, match=r"the engine is broken: its swap to .* did not finish"):
            engine.generate(sampled(PROMPTS))
    with pool.lease() as engine:
        assert _process_id(engine) != broken
        _require_works(engine, checkpoints[0])


def test_killed_engine_is_reported_and_replaced(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    with pool.lease() as engine:
        _require_works(engine, checkpoints[1])
        killed = _process_id(engine)
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(EngineError, match="the engine's process died"):
            engine.generate(sampled(PROMPTS))
    with pool.lease() as engine:
        assert _process_id(engine) != killed
        _require_works(engine, checkpoints[1])


def test_two_leases_on_one_replica_take_turns(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    events: list[str] = []

    def second() -> None:
        with pool.lease() as engine:
            events.append("second starts")
            _require_works(engine, checkpoints[2])

    with pool.lease() as engine:
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(3)
        _require_works(engine, checkpoints[1])
        events.append("first ends")
    waiting.join(timeout=60)
    assert events == ["first ends", "second starts"]


def test_idle_lease_is_kept_and_a_released_one_is_refused(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    with pool.lease() as engine:
        time.sleep(8)  # longer than the pool's lease_timeout_s
        _require_works(engine, checkpoints[0])
    with pytest.raises(EngineError, match="has ended"):
        engine.generate(sampled(PROMPTS))


def test_lease_of_a_dead_owner_ends_and_its_generation_with_it(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    @ray.remote(num_cpus=0)
    class Owner:
        def start(self, pool: Pool, directory: str, digest: str, canary: Canary, long: list[Request]) -> None:
            self._lease = pool.lease()
            engine = self._lease.__enter__()
            engine.swap(directory, digest, canary)
            threading.Thread(target=engine.generate, args=(long,), daemon=True).start()
            time.sleep(1)

    owner: Any = Owner.remote()
    long = sampled(random_prompts(400, 10, seed=1), n=16, temperature=1.0, max_new_tokens=400)
    ray.get(owner.start.remote(pool, checkpoints[0].directory, checkpoints[0].digest, checkpoints[0].canary, long))
    ray.kill(owner)
    started = time.monotonic()
    with pool.lease() as engine:
        assert 1 < time.monotonic() - started < 20  # the 2.5 million tokens would take minutes
        _require_works(engine, checkpoints[1])


def test_pool_that_cannot_start_says_why(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"config\.json is missing"):
        start_pool(PoolSettings(ENGINE, name="hopeless", num_cpus=0.0), str(tmp_path))


def test_lease_on_a_pool_that_is_not_there(cluster: None, pool: Pool) -> None:
    with pytest.raises(PoolError, match="'nowhere'"), Pool("nowhere", 1).lease():
        pass


@pytest.mark.slow
def test_no_engine_outlives_its_pool_or_its_cluster(checkpoints: list[Checkpoint]) -> None:
    script = textwrap.dedent(f"""
        import ray
        from services.engine_settings import EngineSettings
        from services.pool import PoolSettings, start_pool
        ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False)
        for _ in range(2):
            pool = start_pool(PoolSettings({ENGINE!r}), {checkpoints[0].directory!r})
            with pool.lease() as engine:
                print("engine", ray.get(engine._actor.ready.remote()), flush=True)
            input()
            pool.shutdown()
            print("stopped", flush=True)
    """)
    driver = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdin and driver.stdout
    first = int(_next_line(driver.stdout, "engine").split()[1])
    assert psutil.pid_exists(first)
    driver.stdin.write("\n")
    driver.stdin.flush()
    _next_line(driver.stdout, "stopped")
    _wait_until_gone(first, seconds=5)
    second = int(_next_line(driver.stdout, "engine").split()[1])
    assert psutil.pid_exists(second)
    driver.kill()
    driver.wait()
    _wait_until_gone(second, seconds=30)
