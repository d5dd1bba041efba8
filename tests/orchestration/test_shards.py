"""Questions spread over several engines, some of which fail, and some of which come later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from dft_sweeps.evaluation.generator import Completion, Request
from dft_sweeps.orchestration import shards
from dft_sweeps.orchestration.shards import FEWEST_REQUESTS, Place, Shards
from tests.orchestration.paced_engine import SLOW, PacedEngine

REQUESTS = [Request((number,), 1, 1.0, 1.0, 4, seed=1024 * number) for number in range(1, 301)]
GROUPS = {"a": REQUESTS[:200], "b": REQUESTS[200:]}
ASKED = {digest: [request.prompt for request in requests] for digest, requests in GROUPS.items()}


def ask(
    engines: Sequence[PacedEngine], failures: list[str], look: Callable[[Shards], None] = lambda asked: None
) -> dict[str, list[tuple[int, ...]]]:
    """The prompts that were answered, found in a thread of its own, lest a test that fails wait for ever. Nobody looks
    for help before the first engine is at work."""
    found: Future[Mapping[str, Sequence[Sequence[Completion]]]] = Future()
    asked = Shards(GROUPS, failures.append)

    def in_thread() -> None:
        try:
            found.set_result(asked.asked_of(engines, lambda: look(asked) if engines[0].answered else None))
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=in_thread, daemon=True).start()
    answers = found.result(timeout=20)
    return {digest: [completions[0].token_ids for completions in each] for digest, each in answers.items()}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_request_is_answered_once_and_in_its_place(count: int) -> None:
    engines, failures = [PacedEngine(SLOW) for _ in range(count)], []
    assert ask(engines, failures) == ASKED
    assert sum(engine.answered for engine in engines) == len(REQUESTS)
    assert [engine.calls[0] for engine in engines] == [len(REQUESTS) // count] * count
    assert failures == []


def test_a_fast_engine_takes_over_what_a_slow_one_has_not_begun() -> None:
    slow, fast, failures = PacedEngine(10 * SLOW), PacedEngine(), []
    assert ask([slow, fast], failures) == ASKED
    assert slow.calls == [150] and slow.answered + fast.answered == len(REQUESTS)
    # It gives away half each time, and keeps what is too little for another engine.
    assert slow.answered < 75 and len(fast.calls) > 2 and min(fast.calls) >= FEWEST_REQUESTS
    assert failures == []


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LOOK_S", 0.05)


class Helpers:
    """Engines that are free, one after the other."""

    def __init__(self, *engines: PacedEngine | Exception) -> None:
        self._engines = list(engines)
        self.lent, self.left = 0, threading.Event()

    @contextmanager
    def lease(self) -> Iterator[PacedEngine]:
        self.lent += 1
        engine = self._engines.pop(0) if self._engines else TimeoutError()
        if isinstance(engine, Exception):
            raise engine
        yield engine
        self.left.set()

    def look(self, asked: Shards) -> None:
        asked.find_help(self.lease, wanted=lambda: False)


@pytest.mark.usefixtures("looking")
def test_engines_that_come_later_take_part() -> None:
    engines, failures = [PacedEngine(SLOW) for _ in range(3)], []
    assert ask(engines[:1], failures, Helpers(*engines[1:]).look) == ASKED
    assert engines[0].calls[0] == len(REQUESTS) and all(50 < engine.answered < 150 for engine in engines)
    assert sum(engine.answered for engine in engines) == len(REQUESTS)
    assert failures == []


class Lasting(PacedEngine):
    """Is at its last answer until the test says so."""

    def __init__(self) -> None:
        super().__init__(SLOW)
        self.end = threading.Event()

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        answers = super().generate_of(groups)
        assert self.end.wait(10)
        return answers


@pytest.mark.usefixtures("looking")
def test_an_engine_that_helps_is_free_when_nothing_is_left_to_begin() -> None:
    first, helpers = Lasting(), Helpers(PacedEngine())

    def look(asked: Shards) -> None:
        helpers.look(asked)
        if helpers.lent and not first.not_begun() and helpers.left.wait(10):
            first.end.set()

    assert ask([first], [], look) == ASKED
    assert helpers.left.is_set()


@pytest.mark.usefixtures("looking")
def test_an_engine_that_helps_and_is_wanted_ends_only_what_it_has_begun() -> None:
    first, helper = PacedEngine(SLOW), PacedEngine()
    assert ask([first], [], lambda asked: asked.find_help(Helpers(helper).lease, wanted=lambda: True)) == ASKED
    assert len(helper.calls) == 0
    wanted = iter([False, True])
    helpers = Helpers(helper)
    assert (
        ask([PacedEngine(SLOW)], [], lambda asked: asked.find_help(helpers.lease, lambda: next(wanted, True))) == ASKED
    )
    assert len(helper.calls) == 1


@pytest.mark.usefixtures("looking")
def test_no_more_engines_come_than_there_is_enough_to_begin_for() -> None:
    """All take longer to come than the questions take."""
    end, coming = threading.Event(), []

    @contextmanager
    def lease() -> Iterator[PacedEngine]:
        coming.append(None)
        end.wait(10)
        yield PacedEngine()

    assert ask([PacedEngine(SLOW)], [], lambda asked: asked.find_help(lease, wanted=lambda: False)) == ASKED
    end.set()
    assert 3 <= len(coming) <= len(REQUESTS) / (2 * FEWEST_REQUESTS)


@pytest.mark.usefixtures("looking")
@pytest.mark.parametrize("failing", [RuntimeError("no such weights"), PacedEngine(dies_after=3)])
def test_no_engine_comes_after_one_that_failed(failing: PacedEngine | Exception) -> None:
    first, failures = PacedEngine(SLOW), []
    helpers = Helpers(failing)

    def look(asked: Shards) -> None:
        if not helpers.lent or asked._errors:
            helpers.look(asked)

    assert ask([first], failures, look) == ASKED
    assert (helpers.lent, len(failures), first.answered) == (1, 1, len(REQUESTS))


def test_help_that_comes_after_the_end_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LOOK_S", 0.01)
    late, come = PacedEngine(), threading.Event()
    helpers = Helpers(late)

    @contextmanager
    def lease() -> Iterator[PacedEngine]:
        come.wait(10)
        with helpers.lease() as engine:
            yield engine

    assert ask([PacedEngine(SLOW)], [], lambda asked: asked.find_help(lease, wanted=lambda: False)) == ASKED
    come.set()
    assert helpers.left.wait(10)
    assert late.calls == []


@pytest.mark.usefixtures("looking")
@pytest.mark.parametrize("reachable", [True, False])
def test_one_that_helps_goes_on_alone_when_the_others_fail(reachable: bool) -> None:
    gone, helper = threading.Event(), PacedEngine()

    class Going(PacedEngine):
        """Fails once it is asked what it has not begun for the third time: that question fails too, or it says 0."""

        looked = 0

        def not_begun(self) -> int:
            self.looked += 1
            if self.looked < 3:
                return super().not_begun()
            gone.set()
            time.sleep(0.5)
            if reachable:
                return 0
            raise ConnectionError("the engine cannot be reached now")

    first, failures = Going(SLOW, dies_after=10, when=gone), []
    assert ask([first], failures, Helpers(helper).look) == ASKED
    assert helper.answered == len(REQUESTS) and len(failures) == 1


def test_what_a_failed_engine_had_is_asked_of_the_others_and_said() -> None:
    engines, failures = [PacedEngine(SLOW), PacedEngine(SLOW, dies_after=1), PacedEngine(SLOW, dies_after=2)], []
    assert ask(engines, failures) == ASKED
    assert engines[0].answered == len(REQUESTS)
    assert len(failures) == 2 and all("the engine's process died" in each for each in failures)


def test_an_engine_waits_for_what_another_may_yet_give_back() -> None:
    gone = threading.Event()
    threading.Timer(0.5, gone.set).start()
    failures: list[str] = []
    assert ask([PacedEngine(SLOW), PacedEngine(dies_after=1, when=gone)], failures) == ASKED
    assert len(failures) == 1


def test_when_all_engines_fail_so_does_the_question() -> None:
    failures: list[str] = []
    with pytest.raises(RuntimeError, match="the engine's process died"):
        ask([PacedEngine(dies_after=1), PacedEngine(dies_after=2)], failures)
    assert failures == []


class Forgetful(PacedEngine):
    """Leaves its last question out."""

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        return {digest: answers[:-1] for digest, answers in super().generate_of(groups).items()}


def test_questions_that_an_engine_leaves_out_are_asked_of_the_others() -> None:
    failures: list[str] = []
    assert ask([Forgetful(), PacedEngine(SLOW)], failures) == ASKED
    assert len(failures) == 1 and "left questions out" in failures[0]
    with pytest.raises(AssertionError, match="left questions out"):
        ask([Forgetful(), Forgetful()], failures)


class Unheard(PacedEngine):
    """Gives back what it is asked for, and the answer is lost on the way."""

    def give_back(self, count: int) -> list[Place]:
        super().give_back(count)
        raise ConnectionError("the engine cannot be reached now")


def test_nothing_is_lost_where_the_answer_of_one_that_gives_back_is() -> None:
    failures: list[str] = []
    assert ask([Unheard(SLOW), PacedEngine()], failures) == ASKED
    assert len(failures) == 1 and "left questions out" in failures[0]
