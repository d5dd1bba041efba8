"""Whom and what the sweep API lets in: tokens, sizes, paths, and specs of every kind of nonsense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.services.in_process_api import SPEC, TOKEN, WrittenDown, running_api
from tests.spec.bad_specs import BAD_OVERRIDES, BAD_SPECS
from tests.spec.example import SPEC as EXAMPLE
from tests.spec.example import edited

DATA = '{"prompt": "1+1=", "completion": "2"}\n' * 16


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def jobs() -> WrittenDown:
    return WrittenDown()


@pytest.fixture(scope="module")
def client(storage: Path, jobs: WrittenDown) -> Iterator[TestClient]:
    with running_api(storage, jobs, trials=3, samples=1000) as client:
        yield client


def left_behind(storage: Path, jobs: WrittenDown) -> list[str]:
    """What a refused spec must not leave: jobs, submissions, or a tracking database."""
    submissions = storage / "submissions"
    found = [str(path) for path in submissions.iterdir() if path.is_dir()] if submissions.exists() else []
    return [*jobs.known, *found, *map(str, storage.glob("mlflow.db*"))]


def with_source(source: str) -> str:
    text = SPEC.replace("{kind: arithmetic, samples: 96, wrong_steps: 0.1, seed: 3}", source)
    assert text != SPEC
    return text


@pytest.mark.parametrize(
    "token", [None, "", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[1:]}", TOKEN]
)
@pytest.mark.parametrize("path", ["/v1/sweeps", "/v1/openapi.json", "/v1/sweeps/x/events", "/nothing"])
def test_nothing_is_told_without_the_token(client: TestClient, path: str, token: str | None) -> None:
    del client.headers["authorization"]
    try:
        answer = client.get(path, headers={} if token is None else {"Authorization": token})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert client.post("/v1/sweeps", content=b"x" * 10_000_000).status_code == 401
        assert client.get("/v1/health").json()["status"] == "ok"
    finally:
        client.headers["authorization"] = f"Bearer {TOKEN}"
    assert client.get("/v1/sweeps").status_code == 200


def test_bodies_are_bounded(client: TestClient) -> None:
    body = json.dumps({"spec": "#" * 300_000}).encode()
    assert client.post("/v1/plans", content=body).status_code == 413

    def unannounced() -> Iterator[bytes]:
        yield from (body[start : start + 1000] for start in range(0, len(body), 1000))

    assert client.post("/v1/plans", content=unannounced()).status_code == 413
    assert client.post("/v1/plans", content=b"", headers={"content-length": "9" * 30}).status_code == 400


def refused(client: TestClient, spec: str, *overrides: str) -> dict[str, str]:
    answers = [client.post(path, json={"spec": spec, "set": overrides}) for path in ("/v1/plans", "/v1/sweeps")]
    assert [answer.status_code for answer in answers] == [422, 422], answers[0].text
    assert answers[0].json() == answers[1].json()
    return answers[0].json()


def test_paths_are_confined(client: TestClient, storage: Path, jobs: WrittenDown, tmp_path: Path) -> None:
    outside = tmp_path / "data.jsonl"
    outside.write_text(DATA)
    (storage / "link.jsonl").symlink_to(outside)
    (storage / "linked").symlink_to(tmp_path)
    (storage / "model").mkdir()
    (storage / "model" / "config.json").symlink_to(outside)
    ways = [
        outside,
        tmp_path / "nothing.jsonl",
        storage / "link.jsonl",
        storage / "linked" / "data.jsonl",
        storage / ".." / "data.jsonl",
        storage / "service" / "token",
        Path("/proc/self/environ"),
    ]
    said = {json.dumps(refused(client, with_source(f"{{kind: file, path: {way}}}"))) for way in ways}
    assert len(said) == 1  # neither the path, nor what is there, nor whether there is anything
    assert "outside the directories" in said.pop()
    assert "relative" in refused(client, with_source("{kind: file, path: data.jsonl}"))["error"]
    for way in (storage / "model", storage / "linked", tmp_path, "/"):
        answer = refused(client, SPEC, f"trial.model.path={way}")
        assert "outside the directories" in answer["error"] and "model.path" in answer["place"]
    answer = refused(client, SPEC, f"trial.evaluation.benchmarks=[{{name: gsm8k, path: {outside}}}]")
    assert "outside the directories" in answer["error"]
    assert left_behind(storage, jobs) == []

    inside = storage / "data.jsonl"
    inside.write_text(DATA)
    plan = client.post("/v1/plans", json={"spec": with_source(f"{{kind: file, path: {inside}}}")})
    assert plan.status_code == 200, plan.text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trial.model.path=Qwen/Qwen2.5-Math-1.5B"], "of the hub"),
        (["trial.data.source={kind: hub, id: someone/something}"], "of the hub"),
        (["trial.data.source={kind: hub, id: ../../etc}"], "not an id of the hub"),
        (["trial.data.source={kind: numinamath_cot}"], "of the hub"),
        (["trial.data.source={kind: arithmetic, samples: 1001}"], "1,001 samples"),
        (["axes.train.seed=[1, 2]"], "4 trials"),
        (["trial.train.steps=1000000", "trial.evaluation.every=1"], "evaluated steps"),
        (["execution.workers=3"], "too few CPUs"),
        (
            ["budget={cpu_hours: 0.0001}", "cost={train_tokens_per_second: 1, completion_tokens_per_second: 1}"],
            "the budget is",
        ),
    ],
)
def test_amounts_and_places_are_the_operators(client: TestClient, overrides: list[str], words: str) -> None:
    answer = client.post("/v1/sweeps", json={"spec": SPEC, "set": overrides})
    assert answer.status_code == 422 and words in answer.text, answer.text


def test_a_file_of_the_server_is_not_extended(client: TestClient) -> None:
    answer = refused(client, "extends: /etc/passwd\nset: {}\n")
    assert "passwd" not in answer["error"] and "root" not in json.dumps(answer)


def test_few_lines_that_stand_for_many_values_are_refused(client: TestClient) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "values" in refused(client, "\n".join(lines))["error"]
    assert "deep" in refused(client, "a: &a [*a]")["error"]
    refused(client, "[" * 5000)


@pytest.mark.slow
def test_every_mistake_that_specs_are_known_to_have_is_told(
    client: TestClient, storage: Path, jobs: WrittenDown
) -> None:
    for bad in BAD_SPECS.values():
        refused(client, edited(bad.old, bad.new))
    for override in BAD_OVERRIDES:
        refused(client, EXAMPLE, override)
    assert left_behind(storage, jobs) == []


_NAMES = """name trial data train evaluation model axes variants pool execution budget cost source kind path benchmarks
steps objective sft dft arithmetic samples batch_size set embedded /etc/passwd ~ null 1e400 -1 .nan true 3e-4"""
_WORDS = st.sampled_from(_NAMES.split())
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
_PATHS = st.lists(_WORDS, min_size=1, max_size=4).map(".".join)
_OVERRIDES = st.lists(st.tuples(_PATHS, _VALUES).map(lambda pair: f"{pair[0]}={json.dumps(pair[1])}"), max_size=2)
_SPECS = st.one_of(
    st.text(max_size=200),
    _VALUES.map(json.dumps),
    st.tuples(st.integers(0, len(SPEC)), st.integers(0, len(SPEC)), st.text(max_size=8)).map(
        lambda cut: SPEC[: min(cut[:2])] + cut[2] + SPEC[max(cut[:2]) :]
    ),
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spec=_SPECS, overrides=_OVERRIDES)
def test_whatever_is_sent_is_answered_with_a_reason(
    client: TestClient, storage: Path, jobs: WrittenDown, spec: str, overrides: list[str]
) -> None:
    body = json.dumps({"spec": spec, "set": overrides}).encode()
    answer = client.post("/v1/sweeps", content=body, headers={"content-type": "application/json"})
    if answer.status_code == 201:  # a cut that did no harm
        started = answer.json()["submission_id"]
        assert (storage / "submissions" / started / "spec.yaml").exists()
        return
    assert answer.status_code in (200, 422), answer.text
    assert answer.status_code == 200 or answer.json()["error"]
    assert {path.name for path in (storage / "submissions").glob("s-*")} == set(jobs.known)
