"""Errors of the sweep API: one shape, and for each cause its status. What is no one's mistake but ours stays a 500."""

from __future__ import annotations

import re

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dft_sweeps.data.durable import NO_MORE_WRITES
from dft_sweeps.orchestration.cluster import ClusterUnavailable
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.store import TrackingUnavailable
from services.api_models import Problem
from services.checking import Busy
from services.submissions import RunsSomethingElse
from services.sweep_views import Unknown

_WORDS = {
    400: "The request cannot be read.",
    401: "There is no token, or it is not the one.",
    404: "There is no such sweep.",
    409: "The sweep's job has not ended, and does not do what is asked for.",
    413: "The body is too large.",
    422: "The spec or a parameter is wrong, or is not allowed here.",
    429: "Too much is asked for at once.",
    503: "Ray or MLflow does not answer, or the storage takes no more.",
}
PROBLEMS = {status: {"model": Problem, "description": words} for status, words in _WORDS.items()}
_PLACE = re.compile(r"(?s)(spec\.yaml(?::\d+)?(?:: [\w.\[\]-]+)?|--set [^:\s]+): (.*)")


def problems(app: FastAPI) -> None:
    """Makes the application answer with `Problem`s."""

    @app.exception_handler(SpecError)
    async def spec_error(request: Request, error: SpecError) -> JSONResponse:
        found = _PLACE.fullmatch(str(error))
        return _answer(422, found[2] if found else str(error), place=found[1] if found else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return _answer(400 if first["type"] == "json_invalid" else 422, first["msg"], place=place)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        answer = _answer(error.status_code, str(error.detail), hint="GET /v1/openapi.json says what there is")
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Unknown)
    async def unknown(request: Request, error: Unknown) -> JSONResponse:
        return _answer(404, str(error), hint="GET /v1/sweeps lists the sweeps")

    @app.exception_handler(RunsSomethingElse)
    async def runs_something_else(request: Request, error: RunsSomethingElse) -> JSONResponse:
        return _answer(409, str(error), hint="ask again when it has ended, or cancel it first")

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> JSONResponse:
        answer = _answer(429, str(error), hint="try again in a few seconds")
        answer.headers["Retry-After"] = "5"
        return answer

    @app.exception_handler(OSError)
    async def storage(request: Request, error: OSError) -> JSONResponse:
        if error.errno not in NO_MORE_WRITES:
            raise error
        # Without the path: who submits need not know where the storage is.
        return _answer(503, f"the storage fails: {error.strerror}", hint="the operator of the service must see to it")

    for outage in (ClusterUnavailable, TrackingUnavailable):
        app.add_exception_handler(outage, _unreachable)


async def _unreachable(request: Request, error: Exception) -> JSONResponse:
    return _answer(503, str(error), hint="GET /v1/health tells whether the API itself is well")


def _answer(status: int, error: str, place: str | None = None, hint: str | None = None) -> JSONResponse:
    return JSONResponse(Problem(error=error, place=place, hint=hint).model_dump(), status_code=status)
