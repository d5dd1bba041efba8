"""The sweep API on Ray Serve, behind Serve's own HTTP proxy on the cluster's head node.

Serve's HTTP options are the cluster's, and fixed by whoever starts Serve first: where somebody has, it is started anew
if nothing is on it.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
import urllib.request
from typing import Any
from urllib.error import URLError

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.schema import ApplicationStatus

from dft_sweeps import __version__
from dft_sweeps.orchestration.cluster import ClusterUnavailable
from services.api import ApiSettings, create_app
from services.api_guard import OPEN
from services.door import Door

APPLICATION = "sweep-api"
START_S = 30.0
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
_ON_HEAD = "node:__internal_head__"
"""A resource that every cluster's head node has, and no other."""


def deploy_api(settings: ApiSettings, door: Door) -> None:
    """Starts the API on the connected cluster, in place of one that is there, and waits until it answers.

    Raises:
        ClusterUnavailable: Serve listens elsewhere and is in use, or the API does not start; says why.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if not set(serve.status().applications) - {APPLICATION}:
        serve.shutdown()
    serve.start(proxy_location="HeadOnly", http_options=door.http_options(), logging_config=_QUIET)

    def build() -> FastAPI:  # Serve takes functions, and would call a `partial` for every request
        return create_app(settings)

    ingress: Any = serve.ingress(build)
    decorate: Any = serve.deployment
    deployment = decorate(ingress()).options(
        name="api",
        max_ongoing_requests=10_000,  # streams are requests that stay open
        ray_actor_options={"num_cpus": 0, "resources": {_ON_HEAD: 0.001}},
        logging_config=_QUIET,
    )
    try:
        serve.run(deployment.bind(), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        reason = _reason() or str(error)
        serve.delete(APPLICATION)
        raise ClusterUnavailable(f"the API does not start: {reason}") from error
    if on_head_node() and (silence := _silence(door)):
        others = sorted(set(serve.status().applications) - {APPLICATION})
        serve.delete(APPLICATION)
        reason = f". Ray Serve was started before, for {', '.join(others)}: start `serve` first" if others else ""
        raise ClusterUnavailable(f"nothing answers at {door.url} ({silence}){reason}")


def stop_api() -> None:
    """Takes the API down, and Serve with it where nothing else is on it."""
    if APPLICATION in serve.status().applications:
        serve.delete(APPLICATION)
    if not serve.status().applications:
        serve.shutdown()


def api_failure() -> str:
    """Why the API is not well; empty where it is."""
    application = serve.status().applications.get(APPLICATION)
    if application is None:
        return "somebody took it down"
    return "" if application.status == ApplicationStatus.RUNNING else f"{application.status}: {application.message}"


def on_head_node() -> bool:
    """Whether this process is on the cluster's head node, where jobs and the API run."""
    here = ray.get_runtime_context().get_node_id()
    return any(node["NodeID"] == here and _ON_HEAD in node["Resources"] for node in ray.nodes())


def _silence(door: Door) -> str:
    """Why the API is not what answers there; empty where it is."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # nothing is sent, and nothing believed
    no_proxy = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(no_proxy, urllib.request.HTTPSHandler(context=trusting))
    deadline = time.monotonic() + START_S
    while True:
        try:
            with opener.open(f"{door.local_url}{OPEN}", timeout=5) as answer:
                return "" if json.load(answer).get("version") == __version__ else "something else answers there"
        except (URLError, ConnectionError, TimeoutError, ValueError) as error:
            if time.monotonic() > deadline:
                return str(error)
            time.sleep(0.5)


def _reason() -> str:
    application = serve.status().applications.get(APPLICATION)
    deployment: Any = application.deployments.get("api") if application else None
    return (deployment.message if deployment else "") or (application.message if application else "")
