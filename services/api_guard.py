"""The door of the sweep API: whoever has no token, or sends too much, gets no further. Before any routing."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = "/v1/health"
"""The one path that asks for no token."""


def digest_of(token: str) -> str:
    """What a replica keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Guard:
    """Answers 401 to a request without the token and 413 to one with more than `body_bytes`."""

    def __init__(self, app: App, token_digest: str, body_bytes: int) -> None:
        self._app, self._token_digest, self._body_bytes = app, token_digest, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["path"] != OPEN and not self._has_token(headers.get(b"authorization", "")):
            return await _refuse(send, 401, "a bearer token is needed, and this is not it", _HOW)
        length = headers.get(b"content-length", "0")
        if not re.fullmatch("[0-9]{1,18}", length):
            return await _refuse(send, 400, "the content-length is no number", None)
        if int(length) > self._body_bytes:
            return await self._too_large(send)
        body = await self._read(receive)
        if body is None:
            return await self._too_large(send)
        await self._app(scope, _replay(body, receive), send)

    def _has_token(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        given = hashlib.sha256(token.strip().encode("latin-1")).hexdigest()
        return hmac.compare_digest(given, self._token_digest) and scheme.lower() == "bearer"

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None where it is too large, whatever its content-length said."""
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._body_bytes:
                return None
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return body

    async def _too_large(self, send: Send) -> None:
        await _refuse(send, 413, f"more than {self._body_bytes:,} bytes", "data belongs in files that the spec names")


_HOW = "send `Authorization: Bearer TOKEN`; `dft-sweeps serve` prints where its token is"


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` with the body that was read already."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return pending.pop() if pending else await receive()

    return next_message


async def _refuse(send: Send, status: int, error: str, hint: str | None) -> None:
    body = json.dumps({"error": error, "place": None, "hint": hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
