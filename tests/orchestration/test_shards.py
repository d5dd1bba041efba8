"""Questions spread over several engines, some of which fail, and some of which come later."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import pytest

from dft_sweeps.evaluation.generator import Canary, Completion, Request
from dft_sweeps.orchestration import shards
from dft_sweeps.orchestration.shards import FEWEST_REQUESTS, Place, Shards

REQUESTS = [Request((number,), 1, 1.0, 1.0, 4, seed=1024 * number) for number in range(1, 301)]
GROUPS = {"a": REQUESTS[:200], "b": REQUESTS[200:]}
ASKED = {digest: [request.prompt for request in requests] for digest, requests in GROUPS.items()}
FAST, SLOW = 0.0002, 0.005
"""Seconds for an answer."""


class Engine:
    """Answers a prompt with itself, one after the other; dies after `dies_after` answers, once `when` is set."""

    def __init__(self, pace: float = FAST, dies_after: int | None = None, when: threading.Event | None = None) -> None:
        self.calls: list[int] = []
        self.answered = 0
        self._pace, self._dies_after, self._when = pace, dies_after, when
        self._waiting: deque[Place] = deque()

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        self.calls.append(sum(map(len, groups.values())))
        answers: dict[str, list[list[Completion]]] = {key: [[] for _ in requests] for key, requests in groups.items()}
        self._waiting.extend((digest, number) for digest, requests in groups.items() for number in range(len(requests)))
        while self._waiting:
            if self.answered == self._dies_after:
                if self._when:
                    self._when.wait(10)
                raise RuntimeError("the engine's process died")
            digest, number = self._waiting.popleft()
            time.sleep(self._pace)
            answers[digest][number] = [Completion(groups[digest][number].prompt, (-0.5,), "stop")]
            self.answered += 1
        return answers

    def not_begun(self) -> int:
        return len(self._waiting)

    def give_back(self, count: int) -> list[Place]:
        return [self._waiting.pop() for _ in range(min(count, len(self._waiting)))]

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> None:
        raise AssertionError("it holds the weights")

    adapt = swap

    def release(self) -> None:
        raise AssertionError("whoever leased it does that")


def ask(
    engines: Sequence[Engine], failures: list[str], look: Callable[[Shards], None] = lambda asked: None
) -> dict[str, list[tuple[int, ...]]]:
    """The prompts that were answered, found in a thread of its own, lest a test that fails wait for ever."""
    found: Future[Mapping[str, Sequence[Sequence[Completion]]]] = Future()
    asked = Shards(GROUPS, failures.append)

    def in_thread() -> None:
        try:
            found.set_result(asked.asked_of(engines, lambda: look(asked)))
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=in_thread, daemon=True).start()
    answers = found.result(timeout=20)
    return {digest: [completions[0].token_ids for completions in each] for digest, each in answers.items()}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_request_is_answered_once_and_in_its_place(count: int) -> None:
    engines, failures = [Engine() for _ in range(count)], []
    assert ask(engines, failures) == ASKED
    assert sum(engine.answered for engine in engines) == len(REQUESTS)
    assert [engine.calls[0] for engine in engines] == [len(REQUESTS) // count] * count
    assert failures == []


def test_a_fast_engine_takes_over_what_a_slow_one_has_not_begun() -> None:
    slow, fast, failures = Engine(SLOW), Engine(), []
    assert ask([slow, fast], failures) == ASKED
    assert slow.calls == [150] and slow.answered + fast.answered == len(REQUESTS)
    # It gives away half each time, and keeps what is too little for another engine.
    assert slow.answered < 75 and len(fast.calls) > 2 and min(fast.calls) >= FEWEST_REQUESTS
    assert failures == []


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LOOK_S", 0.05)


@pytest.mark.usefixtures("looking")
def test_engines_that_come_later_take_part() -> None:
    first, helpers = Engine(SLOW), [Engine(SLOW), Engine(SLOW)]
    coming = iter(helpers)

    def look(asked: Shards) -> None:
        if asked.not_begun() >= 2 * FEWEST_REQUESTS and (engine := next(coming, None)):
            threading.Thread(target=asked.help, args=(engine,), daemon=True).start()

    failures: list[str] = []
    assert ask([first], failures, look) == ASKED
    assert first.calls[0] == len(REQUESTS) and all(50 < engine.answered < 150 for engine in (first, *helpers))
    assert first.answered + sum(engine.answered for engine in helpers) == len(REQUESTS)
    assert failures == []


@pytest.mark.usefixtures("looking")
def test_an_engine_that_helps_is_free_when_nothing_is_left_to_begin() -> None:
    end, left = threading.Event(), threading.Event()

    class Lasting(Engine):
        """Is at its last answer until the test says so."""

        def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
            answers = super().generate_of(groups)
            assert end.wait(10)
            return answers

    def look(asked: Shards) -> None:
        def help() -> None:
            asked.help(Engine())
            left.set()

        if asked.not_begun():
            threading.Thread(target=help, daemon=True).start()
        elif left.wait(10):
            end.set()

    assert ask([Lasting(SLOW)], [], look) == ASKED
    assert left.is_set()


def test_help_that_comes_after_the_end_is_not_needed() -> None:
    asked, late = Shards(GROUPS, print), Engine()
    asked.asked_of([Engine()], lambda: None)
    asked.help(late)
    assert late.calls == []


@pytest.mark.usefixtures("looking")
def test_one_that_helps_goes_on_alone_when_the_others_fail() -> None:
    gone, helper, helpers = threading.Event(), Engine(), []
    first = Engine(SLOW, dies_after=20, when=gone)

    def look(asked: Shards) -> None:
        if not helpers:
            helpers.append(threading.Thread(target=asked.help, args=(helper,), daemon=True))
            helpers[0].start()
            gone.set()

    failures: list[str] = []
    assert ask([first], failures, look) == ASKED
    assert helper.answered == len(REQUESTS) and len(failures) == 1


def test_what_a_failed_engine_had_is_asked_of_the_others_and_said() -> None:
    engines, failures = [Engine(SLOW), Engine(SLOW, dies_after=1), Engine(SLOW, dies_after=2)], []
    assert ask(engines, failures) == ASKED
    assert engines[0].answered == len(REQUESTS)
    assert len(failures) == 2 and all("the engine's process died" in each for each in failures)


def test_an_engine_waits_for_what_another_may_yet_give_back() -> None:
    gone = threading.Event()
    threading.Timer(0.5, gone.set).start()
    failures: list[str] = []
    assert ask([Engine(), Engine(dies_after=140, when=gone)], failures) == ASKED
    assert len(failures) == 1


def test_when_all_engines_fail_so_does_the_question() -> None:
    failures: list[str] = []
    with pytest.raises(RuntimeError, match="the engine's process died"):
        ask([Engine(dies_after=1), Engine(dies_after=2)], failures)
    assert failures == []


class Forgetful(Engine):
    """Leaves its last question out."""

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        return {digest: answers[:-1] for digest, answers in super().generate_of(groups).items()}


def test_questions_that_an_engine_leaves_out_are_asked_of_the_others() -> None:
    failures: list[str] = []
    assert ask([Forgetful(), Engine()], failures) == ASKED
    assert len(failures) == 1 and "left questions out" in failures[0]
    with pytest.raises(AssertionError, match="left questions out"):
        ask([Forgetful(), Forgetful()], failures)


class Unheard(Engine):
    """Gives back what it is asked for, and the answer is lost on the way."""

    def give_back(self, count: int) -> list[Place]:
        super().give_back(count)
        raise ConnectionError("the engine cannot be reached now")


def test_nothing_is_lost_where_the_answer_of_one_that_gives_back_is() -> None:
    failures: list[str] = []
    assert ask([Unheard(SLOW), Engine()], failures) == ASKED
    assert len(failures) == 1 and "left questions out" in failures[0]
