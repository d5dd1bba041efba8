"""What a browser shows at the address that `dft-sweeps ui` prints: the sweep's trials, and their curves, drawn."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Tracker
from tests.end_to_end.running import heed_interrupts
from tests.report.synthetic_sweep import trials, write_sweep

HEADLINE = "eval/average/accuracy"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--remote-debugging-port=0"]
"""Without a sandbox, since tests run as root in containers; the one page opened is the test's own."""
SEARCH = "document.querySelector('input[placeholder=\"Search metric charts\"]')"
DOTS = "document.querySelectorAll('.js-plotly-plot .scatterlayer .point').length"
CHARTS = """[...document.querySelectorAll('.js-plotly-plot')].map(chart => ({
  axis: chart.layout.xaxis.title.text,
  dots: chart.querySelectorAll('.scatterlayer .point').length,
  curves: chart.data.map(({name, x, y}) => [name, [...x].map((step, at) => [step, y[at]])]),
}))"""
"""What plotly was given, and how many dots it drew."""


class Page:
    """One page of a running browser, by its DevTools protocol."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sent = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._sent += 1
        self._connection.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while (answer := json.loads(self._connection.recv(timeout=30))).get("id") != self._sent:
            pass  # an event
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str, seconds: float = 30) -> Any:
        end = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"never held: {expression}; the page says:\n{self.text()}"
            time.sleep(0.2)
        return found

    def text(self) -> str:
        return str(self.value("document.body.innerText"))

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    from websockets.sync.client import connect

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    profile = tmp_path / "profile"
    with (tmp_path / "browser.log").open("wb") as log:
        browser = subprocess.Popen(
            [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=log, stderr=log
        )
    try:
        port_file, end = profile / "DevToolsActivePort", time.monotonic() + 30
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert browser.poll() is None and time.monotonic() < end, (tmp_path / "browser.log").read_text()
            time.sleep(0.1)
        port, path = port_file.read_text().split()
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as whole:
            targets = Page(whole).call("Target.getTargets")["targetInfos"]
        (target,) = (each["targetId"] for each in targets if each["type"] == "page")
        with connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", max_size=None) as own:
            yield Page(own)
    finally:
        browser.terminate()
        browser.wait()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of six trials, and one in an experiment of its own that has the same trials and ran none of them."""
    storage = tmp_path_factory.mktemp("storage")
    tracker = Tracker(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts"))
    write_sweep(tracker)
    tracker.finish(tracker.open_sweep("again", "s-fedcba9876543210", "name: again\n", trials(), "m"), "FINISHED")
    return storage


@contextmanager
def served(sweep: str, storage: Path) -> Iterator[str]:
    """The address that `dft-sweeps ui` prints, while it serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dft_sweeps.cli.main", "ui", sweep, "--storage", str(storage), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["quickstart", "again"])
def test_the_printed_address_draws_the_curves_in_mlflow(sweep: str, storage: Path, page: Page, tmp_path: Path) -> None:
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    rows = reader.trials(reader.find_sweep(sweep))
    with served(sweep, storage) as address:
        page.call("Page.navigate", url=address)
        page.until(f"{SEARCH} !== null")
        page.value(f"{SEARCH}.focus()")
        page.call("Input.insertText", text=HEADLINE)
        page.until(f"{SEARCH}.value === '{HEADLINE}' && {DOTS} > 0")
        (chart,) = page.value(CHARTS)
        text = page.text()
        page.screenshot(tmp_path / "page.png")
    assert [row.name for row in rows if row.name not in text] == []
    assert HEADLINE in text
    stored = {row.name: [list(point) for point in reader.curve(row.run_id or "", HEADLINE)] for row in rows}
    assert len(stored) == 6 and {len(points) for points in stored.values()} == {7}
    assert dict(chart["curves"]) == stored
    assert (chart["axis"], chart["dots"]) == ("Step", 6 * 7)
