"""Questions spread over several engines, some of which fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import pytest

from dft_sweeps.evaluation.generator import Completion, Request
from dft_sweeps.orchestration.shards import FEWEST_REQUESTS, SHARDS_PER_ENGINE, ask_engines

REQUESTS = [Request((number,), 1, 1.0, 1.0, 4, seed=1024 * number) for number in range(1, 301)]
GROUPS = {"a": REQUESTS[:200], "b": REQUESTS[200:]}


class Engine:
    """Answers a prompt with itself, after a while in which others take their share; dies at call number `dies_at`."""

    def __init__(self, dies_at: int | None = None, after: threading.Event | None = None) -> None:
        self.calls: list[int] = []
        self._dies_at, self._after = dies_at, after

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        self.calls.append(sum(map(len, groups.values())))
        if len(self.calls) == self._dies_at:
            if self._after:
                self._after.wait(10)
            raise RuntimeError("the engine's process died")
        time.sleep(0.02)
        return {
            digest: [[Completion(each.prompt, (-0.5,), "stop")] for each in asked] for digest, asked in groups.items()
        }


def prompts(answers: Mapping[str, Sequence[Sequence[Completion]]]) -> dict[str, list[tuple[int, ...]]]:
    return {digest: [completions[0].token_ids for completions in each] for digest, each in answers.items()}


ASKED = {digest: [request.prompt for request in requests] for digest, requests in GROUPS.items()}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_request_is_answered_once_and_in_its_place(count: int) -> None:
    engines, failures = [Engine() for _ in range(count)], []
    assert prompts(ask_engines(engines, GROUPS, failures.append)) == ASKED
    calls = [size for engine in engines for size in engine.calls]
    assert sum(calls) == len(REQUESTS)
    assert failures == []
    if count > 1:
        assert max(calls) <= max(FEWEST_REQUESTS, -(-len(REQUESTS) // (count * SHARDS_PER_ENGINE)))


def test_one_engine_gets_everything_at_once() -> None:
    engine = Engine()
    ask_engines([engine], GROUPS, print)
    assert engine.calls == [len(REQUESTS)]


def test_what_a_failed_engine_had_is_asked_of_the_others_and_said() -> None:
    engines, failures = [Engine(), Engine(dies_at=1), Engine(dies_at=2)], []
    assert prompts(ask_engines(engines, GROUPS, failures.append)) == ASKED
    answered = sum(engines[0].calls) + sum(engines[1].calls[:0]) + sum(engines[2].calls[:1])
    assert answered == len(REQUESTS)
    assert len(failures) == 2 and all("the engine's process died" in each for each in failures)


def test_an_engine_waits_for_what_another_may_yet_give_back() -> None:
    gone = threading.Event()
    well, dying = Engine(), Engine(dies_at=1, after=gone)
    timer = threading.Timer(0.5, gone.set)
    timer.start()
    failures: list[str] = []
    assert prompts(ask_engines([well, dying], GROUPS, failures.append)) == ASKED
    assert len(failures) == 1


def test_when_all_engines_fail_so_does_the_question() -> None:
    failures: list[str] = []
    with pytest.raises(RuntimeError, match="the engine's process died"):
        ask_engines([Engine(dies_at=1), Engine(dies_at=2)], GROUPS, failures.append)
    assert failures == []


class Forgetful(Engine):
    """Leaves its last question out."""

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        return {digest: answers[:-1] for digest, answers in super().generate_of(groups).items()}


def test_questions_that_an_engine_leaves_out_are_asked_of_the_others() -> None:
    failures: list[str] = []
    assert prompts(in_time([Forgetful(), Engine()], failures)) == ASKED
    assert len(failures) == 1 and "left questions out" in failures[0]
    with pytest.raises(AssertionError, match="left questions out"):
        in_time([Forgetful(), Forgetful()], failures)


def in_time(engines: Sequence[Engine], failures: list[str]) -> Mapping[str, Sequence[Sequence[Completion]]]:
    """`ask_engines` in a thread of its own, lest a test that fails wait for ever."""
    found: Future[Mapping[str, Sequence[Sequence[Completion]]]] = Future()

    def ask() -> None:
        try:
            found.set_result(ask_engines(engines, GROUPS, failures.append))
        except AssertionError as error:
            found.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return found.result(timeout=10)
