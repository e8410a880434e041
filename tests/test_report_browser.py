"""`report.html` from disk in a real browser: table, viewer, marks, no network requests, accessibility."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medhybrid
from medhybrid.steps.report import report
from medhybrid.steps.review_report import make_server
from tests.browser import chromium, expect_soon, needs_browser, serious_problems, watched_page
from tests.patience import wait_until
from tests.synthetic import StudyFolder, blob_case, save_nifti

pytestmark = needs_browser

SIDES = (("right", "left"), ("anterior", "posterior"), ("superior", "inferior"))


@pytest.fixture(scope="module")
def out(trained: tuple[StudyFolder, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder of five scans and one unreadable scan, with references of four."""
    folder = tmp_path_factory.mktemp("report")
    for n in range(20, 25):
        image, mask = blob_case(n, (48, 56, 30))
        save_nifti(folder / "scans" / f"scan_{n}.nii.gz", image)
        if n != 24:
            save_nifti(folder / "references" / f"scan_{n}.nii.gz", mask)
    (folder / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    medhybrid.predict(folder / "scans", model=trained[1], out=folder / "out")
    report(folder / "out", references=folder / "references")
    return folder / "out"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start headless Chromium."""
    with chromium() as opened:
        yield opened


def names(page: Any) -> list[str]:
    return page.eval_on_selector_all("#cases tbody tr:not([hidden])", "rows => rows.map(r => r.dataset.case)")


def drawn(page: Any, selector: str) -> np.ndarray:
    """Return the pixels of an element (rows, columns, 3)."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)


def n_coloured(page: Any, selector: str) -> int:
    """Count the coloured pixels of an element."""
    return int((np.ptp(drawn(page, selector), axis=2) > 25).sum())


def n_grey(page: Any, selector: str) -> int:
    """Count the grey pixels of an element that are not dark."""
    shown = drawn(page, selector)
    return int(((np.ptp(shown, axis=2) < 12) & (shown.mean(2) > 60)).sum())


def settled(page: Any, selector: str) -> list[np.ndarray]:
    """Return an element's pixels as a list of one item if two screenshots agree and a scan is shown; otherwise empty."""
    first, second = drawn(page, selector), drawn(page, selector)
    is_scan = (second.mean(2) > 60).sum() > 5000
    return [second] if is_scan and np.array_equal(first, second) else []


def test_the_table_sorts_and_filters(browser: Any, out: Path) -> None:
    with watched_page(browser) as watched:
        page = watched.page
        page.goto((out / "report.html").as_uri())
        watched.shoot("report")
        assert names(page)[0] == "broken", "scans without mask come first"

        page.click("th:has-text('left, ml') button")
        values = page.eval_on_selector_all("#cases tbody tr", "rows => rows.map(r => +r.cells[5].dataset.value)")
        assert values == sorted(values)
        page.click("th:has-text('left, ml') button")
        assert page.get_attribute("th:has-text('left, ml')", "aria-sort") == "descending"

        page.fill("#find", "scan_2")
        assert sorted(names(page)) == [f"scan_{n}" for n in range(20, 25)]
        page.fill("#find", "")
        page.select_option("#show", "failed")
        assert names(page) == ["broken"]
        assert watched.errors == []


def test_a_component_link_moves_the_crosshair_and_the_viewer_draws_scan_and_mask(browser: Any, out: Path) -> None:
    with watched_page(browser) as watched:
        page = watched.page
        page.goto((out / "report.html").as_uri())
        section = "section[data-case=scan_20]"
        page.click("tr[data-case=scan_20] a")  # the first click from the summary
        page.click(f"{section} .jump >> nth=0")  # the second
        expect_soon(page.locator(f"{section} .location")).to_contain_text("mm")
        first = page.inner_text(f"{section} .location")
        canvas = f"{section} .canvas"
        wait_until(lambda: n_coloured(page, canvas) > 500, "the mask drawn in its colour")
        wait_until(lambda: n_grey(page, canvas) > 5000, "the scan drawn")
        coloured = n_coloured(page, canvas)
        watched.shoot("report-viewer")

        page.locator(f"{section} .opacity").fill("0")
        wait_until(lambda: n_coloured(page, canvas) < coloured / 10, "the mask hidden")

        page.click(f"{section} .jump >> nth=1")
        expect_soon(page.locator(f"{section} .location")).not_to_have_text(first)
        centres = page.locator(f"{section} .lesions tbody td:last-child").all_inner_texts()
        told = page.inner_text(f"{section} .location").split(", ")
        for value, text, sides in zip(centres[1].split(","), told, SIDES, strict=False):
            assert abs(float(text.split(" mm")[0]) - abs(float(value))) <= 0.6
            assert sides[float(value) < 0] in text or abs(float(value)) < 1
        assert watched.errors == []
        assert {u.split(":")[0] for u in watched.requests} <= {"file", "data", "blob"}, "no network"


def test_another_case_opens_in_the_same_viewer(browser: Any, out: Path) -> None:
    with watched_page(browser) as watched:
        page = watched.page
        page.goto((out / "report.html").as_uri())
        pictures = []
        for case in ("scan_20", "scan_21"):
            page.click(f"section[data-case={case}] .open")
            expect_soon(page.locator(f"section[data-case={case}] .location")).to_contain_text("mm")
            canvas = f"section[data-case={case}] .canvas"
            pictures.extend(
                wait_until(lambda canvas=canvas: settled(page, canvas), "a scan drawn, and no longer changing")
            )  # type: ignore[misc]

        assert page.locator(".stage:visible").count() == 1
        for case in ("scan_22", "scan_23", "scan_22"):  # the second click comes while the first case still loads
            page.click(f"section[data-case={case}] .jump >> nth=0")
        page.evaluate("() => turn")  # they are shown one after the other; "mm" may still be of the first
        last = page.locator("section[data-case=scan_22]")
        expect_soon(last.locator(".location")).to_contain_text("mm")
        expect_soon(last.locator(".stage")).to_be_visible()
        centre = [float(v) for v in last.locator(".lesions tbody td:last-child").first.inner_text().split(",")]
        told = last.locator(".location").inner_text().split(", ")
        assert all(abs(float(t.split(" mm")[0]) - abs(v)) <= 0.6 for t, v in zip(told, centre, strict=False))
        assert page.locator(".stage:visible").count() == 1
        assert pictures[0].shape == pictures[1].shape
        assert (np.abs(pictures[0] - pictures[1]) > 20).mean() > 0.01
        assert watched.errors == []


def test_images_and_numbers_are_shown_without_javascript(browser: Any, out: Path) -> None:
    with watched_page(browser, java_script_enabled=False) as watched:
        watched.page.goto((out / "report.html").as_uri())

        assert watched.page.locator("section[data-case=scan_20] figure svg image").count() >= 4
        assert watched.page.locator(".script-only:visible").count() == 0
        picture = drawn(watched.page, "section[data-case=scan_20] .planes figure >> nth=0")
        assert (picture[..., 2] - picture[..., 0] > 60).sum() > 50, "the reference's contour is blue"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_problem(browser: Any, out: Path, scheme: str) -> None:
    with watched_page(browser, color_scheme=scheme) as watched:
        watched.page.goto((out / "report.html").as_uri())
        watched.page.click("section[data-case=scan_20] .open")
        expect_soon(watched.page.locator("section[data-case=scan_20] .location")).to_contain_text("mm")
        watched.shoot(f"report-{scheme}")

        assert serious_problems(watched.page) == []


def test_marks_stay_in_the_browser_and_are_downloaded(browser: Any, out: Path) -> None:
    with watched_page(browser) as watched:
        page = watched.page
        page.goto((out / "report.html").as_uri())
        page.fill("#reviewer", "AB")
        page.check("section[data-case=scan_21] input[value='to correct']")
        page.fill("section[data-case=scan_21] input[name=comment]", "left side")
        page.keyboard.press("Tab")
        page.reload()
        assert page.inner_text("tr[data-case=scan_21] .mark") == "to correct"
        with page.expect_download() as download:
            page.click("#download")

        marks = json.loads(Path(download.value.path()).read_text())
        sign = page.get_attribute("section[data-case=scan_21]", "data-of")
        assert marks["marks"]["scan_21"] | {"time": ""} == {
            "of": sign,
            "decision": "to correct",
            "comment": "left side",
            "reviewer": "AB",
            "time": "",
        }


def test_marks_are_saved_where_the_report_is_served(browser: Any, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "out")
    report(tmp_path / "out", layout="pages")
    server = make_server(tmp_path / "out", "key", "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with watched_page(browser) as watched:
        page = watched.page
        page.goto(f"http://127.0.0.1:{server.server_port}/?token={server.token}")
        page.click("tr[data-case=scan_22] a")
        page.check("section[data-case=scan_22] input[value=accepted]")
        page.click(".open")
        expect_soon(page.locator(".location")).to_contain_text("mm")
        page.click("nav a")
        expect_soon(page.locator("tr[data-case=scan_22] .mark")).to_have_text("accepted")
        assert watched.errors == []
    server.shutdown()
    server.server_close()

    assert json.loads((tmp_path / "out" / "review.json").read_text())["marks"]["scan_22"]["decision"] == "accepted"
