"""The client's side of the sweep API: where the server is, the token, and its errors as this program's own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import click

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

DEFAULT_SERVER = "http://127.0.0.1:8700"
ANSWER_S = 600.0
"""A spec is read before there is an answer, and a job that is cancelled may take its time to end."""
QUIET_S = 60.0
"""Longest silence of a stream; the server says every few seconds that it is there."""
MOST_LISTED = 10_000
"""Sweeps that the server lists at a time."""
PAUSES_S = (0.5, 1.0, 2.0, 4.0, *[8.0] * 15)
"""Before each further try to take up a stream: a server that is started again is away for a while."""

_OPTIONS = (
    click.option(
        "--server",
        envvar="DFT_SWEEPS_SERVER",
        default=DEFAULT_SERVER,
        show_default=True,
        show_envvar=True,
        help="Where `dft-sweeps serve` listens.",
    ),
    click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File with the server's token. [default: DFT_SWEEPS_TOKEN, or STORAGE/service/token]",
    ),
    click.option(
        "--tls-certificate",
        envvar="DFT_SWEEPS_TLS_CERTIFICATE",
        show_envvar=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Certificate to trust, for a server with one of its own making.",
    ),
    click.option(
        "--storage",
        envvar="DFT_SWEEPS_STORAGE",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("storage"),
        show_default=True,
        help="The server's storage, where this machine has it: its token is there.",
    ),
)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of every command that talks to the server; `Server` takes their values."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def or_server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what a command needs that reads MLflow itself unless it is told of a server."""
    for option in reversed(_OPTIONS[1:3]):
        command = option(command)
    return click.option(
        "--server", envvar="DFT_SWEEPS_SERVER", show_envvar=True, help="Ask the service that listens there instead."
    )(command)


class Server:
    """The sweep API.

    Raises:
        SpecError: the server refused what was asked (a 4xx), with its words. So do all methods.
        ClusterUnavailable: it does not answer, or something behind it does not.
    """

    def __init__(
        self,
        server: str,
        token_file: Path | None = None,
        tls_certificate: Path | None = None,
        storage: Path | None = None,
    ) -> None:
        import requests

        self.url = server.rstrip("/")
        split = urlsplit(self.url)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise SpecError(f"{server!r} is no address; one is like {DEFAULT_SERVER}", "--server")
        token = _token(token_file, storage)

        def authorize(request: PreparedRequest) -> PreparedRequest:
            # As a header of the session it would give way to what ~/.netrc has for the host.
            request.headers["Authorization"] = f"Bearer {token}"
            return request

        self._session = requests.Session()
        self._session.auth = authorize
        self._session.verify = str(tls_certificate) if tls_certificate else True
        if split.hostname in ("localhost", "127.0.0.1", "::1"):
            self._session.trust_env = False  # no proxy leads to this machine itself

    def submit(self, spec: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
        """Starts the sweep of a spec's text, or finds it running."""
        return self._json("POST", "/v1/sweeps", {"spec": spec, "set": list(overrides)})

    def plan(self, spec: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
        return self._json("POST", "/v1/plans", {"spec": spec, "set": list(overrides)})

    def sweeps(self, limit: int = MOST_LISTED) -> list[dict[str, Any]]:
        """The newest, as `list --json`, each with its `job`."""
        return self._json("GET", f"/v1/sweeps?limit={limit}")

    def status(self, sweep: str) -> dict[str, Any]:
        """As `status --json`; the sweep with its `job`."""
        return self._json("GET", f"/v1/sweeps/{quote(sweep, safe='')}")

    def rerun(self, sweep: str, **asked: Any) -> dict[str, Any]:
        """Runs a recorded sweep, or some of it, again; `asked` as the options of `rerun`, e.g. ``failed=True``."""
        return self._json("POST", f"/v1/sweeps/{quote(sweep, safe='')}/rerun", asked)

    def cancel(self, sweep: str) -> dict[str, Any]:
        """Ends the sweep's job, and returns when it has ended."""
        return self._json("POST", f"/v1/sweeps/{quote(sweep, safe='')}/cancel")

    def log(self, sweep: str) -> Iterator[str]:
        """The lines that the sweep's newest job has printed."""
        with self._answer("GET", f"/v1/sweeps/{quote(sweep, safe='')}/logs") as answer:
            yield from answer.text.splitlines()

    def events(self, sweep: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(kind, data) of every event until the sweep's newest job has ended; `end` comes last.

        A connection that breaks is taken up after the last event, as often as there are `PAUSES_S`
        without anything new.
        """
        last, failures = "", 0
        while True:
            try:
                headers = {"Last-Event-ID": last} if last else {}
                path = f"/v1/sweeps/{quote(sweep, safe='')}/events"
                with self._answer("GET", path, headers=headers, stream=True, timeout=QUIET_S) as answer:
                    for id_, kind, data in _events(answer):
                        last, failures = id_, 0
                        yield kind, data
                        if kind == "end":
                            return
                raise ClusterUnavailable(f"{self.url} ended the stream too soon")
            except ClusterUnavailable:
                if failures == len(PAUSES_S):
                    raise
                time.sleep(PAUSES_S[failures])
                failures += 1

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        with self._answer(method, path, json=body) as answer:
            try:
                return answer.json()
            except ValueError as error:
                raise ClusterUnavailable(f"{self.url} is no sweep API: it answers no JSON") from error

    @contextmanager
    def _answer(self, method: str, path: str, timeout: float = ANSWER_S, **request: Any) -> Iterator[Response]:
        import requests

        try:
            with self._session.request(method, self.url + path, timeout=(10.0, timeout), **request) as answer:
                if not answer.ok:
                    raise _problem(self.url, answer)
                yield answer
        except requests.RequestException as error:
            raise ClusterUnavailable(f"no answer from {self.url}: {error}") from error


def _token(token_file: Path | None, storage: Path | None) -> str:
    """Raises SpecError where there is none."""
    from services.service_files import TOKEN_VARIABLE, checked_token, read_token
    from services.service_files import token_file as made

    if token_file is not None:
        return read_token(token_file)
    if token := os.environ.get(TOKEN_VARIABLE):
        return checked_token(token, TOKEN_VARIABLE)
    if storage is not None and made(storage).exists():
        return read_token(made(storage))
    raise SpecError(f"no token: give --token-file, or set {TOKEN_VARIABLE}; `dft-sweeps serve` prints where it is")


def _problem(url: str, answer: Response) -> Exception:
    """The server's words, as the user's mistake or as an outage."""
    try:
        problem = answer.json()
        place, hint = problem.get("place"), problem.get("hint")
        words = f"{place}: {problem['error']}" if place else problem["error"]
        words += f"; {hint}" if hint else ""
    except (ValueError, AttributeError, KeyError, TypeError):  # not ours: Serve while it starts, or a proxy before it
        return ClusterUnavailable(f"{url}: {answer.status_code} {answer.reason}")
    if 400 <= answer.status_code < 500 and answer.status_code != 429:
        return SpecError(words)
    return ClusterUnavailable(f"{url}: {words}")


def _events(answer: Response) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(id, kind, data) of server-sent events."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines(chunk_size=1, decode_unicode=False):
        name, _, value = line.decode("utf-8").partition(": ")
        if name:
            fields[name] = value
        elif fields:
            if "data" in fields:
                yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}
