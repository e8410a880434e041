"""The MLflow UI on a run, as a person sees it: curves drawn, pictures with a step slider, the model registered."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medhybrid.tracking.mlflow_store import default_uri
from tests.servers import PATIENCE_S, answers, free_port, until
from tests.synthetic import StudyFolder

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        shutil.which("chromium") is None or shutil.which("chromedriver") is None,
        reason="Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def server(trained: tuple[StudyFolder, Path]) -> Iterator[str]:
    """`medhybrid review` on the store of the trained study; ends cleanly on Ctrl-C."""
    port = free_port()
    command = [sys.executable, "-m", "medhybrid", "review", "--runs", str(trained[0].config.runs), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = f"http://127.0.0.1:{port}"
    until(lambda: answers(address))
    yield address
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert address in shown
    assert not answers(address), "the server ends with the command"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,1500"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    yield driver
    driver.quit()


def run_page(server: str, runs: str) -> str:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=default_uri(Path(runs)))
    experiment = client.get_experiment_by_name("blobs")
    run = client.search_runs([experiment.experiment_id])[0]
    return f"{server}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"


def scroll_to_end(browser: Any) -> None:
    browser.execute_script(
        "for (const e of document.querySelectorAll('div'))"
        " if (e.scrollHeight > e.clientHeight + 100 && getComputedStyle(e).overflowY != 'visible')"
        " e.scrollTop = e.scrollHeight"
    )


@pytest.mark.parametrize("header", ["Host", "Origin"])
def test_another_host_or_origin_is_refused(server: str, header: str) -> None:
    """A page in the same browser must not reach the store by a name that leads to this machine."""
    asked = urllib.request.Request(f"{server}/api/2.0/mlflow/experiments/create", b'{"name": "x"}')
    asked.add_header("Content-Type", "application/json")
    asked.add_header(header, "evil.example" if header == "Host" else "http://evil.example")

    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked, timeout=20)


def test_curves_are_drawn_and_pictures_have_a_step_slider(
    server: str, browser: Any, trained: tuple[StudyFolder, Path]
) -> None:
    browser.get(run_page(server, trained[0].config.runs) + "/model-metrics")

    assert until(lambda: browser.find_elements("css selector", ".js-plotly-plot"))
    until(lambda: scroll_to_end(browser) or browser.find_elements("css selector", "[role=slider]"))
    pictures = until(lambda: [i for i in browser.find_elements("css selector", "img") if i.size["width"] > 100])
    width = browser.execute_script("return arguments[0].naturalWidth", pictures[0])
    assert width > 100, "the picture was loaded, not only framed"
    assert "validation/case_07" in browser.find_element("css selector", "body").text


def test_the_model_is_registered_under_its_alias(server: str, browser: Any) -> None:
    browser.get(f"{server}/#/models/blobs")

    until(lambda: "newest" in browser.find_element("css selector", "body").text)
    assert "Version 1" in browser.find_element("css selector", "body").text


def test_the_overview_tells_parameters_and_data(server: str, browser: Any, trained: tuple[StudyFolder, Path]) -> None:
    browser.get(run_page(server, trained[0].config.runs))

    text = until(lambda: (t := browser.find_element("css selector", "body").text) and "network.kind" in t and t)
    assert "medhybrid.code" in text
    assert "blobs-fold0-" in text
