"""Groups of workers that wait for a job give way to what cannot be placed beside them; without Ray."""

from __future__ import annotations

import pytest

from dft_sweeps.orchestration import mailbox as module
from dft_sweeps.orchestration.halving import Contender, Halving, Job
from dft_sweeps.orchestration.mailbox import AN_ENGINE, Mailbox
from tests.orchestration.test_mailbox import JOB, run, settled, work


async def waited(mailbox: Mailbox, waiting: str) -> None:
    """What waits for a place has done so for long, and the coordinator says that it still does."""
    mailbox._unplaced[waiting] -= module.PLACED_S
    await mailbox.expect([], "abcd", [waiting])


async def told(mailbox: Mailbox, halving: Halving, up: tuple[str, ...] = ()) -> None:
    """As a coordinator does that has heard of the workers of these trials."""
    await mailbox.expect(halving.ready(), halving.untrained(), halving.started() - set(up))


def test_the_retry_of_a_trial_whose_node_was_lost_gets_the_room_of_a_group_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four trials in two slots. The node with the workers of `b` is lost; nothing is left for new ones but the room of
    the other group, which has done all that can be done without `b`."""

    async def scenario() -> None:
        halving, mailbox = Halving([Contender(id_, 8) for id_ in "abcd"], [4], 2.0), Mailbox("abcd")
        job, lost = halving.next_job(), halving.next_job()
        assert (job, lost) == (Job("a", 4), Job("b", 4))
        assert await mailbox.hand_over("lost", "b", 4, JOB)
        await mailbox.job("lost", 0)
        while job:
            waiting = await work(mailbox, "left", job.training_id, job.until)
            halving.arrived(job.training_id, whole=job.until == 8)
            halving.observe(job.training_id, job.until, 0.5)
            await told(mailbox, halving, up=("b",))
            job = halving.next_job()
            assert await settled(waiting) == [True if job else None]
        assert await mailbox.hand_over("again", "b", 4, JOB)  # before its workers have a place
        await told(mailbox, halving)
        assert await settled(waiting) == [None]
        monkeypatch.setattr(module, "PLACED_S", 0.0)
        await told(mailbox, halving)
        assert await settled(waiting) == [False]

        await mailbox.job("again", 0)
        await mailbox.done("again", "b", 4)
        halving.arrived("b")
        halving.observe("b", 4, 0.9)
        assert halving.next_job() == Job("b", 8, after=4)  # the sweep goes on

    run(scenario())


@pytest.mark.parametrize("waiting", ["b", AN_ENGINE])
def test_one_group_at_a_time_gives_way_to_a_driver_or_an_engine_that_finds_no_place(waiting: str) -> None:
    async def scenario() -> None:
        mailbox = Mailbox("abcd")
        await mailbox.expect([], "abcd", [waiting])
        idle = [await work(mailbox, group, id_) for group, id_ in (("g", "a"), ("h", "c"))]
        assert await settled(*idle) == [None, None]
        await waited(mailbox, waiting)
        assert await settled(*idle) == [False, None]
        await waited(mailbox, waiting)
        assert await settled(*idle) == [False, False]

    run(scenario())


def test_a_group_goes_on_with_a_job_rather_than_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(module, "PLACED_S", 0.0)
        mailbox = Mailbox("ab")
        idle = await work(mailbox, "g", "a")
        await mailbox.expect(["a"], "ab", ["b"])
        assert await settled(idle) == [True]

    run(scenario())
