"""Which groups of workers wait for a job, which get one, and which end; without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from dft_sweeps.orchestration import mailbox as module
from dft_sweeps.orchestration.mailbox import JobDone, Mailbox

JOB = [object()]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 10))


async def work(mailbox: Mailbox, group: str, training_id: str, until: int = 4) -> asyncio.Task[bool]:
    """A group does a job, and waits for another."""
    await mailbox.hand_over(group, training_id, until, JOB)
    await mailbox.done(group, training_id, until)
    return asyncio.create_task(mailbox.freed(group))


async def settled(*tasks: asyncio.Task[bool]) -> list[bool | None]:
    for _ in range(5):
        await asyncio.sleep(0)
    return [task.result() if task.done() else None for task in tasks]


def test_a_group_goes_on_at_once_while_trials_wait_and_ends_with_the_last() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(["a", "b"])
        first = await work(mailbox, "g", "a")
        assert await settled(first) == [True]
        last = await work(mailbox, "g", "b")
        assert await settled(last) == [None]  # until the coordinator knows that both are trained
        await mailbox.expect([], [], [])
        assert await settled(last) == [False]
        assert [event for event in await mailbox.take(1) if isinstance(event, JobDone)] == [JobDone("a"), JobDone("b")]

    run(scenario())


def test_groups_wait_for_verdicts_and_one_goes_on_for_each_job() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(["a", "b", "c"])
        await mailbox.expect([], ["a", "b", "c"], [])
        waiting = [await work(mailbox, group, id_) for group, id_ in (("g", "a"), ("h", "b"))]
        assert await settled(*waiting) == [None, None]
        await mailbox.expect(["b"], ["a", "b", "c"], [])
        assert sorted(map(str, await settled(*waiting))) == ["None", "True"]
        await mailbox.expect(["b"], ["a", "b", "c"], [])  # still the same job, that nobody has taken yet
        assert sorted(map(str, await settled(*waiting))) == ["None", "True"]
        await mailbox.hand_over("g", "b", 8, JOB)
        await mailbox.expect(["c"], ["b", "c"], [])
        assert await settled(*waiting) == [True, True]

    run(scenario())


def test_no_more_groups_are_kept_than_trials_may_need() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(["a", "b", "c"])
        await mailbox.expect([], ["a", "b", "c"], [])
        waiting = [await work(mailbox, group, id_) for group, id_ in (("g", "a"), ("h", "b"))]
        await mailbox.hand_over("i", "c", 4, JOB)
        await mailbox.expect([], ["a", "c"], [])  # b was stopped; c trains
        assert sorted(map(str, await settled(*waiting))) == ["False", "None"]
        await mailbox.expect([], ["c"], [])
        assert await settled(*waiting) == [False, False]

    run(scenario())


def test_a_job_is_not_kept_for_ever_for_a_driver_that_died(monkeypatch: Any) -> None:
    async def scenario() -> None:
        mailbox = Mailbox(["a", "b"])
        await mailbox.expect(["b"], ["a", "b"], [])
        dead, other = await work(mailbox, "g", "a"), asyncio.create_task(mailbox.freed("h"))
        assert await settled(dead, other) == [True, None]
        monkeypatch.setattr(module, "CLAIM_S", 0.0)
        await mailbox.expect(["b"], ["a", "b"], [])
        assert await settled(other) == [True]

    run(scenario())


def test_a_job_that_was_done_before_its_driver_died_is_not_done_again() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(["a"])
        await work(mailbox, "g", "a")
        assert not await mailbox.hand_over("h", "a", 4, JOB)
        assert await mailbox.hand_over("h", "a", 8, JOB)

    run(scenario())


def test_a_job_that_two_groups_did_is_announced_once() -> None:
    """The workers of a driver that died may come to its end beside those of the next attempt."""

    async def scenario() -> None:
        mailbox = Mailbox(["a"])
        for group in ("g", "h"):
            assert await mailbox.hand_over(group, "a", 4, JOB)
        await mailbox.done("g", "a", 4)
        assert await mailbox.hand_over("i", "a", 8, JOB)
        await mailbox.done("h", "a", 4)
        assert await mailbox.take(1) == [JobDone("a")]
        await mailbox.wait_done("h", 0)

    run(scenario())
