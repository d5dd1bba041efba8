"""Ray's client for jobs, with a bound on how long it waits for an answer. Imports Ray."""

from __future__ import annotations

from typing import Any

import requests
from ray.job_submission import JobSubmissionClient

ANSWER_S = 30.0
"""Longest silence of the dashboard. Calls are made under locks, and one without an end would hold up every other."""


class BoundedClient(JobSubmissionClient):
    """Ray passes no timeout to `requests`, and without one that waits for ever; so all calls get one here, the
    constructor's too. Raises `requests.Timeout` when it is over."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        answer: requests.Response = super()._do_request(method, endpoint, **{"timeout": ANSWER_S} | options)
        return answer
