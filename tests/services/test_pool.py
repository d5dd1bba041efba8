"""Leases on a pool of one engine: who gets it when, with which weights, and what happens when something dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import psutil
import pytest
import ray
from ray import serve

from dft_sweeps.evaluation.evaluate import Answers, Groups
from dft_sweeps.evaluation.generator import Canary, Request
from dft_sweeps.orchestration import shards as sharing
from dft_sweeps.orchestration.shards import Shards
from services.engine_actor import EngineError
from services.lease import Engine
from services.pool import Pool, PoolError, PoolSettings, engine_nodes, start_pool
from tests.services.random_policies import ENGINE, Checkpoint, random_prompts, require_works, sampled, wait_until_gone

pytestmark = pytest.mark.ray

PROMPTS = random_prompts(count=3, length=20, seed=11)


def _process_id(engine: Engine) -> int:
    return ray.get(engine._actor.ready.remote())


def _next_line(stream: IO[str], start: str) -> str:
    """Skips what Ray prints to its driver's output."""
    return next(line for line in stream if line.startswith(start))


def test_checkpoints_swap_back_and_forth(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    with pool.lease() as engine:
        for checkpoint in (checkpoints[1], checkpoints[0], checkpoints[1], checkpoints[2]):
            require_works(engine, checkpoint)
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
        require_works(engine, checkpoints[0])
        with pytest.raises(EngineError, match="asked for weights other, the engine holds seed-0"):
            engine.generate_of({"other": sampled(PROMPTS)})


def test_killed_engine_is_reported_and_replaced(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    with pool.lease() as engine:
        require_works(engine, checkpoints[1])
        killed = _process_id(engine)
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(EngineError, match="the engine's process died"):
            engine.generate(sampled(PROMPTS))
    with pool.lease() as engine:
        assert _process_id(engine) != killed
        require_works(engine, checkpoints[1])


@pytest.mark.slow
def test_an_engine_whose_step_never_ends_is_reported_and_replaced(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    def hang(actor: Any) -> None:
        """Runs in the engine's process: its next decoding step but one lasts longer than the test."""
        from services import engine_actor

        engine_actor.LONGEST_STEP_S, engine_actor._WATCH_S = 2.0, 0.5
        whole_step, steps = actor._engine._engine.step, []

        def step() -> Any:
            steps.append(0)
            if len(steps) > 2:
                time.sleep(3600)
            return whole_step()

        actor._engine._engine.step = step

    with pool.lease() as engine:
        require_works(engine, checkpoints[1])
        hung = _process_id(engine)
        ray.get(engine._actor.__ray_call__.remote(hang))
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"the engine hangs: a decoding step has not ended in \d s"):
            engine.generate(sampled(PROMPTS))
        assert time.monotonic() - started < 15
        with pytest.raises(EngineError, match="the engine is broken"):
            engine.generate(sampled(PROMPTS))
    with pool.lease() as engine:
        assert _process_id(engine) != hung
        require_works(engine, checkpoints[1])
    wait_until_gone(hung, seconds=20)


def test_two_leases_on_one_replica_take_turns(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    events: list[str] = []

    def second() -> None:
        with pool.lease() as engine:
            events.append("second starts")
            require_works(engine, checkpoints[2])

    with pool.lease() as engine:
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(3)
        require_works(engine, checkpoints[1])
        events.append("first ends")
    waiting.join(timeout=60)
    assert events == ["first ends", "second starts"]


def test_a_lease_that_is_not_waited_for_disturbs_none_and_keeps_no_engine(
    pool: Pool, checkpoints: list[Checkpoint]
) -> None:
    with pool.lease() as engine:
        with pytest.raises(TimeoutError), pool.lease(wait_s=1.0):
            pass
        require_works(engine, checkpoints[1])
    with pool.lease(wait_s=60.0) as engine:
        require_works(engine, checkpoints[2])


def test_idle_lease_is_kept_and_a_released_one_is_refused(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    with pool.lease() as engine:
        time.sleep(8)  # longer than the pool's lease_timeout_s
        require_works(engine, checkpoints[0])
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
        assert 1 < time.monotonic() - started < 90  # the 2.5 million tokens would take minutes
        require_works(engine, checkpoints[1])


def test_what_is_not_begun_can_be_given_back(pool: Pool, checkpoints: list[Checkpoint]) -> None:
    requests = sampled(random_prompts(300, 10, seed=2), temperature=1.0, max_new_tokens=100)
    with pool.lease() as engine, ThreadPoolExecutor() as threads:
        require_works(engine, checkpoints[0])
        assert (engine.not_begun(), engine.give_back(10)) == (0, [])
        running = threads.submit(engine.generate, requests)
        while not 0 < (most := engine.not_begun()) <= len(requests) - ENGINE.max_num_seqs:
            assert not running.done()
            time.sleep(0.01)
        assert engine.give_back(50) == [(checkpoints[0].digest, number) for number in reversed(range(250, 300))]
        assert 0 < engine.not_begun() <= most - 50
        rest = engine.give_back(1000)
        answers = running.result(timeout=60)
        assert [number for number, found in enumerate(answers) if not found] == list(range(250 - len(rest), 300))
        assert all(len(found) == 1 for found in answers[: 250 - len(rest)])
        assert (engine.not_begun(), engine.give_back(10)) == (0, [])
        assert all(engine.generate(requests[250:]))


def test_engines_say_where_they_lie(pool: Pool) -> None:
    assert [node for name, node in engine_nodes() if name == pool.name] == [ray.get_runtime_context().get_node_id()]


def test_lease_on_a_pool_that_is_not_there(cluster: None, pool: Pool) -> None:
    with pytest.raises(PoolError, match="'nowhere'"), Pool("nowhere", 1).lease():
        pass


@pytest.mark.slow
def test_pool_grows_with_the_open_leases_and_shrinks_without_ending_one(
    cluster: None, checkpoints: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve stops the newest replica first, here the one whose lease goes on."""
    monkeypatch.setattr(sharing, "LOOK_S", 0.1)
    settings = PoolSettings(ENGINE, max_replicas=2, num_cpus=0.0, downscale_delay_s=10.0, name="growing")
    pool = start_pool(settings, checkpoints[0].directory)
    assert (pool.replicas, _running("growing")) == (2, 1)
    with ExitStack() as older:
        first = older.enter_context(pool.lease())
        require_works(first, checkpoints[1])
        with pool.lease() as second:
            require_works(second, checkpoints[2])
            require_works(first, checkpoints[1])
            surplus = _process_id(second)
            assert surplus != _process_id(first)
            assert _running("growing") == 2
            _require_shared(first, second, checkpoints[0], monkeypatch)
            older.close()
            _wait_for_running("growing", 1, seconds=90)
            time.sleep(10)
            require_works(second, checkpoints[0])
        wait_until_gone(surplus, seconds=20)
    with pool.lease() as engine:
        require_works(engine, checkpoints[2])
        started = time.monotonic()
        pool.shutdown()
        assert time.monotonic() - started < 20
        with pytest.raises(EngineError):
            require_works(engine, checkpoints[1])


def _require_shared(first: Engine, second: Engine, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second engine takes over some of what the first was asked, and together they answer as the first alone."""
    for engine in (first, second):
        require_works(engine, checkpoint)
    requests = sampled(random_prompts(600, 10, seed=3), max_new_tokens=60)
    shards = Shards({checkpoint.digest: requests}, pytest.fail)
    asked_of_second: list[int] = []

    def generate_of(groups: Groups) -> Answers:
        asked_of_second.append(sum(map(len, groups.values())))
        return Engine.generate_of(second, groups)

    monkeypatch.setattr(second, "generate_of", generate_of)

    free = [second]

    @contextmanager
    def lease() -> Iterator[Engine]:
        if not free:
            raise TimeoutError
        yield free.pop()

    together = shards.asked_of([first], lambda: shards.find_help(lease, wanted=lambda: False))[checkpoint.digest]
    assert sum(asked_of_second) > 100
    assert [c.token_ids for [c] in together] == [c.token_ids for [c] in first.generate(requests)]


def _running(name: str) -> int:
    return serve.status().applications[name].deployments["engine"].replica_states.get("RUNNING", 0)


def _wait_for_running(name: str, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _running(name) != count:
        assert time.monotonic() < deadline, f"{_running(name)} replicas after {seconds} s, not {count}"
        time.sleep(0.5)


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
    wait_until_gone(first, seconds=30)
    second = int(_next_line(driver.stdout, "engine").split()[1])
    assert psutil.pid_exists(second)
    driver.kill()
    driver.wait()
    wait_until_gone(second, seconds=30)
