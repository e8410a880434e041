"""The MLflow UI of a run in a browser: curves, figures with a step slider, the registered model."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medhybrid.tracking.mlflow_store import default_uri
from medhybrid.tracking.mlflow_ui import experiment_page
from tests.browser import SCREENSHOTS, chromium, needs_browser, watched_page
from tests.patience import patience_s, wait_until
from tests.servers import answers, free_port
from tests.synthetic import StudyFolder

pytestmark = needs_browser


@pytest.fixture(scope="module")
def server(trained: tuple[StudyFolder, Path]) -> Iterator[str]:
    """Run `medhybrid review` on the store of the trained study; it ends cleanly on Ctrl-C."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "medhybrid",
        "review",
        "--runs",
        str(trained[0].config.runs),
        "--port",
        str(port),
        "--no-browser",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(address), "an answer of the MLflow UI", process=process)
    yield address
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=patience_s())
    assert process.returncode == 0
    assert address in shown
    assert not answers(address), "the server ends with the command"


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """Open a page of headless Chromium."""
    with chromium() as browser, watched_page(browser, width=1600, height=1500) as watched:
        yield watched.page


def run_page(server: str, runs: str) -> str:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=default_uri(Path(runs)))
    experiment = client.get_experiment_by_name("blobs")
    run = client.search_runs([experiment.experiment_id])[0]
    return f"{server}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"


ALL_IMAGES = "[...document.images].map((i) => i.src)"
LARGE_IMAGES = "[...document.images].filter((i) => i.width > 100 && i.naturalWidth > 100).map((i) => i.src)"


def body_of(page: Any) -> str:
    """Return the visible text of a page."""
    return str(page.inner_text("body"))


def report_frame(page: Any) -> Any:
    """Return the frame of the report when its scripts are loaded and handle clicks; None before."""
    from playwright.sync_api import Error

    for frame in page.frames:
        try:
            is_ready = frame.evaluate("document.readyState === 'complete' && document.querySelector('#cases') !== null")
        except Error:  # MLflow has replaced the frame meanwhile
            continue
        if is_ready:
            return frame
    return None


LATER_S = 10.0
"""Time after which a viewer that did not open is clicked again: MLflow may have replaced its frame meanwhile."""


def location_in(page: Any) -> str:
    """Return the position that the first viewer of the report displays; empty before it is opened."""
    frame = report_frame(page)
    return "" if frame is None else frame.text_content(".location >> nth=0") or ""


def frame_with_viewer(page: Any, clicked: list[float]) -> Any:
    """Open the first viewer, again if its frame was replaced; return the frame when it displays a position."""
    frame = report_frame(page)
    if frame is None:
        return None
    location = location_in(page)
    if not location and (not clicked or time.monotonic() - clicked[-1] > LATER_S):
        clicked.append(time.monotonic())
        frame.click("section.case .open >> nth=0")
    return frame if "mm" in location else None


def scroll_to_end(page: Any) -> None:
    page.evaluate(
        "for (const e of document.querySelectorAll('div'))"
        " if (e.scrollHeight > e.clientHeight + 100 && getComputedStyle(e).overflowY != 'visible')"
        " e.scrollTop = e.scrollHeight"
    )


@pytest.mark.parametrize("header", ["Host", "Origin"])
def test_another_host_or_origin_is_refused(server: str, header: str) -> None:
    """A page in the same browser must not reach the store through a host name that resolves to this computer."""
    asked = urllib.request.Request(f"{server}/api/2.0/mlflow/experiments/create", b'{"name": "x"}')
    asked.add_header("Content-Type", "application/json")
    asked.add_header(header, "evil.example" if header == "Host" else "http://evil.example")

    with pytest.raises(urllib.error.HTTPError, match="403") as refusal:
        urllib.request.urlopen(asked, timeout=patience_s())
    refusal.value.close()


def test_curves_are_drawn_and_figures_have_a_step_slider(
    server: str, page: Any, trained: tuple[StudyFolder, Path]
) -> None:
    page.goto(run_page(server, trained[0].config.runs) + "/model-metrics")

    page.wait_for_selector(".js-plotly-plot")
    wait_until(lambda: scroll_to_end(page) or page.query_selector("[role=slider]"), "a step slider")
    wait_until(lambda: page.evaluate(LARGE_IMAGES), "an image that was loaded, not only framed")
    assert "validation/case_07" in page.inner_text("body")
    before = set(page.evaluate(LARGE_IMAGES))
    slider = page.locator("[role=slider]").first
    step = slider.get_attribute("aria-valuenow")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    wait_until(lambda: slider.get_attribute("aria-valuenow") != step, "the slider at another step")
    wait_until(lambda: set(page.evaluate(ALL_IMAGES)) - before, "the image of another step")


def test_the_model_is_registered_under_its_alias(server: str, page: Any) -> None:
    page.goto(f"{server}/#/models/blobs")

    wait_until(lambda: "newest" in body_of(page) and "Version 1" in body_of(page), "the alias and version of the model")


def test_the_overview_shows_parameters_and_data(server: str, page: Any, trained: tuple[StudyFolder, Path]) -> None:
    page.goto(run_page(server, trained[0].config.runs))

    for text in ("network.kind", "medhybrid.code", "blobs-fold0-"):
        wait_until(lambda text=text: text in body_of(page), text, found=lambda: body_of(page))  # type: ignore[misc]


def test_the_report_is_shown_inside_the_ui(server: str, page: Any, trained: tuple[StudyFolder, Path]) -> None:
    """MLflow shows the report in a frame that may only run scripts; the table, images and viewer still work."""
    page.goto(run_page(server, trained[0].config.runs) + "/artifacts/report.html")

    frame = wait_until(lambda: report_frame(page), "the report in its frame")
    wait_until(lambda: frame.locator("#cases tbody tr").count() == 3, "the table of three cases")
    clicked: list[float] = []
    frame = wait_until(
        lambda: frame_with_viewer(page, clicked), "a position in the viewer", found=lambda: location_in(page)
    )
    frame.check("section.case form.review input[value=accepted] >> nth=0")  # the page's own script runs there, too
    wait_until(lambda: "accepted" in (frame.text_content("#cases") or ""), "the mark in the table")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "mlflow-report.png")


def test_review_opens_the_experiment_with_the_columns_that_matter(
    server: str, page: Any, trained: tuple[StudyFolder, Path]
) -> None:
    page.goto(f"{server}/{experiment_page(default_uri(Path(trained[0].config.runs)))}")

    for text in ("network.kind", "final/val/dice", "Models"):
        wait_until(lambda text=text: text in body_of(page), text, found=lambda: body_of(page))  # type: ignore[misc]
    page.screenshot(path=SCREENSHOTS / "mlflow-runs.png")
