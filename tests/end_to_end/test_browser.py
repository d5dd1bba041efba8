"""What a browser shows at the address that `dft-sweeps ui` prints: the sweep's trials, and their curves, drawn."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dft_sweeps.orchestration.cluster import free_port
from dft_sweeps.tracking.reader import Reader, TrialRow
from dft_sweeps.tracking.writer import Tracker
from tests.end_to_end.running import heed_interrupts
from tests.report.synthetic_sweep import trials, write_sweep

HEADLINE = "eval/average/accuracy"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1800,1300", "--remote-debugging-port=0"]
"""Without a sandbox, since tests run as root in containers; the one page opened is the test's own."""
SEARCH = "document.querySelector('input[placeholder=\"Search metric charts\"]')"
ASSISTANT = """document.querySelector('[data-component-id="mlflow.assistant.chat_panel.close"]')"""
"""Closes the panel that MLflow opens on somebody's first visit."""
DOTS = "document.querySelectorAll('.js-plotly-plot .scatterlayer .point').length"
CHARTS = """[...document.querySelectorAll('.js-plotly-plot')].map(chart => ({
  axis: chart.layout.xaxis.title?.text,
  dots: chart.querySelectorAll('.scatterlayer .point').length,
  curves: chart.data.map(({name, x, y}) => [name, [...x].map((step, at) => [step, y[at]])]),
}))"""
"""What plotly was given, and how many dots it drew."""
ONE_BY_STEP = """(charts => {
  const found = charts.filter(chart => chart.axis === 'Step');
  return found.length === 1 && found;
})"""
TYPED_S = 40.0
"""Within which the page has drawn what is searched for."""


class Page:
    """One page of a running browser, by its DevTools protocol."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sent = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._sent += 1
        self._connection.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while (answer := json.loads(self._connection.recv(timeout=120))).get("id") != self._sent:
            pass  # an event
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str, again: Callable[[], object] = lambda: None, seconds: float = 240) -> Any:
        """Its value once it is one; until then, `again` is done now and then: what the page was told too early is
        lost."""
        end = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"never held: {expression}; the page says:\n{self.text()}"
            again()
            time.sleep(0.2)
        return found

    def text(self) -> str:
        return str(self.value("document.body.innerText"))

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


def pages(browser: Page) -> list[str]:
    """The targets that are pages; a browser that has just started has none yet."""
    return [each["targetId"] for each in browser.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]


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
        port_file, end = profile / "DevToolsActivePort", time.monotonic() + 120
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert browser.poll() is None and time.monotonic() < end, (tmp_path / "browser.log").read_text()
            time.sleep(0.1)
        port, path = port_file.read_text().split()
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as whole:
            while not (targets := pages(Page(whole))):
                assert time.monotonic() < end, (tmp_path / "browser.log").read_text()
                time.sleep(0.1)
        (target,) = targets
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
    port = free_port()
    command = [sys.executable, "-m", "dft_sweeps.cli.main", "ui", sweep, "--storage", str(storage), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


@pytest.mark.slow
def test_trials_of_another_experiment_are_drawn_among_mlflows_charts(storage: Path, page: Page, tmp_path: Path) -> None:
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    rows = reader.trials(reader.find_sweep("again"))
    with served("again", storage) as address:
        page.call("Page.navigate", url=address)
        page.until(f"{SEARCH} !== null")
        searched = f"{SEARCH}.value === '{HEADLINE}' && {DOTS} >= 6 * 7"
        (chart,) = page.until(f"{searched} && {ONE_BY_STEP}({CHARTS})", searching(page))
        text = page.text()
        page.screenshot(tmp_path / "page.png")
    assert [row.name for row in rows if row.name not in text] == []
    assert HEADLINE in text
    assert len(rows) == 6
    assert dict(chart["curves"]) == stored_curves(reader, rows, HEADLINE)
    assert chart["dots"] == 6 * 7


def searching(page: Page) -> Callable[[], None]:
    """Types the headline's name where charts are searched for, and anew where that came to nothing."""
    typed = -TYPED_S

    def again() -> None:
        nonlocal typed
        if page.value(f"{SEARCH}.value") != HEADLINE or time.monotonic() > typed + TYPED_S:
            page.value(f"{SEARCH}.focus(), {SEARCH}.select(), document.execCommand('delete')")
            page.call("Input.insertText", text=HEADLINE)
            typed = time.monotonic()

    return again


def stored_curves(reader: Reader, rows: list[TrialRow], key: str) -> dict[str, list[list[float]]]:
    """By trial, of seven points each."""
    curves = {row.name: [list(point) for point in reader.curve(row.run_id or "", key)] for row in rows}
    assert {len(points) for points in curves.values()} == {7}
    return curves


@pytest.mark.slow
def test_one_page_has_accuracy_by_step_and_by_what_is_swept(storage: Path, page: Page, tmp_path: Path) -> None:
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    rows = reader.trials(reader.find_sweep("quickstart"))
    with served("quickstart", storage) as address:
        page.call("Page.navigate", url=address)
        page.until(f"{ASSISTANT} !== null")
        charts = page.until(f"{DOTS} >= 3 * 6 * 7 + 6 && {CHARTS}", lambda: page.value(f"{ASSISTANT}?.click()"))
        text = page.text()
        page.screenshot(tmp_path / "page.png")
    assert [row.name for row in rows if row.name not in text] == []
    by_step = [dict(chart["curves"]) for chart in charts if chart["axis"] == "Step"]
    keys = [f"eval/{name}/accuracy" for name in ("average", "arithmetic_2", "arithmetic_3")]
    assert by_step[:3] == [stored_curves(reader, rows, key) for key in keys]
    (by_rate,) = [chart for chart in charts if chart["axis"] == "train.learning_rate"]
    last = sorted([float(row.params["train.learning_rate"]), row.metrics[HEADLINE]] for row in rows)
    assert sorted([float(rate), value] for _, points in by_rate["curves"] for rate, value in points) == last
    assert by_rate["dots"] == 6
    assert "Parallel Coordinates" in text
