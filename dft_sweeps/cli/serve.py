"""`dft-sweeps serve`: the sweep API on a cluster, with a tracking server where none is given, until Ctrl-C.

What it brings up, it takes down. Sweeps on a cluster of its own are stopped with it and can be taken up again; those on
somebody's cluster go on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dft_sweeps.cli.options import resolve_tracking_uri, storage_option, tracking_uri_option, writable_storage
from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from services.allowed import Limits
    from services.api import ApiSettings
    from services.door import Door

LOOK_S = 2.0


@click.command()
@click.option("--address", help="Ray cluster to serve, e.g. auto. [default: one started on this machine]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(1, 65535), default=8700, show_default=True, help="Port of the API.")
@click.option(
    "--mlflow-port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port of MLflow's server."
)
@storage_option
@tracking_uri_option
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the token that clients need. [default: DFT_SWEEPS_TOKEN, or one made in --storage]",
)
@click.option("--tls-certificate", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="For HTTPS.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="For HTTPS.")
@click.option(
    "--allow-path",
    "paths",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory whose files and models specs may name, beside --storage; may be repeated.",
)
@click.option("--allow-hub", is_flag=True, help="Let specs name models and datasets of the Hugging Face hub.")
@click.option("--most-trials", type=click.IntRange(min=1), default=256, show_default=True, help="Of one sweep.")
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Sweeps that run at a time; others wait for their turn.",
)
@click.option(
    "--warm",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Spec whose evaluation engines are kept running for all sweeps with equal `pool` and model.",
)
def command(
    address: str | None,
    host: str,
    port: int,
    mlflow_port: int,
    storage: Path,
    tracking_uri: str | None,
    token_file: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    paths: tuple[Path, ...],
    allow_hub: bool,
    most_trials: int,
    at_once: int,
    warm: Path | None,
) -> None:
    """Serve sweeps: an HTTP API to submit and steer them, until Ctrl-C.

    Starts a Ray cluster on this machine, or joins the one at --address, whose head node this machine must
    then be unless --tracking-uri names a server that the head node reaches. Where no tracking server is
    configured, MLflow's is started on the storage's own database. --storage must be a directory that all
    nodes share.

    Sweeps run in the order in which they are submitted, --at-once of them at a time. Each takes as much of the
    cluster as it can use: more than one at a time need a cluster with room for all their engines and for a
    trial of each, and specs that say execution.max_concurrent_trials.

    Clients (submit, list, status, logs, cancel) send a token. Without TLS it travels in the clear: keep to
    loopback, or give --tls-certificate and --tls-key.

    Code that a model brings with it is run only where DFT_SWEEPS_TRUST_REMOTE_CODE names the model: its directory or
    id on the hub; several with commas. At --address, the cluster must have been started with it.

    \b
    Example:
      dft-sweeps serve
      dft-sweeps serve --address auto --storage /shared/sweeps --allow-path /shared/data --allow-hub
    """
    from dft_sweeps.orchestration.cluster import set_environment
    from services.allowed import Limits
    from services.door import Door

    if (tls_certificate is None) != (tls_key is None):
        raise SpecError("both are needed for HTTPS", "--tls-certificate --tls-key")
    door = Door(host, port, tls_certificate and tls_certificate.resolve(), tls_key and tls_key.resolve())
    storage = writable_storage(storage)
    token = _token(storage, token_file)
    if not door.is_local and tls_certificate is None:
        click.echo(f"WARNING: {door.url} is no HTTPS: whoever sees the traffic sees the token", err=True)
    _check_ports(address, door, tracking_uri, mlflow_port)
    limits = Limits(
        paths=(str(storage), *(str(path.resolve()) for path in paths)),
        forbidden=(str(storage / "service"),),
        hub=allow_hub,
        trials=most_trials,
        at_once=at_once,
    )
    set_environment(address)
    with _terminated_politely(), _tracking(storage, tracking_uri, mlflow_port) as (uri, look):
        _serve(address, door, storage, uri, look, token, limits, warm)


def _serve(
    address: str | None,
    door: Door,
    storage: Path,
    uri: str,
    look: Callable[[], None],
    token: str,
    limits: Limits,
    warm: Path | None,
) -> None:
    """Args: `look`: to be called now and then (`_tracking`)."""
    from dft_sweeps.cli.spec_check import check_spec, trials_progress
    from dft_sweeps.cli.warm_pool import warm_pool
    from dft_sweeps.orchestration.cluster import cluster, cluster_facts
    from dft_sweeps.orchestration.interrupts import uninterrupted
    from services.api import ApiSettings
    from services.api_guard import digest_of
    from services.api_server import deploy_api, stop_api
    from services.jobs import OPEN_JOBS, asks_for_token
    from services.local_cluster import local_cluster
    from services.service_files import write_tracking

    write_tracking(storage, uri)
    click.echo("starting Ray" if address is None else f"connecting to Ray at {address}")
    own = local_cluster(storage) if address is None else contextlib.nullcontext(address)
    with own as ray_address, cluster(ray_address):
        _check_place(address, uri)
        if address is not None and not asks_for_token(_gcs()):
            click.echo(f"WARNING: {OPEN_JOBS}", err=True)
        settings = ApiSettings(storage, digest_of(token), check_spec, trials_progress, limits, cluster_facts, _gcs())
        try:
            click.echo("starting the API")
            deploy_api(settings, door)
            with warm_pool(warm, click.echo):
                _announce(door, uri, storage)
                _stay(look)
        except KeyboardInterrupt:
            click.echo("ending", err=True)
        finally:
            with uninterrupted(), contextlib.ExitStack() as ending:  # the last callback first, and all of them
                if address is None:
                    ending.callback(_stop_jobs, settings)
                ending.callback(stop_api)  # before jobs end: it would start those that wait
                if address is not None:
                    _say_what_goes_on(settings, uri)


def _token(storage: Path, given: Path | None) -> str:
    from services.service_files import (
        TOKEN_VARIABLE,
        checked_token,
        made_token,
        read_token,
        service_directory,
        token_file,
    )

    service_directory(storage)
    if given is not None:
        click.echo(f"token: in {given}")
        return read_token(given)
    if token := os.environ.pop(TOKEN_VARIABLE, None):  # what is started here need not know it
        click.echo(f"token: from {TOKEN_VARIABLE}")
        return checked_token(token, TOKEN_VARIABLE)
    click.echo(f"token: in {token_file(storage)}")
    return made_token(storage)


def _check_ports(address: str | None, door: Door, tracking_uri: str | None, mlflow_port: int) -> None:
    from dft_sweeps.cli.ui import port_error
    from dft_sweeps.orchestration.cluster import free_port

    ports = {"--port": door.port} if address is None else {}
    if tracking_uri is None:
        ports["--mlflow-port"] = mlflow_port
    for option, port in ports.items():
        if reason := port_error(port):
            raise SpecError(f"port {port} cannot be used ({reason}); port {free_port()} is free", option)


@contextlib.contextmanager
def _tracking(storage: Path, tracking_uri: str | None, port: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """The tracking server's URI, of the one given or one that runs for the block, and what sees to it that that one
    stays up."""
    from services.tracking_server import HOST, kept_tracking_server

    if tracking_uri:
        yield tracking_uri, lambda: None
        return
    click.echo("starting MLflow's server")
    with kept_tracking_server(resolve_tracking_uri(storage, None), storage, port, click.echo) as look:
        yield f"http://{HOST}:{port}", look


def _check_place(address: str | None, uri: str) -> None:
    from services.api_server import on_head_node

    if address is not None and "//127.0.0.1:" in uri and not on_head_node():
        raise SpecError(
            "this machine is not the head node of the cluster, where sweeps run, and MLflow's server here listens on "
            "loopback: run `serve` on the head node, or give a server that it reaches",
            "--tracking-uri",
        )


def _gcs() -> str:
    import ray

    address: str = ray.get_runtime_context().gcs_address
    return address


def _announce(door: Door, uri: str, storage: Path) -> None:
    from dft_sweeps.tracking.store import masked
    from services.jobs import dashboard_url

    click.echo(f"API:            {door.local_url}")
    click.echo(f"OpenAPI schema: {door.local_url}/v1/openapi.json (asks for the token)")
    click.echo(f"MLflow:         {masked(uri)}")
    click.echo(f"Ray dashboard:  {dashboard_url(_gcs())}")
    click.echo(f"Submit with:    dft-sweeps submit SPEC --server {door.local_url} --storage {storage}")
    click.echo("Ctrl-C ends it.")


def _stay(look: Callable[[], None]) -> None:
    """Returns never; raises once the API is not well, which Serve mends by itself in most cases, or `look` does."""
    from dft_sweeps.orchestration.cluster import ClusterUnavailable
    from services.api_server import api_failure

    failed_since = None
    while True:
        time.sleep(LOOK_S)
        look()
        failure = api_failure()
        failed_since = (failed_since or time.monotonic()) if failure else None
        if failed_since and time.monotonic() - failed_since > 120:
            raise ClusterUnavailable(f"the API is down: {failure}")


def _stop_jobs(settings: ApiSettings) -> None:
    """Ends the sweeps that run on a cluster of our own, so that their runs do not stay RUNNING."""
    from services.jobs import SweepJobs

    jobs = SweepJobs(settings.ray_address, settings.storage)
    running = [job for job in jobs.started() if not job.ended]
    for job in running:
        click.echo(f"stopping {job.submission_id}; submit its spec again to take it up", err=True)
    jobs.stop_all(running)


def _say_what_goes_on(settings: ApiSettings, uri: str) -> None:
    from services.jobs import SweepJobs

    jobs = SweepJobs(settings.ray_address, settings.storage)
    running = [job.submission_id for job in jobs.started() if not job.ended]
    if running:
        lost = ", without MLflow's server, until `serve` runs again" if "//127.0.0.1:" in uri else ""
        click.echo(f"still running on the cluster{lost}: {', '.join(running)}", err=True)


@contextlib.contextmanager
def _terminated_politely() -> Iterator[None]:
    """Until Ray's own connection sets its handlers, a polite kill ends this as Ctrl-C does."""
    from dft_sweeps.orchestration.cluster import heed_interrupts

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    heed_interrupts()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
