"""`report.html` from disk in a real browser: table, viewer, marks, no network requests, accessibility.

The tests of the report from disk share one page, in the order of a review: software rendering makes each page expensive.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medhybrid.geometry import Grid
from medhybrid.inference.records import Prediction, Records
from medhybrid.metrics import score_case
from medhybrid.review.report import CaseView, ReportInfo, VolumeView, write_report
from medhybrid.review.report.views import Size
from medhybrid.steps.review_report import make_server
from tests.browser import Watched, chromium, expect_soon, needs_browser, serious_problems, watched_page
from tests.patience import wait_until
from tests.synthetic import AFFINE, blob_case

pytestmark = needs_browser

LABELS = {"left": 1, "right": 4}
SIDES = {
    "right": (0, 1),
    "left": (0, -1),
    "anterior": (1, 1),
    "posterior": (1, -1),
    "superior": (2, 1),
    "inferior": (2, -1),
}
POOR, DOUBTFUL, GOOD = "scan_3", "scan_1", "scan_0"
CLOSED = "section.case:not(.viewing)"
FIRST = f"section[data-case={GOOD}]"


def case_view(number: int, sign: str = "") -> CaseView:
    """Return a case with a reference: its prediction moved by two voxels, or by far for a poor one."""
    image, prediction = blob_case(number, (48, 56, 30))
    reference = np.roll(prediction, 20 if number == 3 else 2, axis=1)
    grid = Grid(image.shape, AFFINE)
    sizes = {n: Size(float((prediction == v).sum()) * grid.voxel_ml, 1, 10.0) for n, v in LABELS.items()}
    is_doubtful = number == 1
    return CaseView(
        f"scan_{number}",
        "done",
        message="the spacing is unlike that of the training scans" if is_doubtful else "",
        sign=sign or f"sign {number}",
        verdict="needs review" if is_doubtful else "confident",
        score=0.95 - 0.01 * number,
        sizes=sizes,
        scores=tuple(score_case(f"scan_{number}", prediction, reference, LABELS, grid)),
        volume=VolumeView.from_scan(image, prediction, reference, grid, channel="FLAIR", others={"T1": 2000 - image}),
        mask_path=f"masks/scan_{number}.nii.gz",
        scan_path=f"../scans/scan_{number}.nii.gz",
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with the report of four scans and of one without mask."""
    folder = tmp_path_factory.mktemp("report")
    views = [case_view(n) for n in range(4)] + [CaseView("broken", "failed", message="not readable as NIfTI")]
    write_report(folder, ReportInfo("demo", LABELS, {"model": "test"}, key="key", folder="out"), views, len(views))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start headless Chromium."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def watched(browser: Any, out: Path) -> Iterator[Watched]:
    """Open the report from disk in a window of 1366 x 768; it must log no error and load nothing from the network."""
    with watched_page(browser, height=768) as opened:
        opened.page.goto((out / "report.html").as_uri())
        yield opened
        assert opened.errors == []
        assert {u.split(":")[0] for u in opened.requests} <= {"file", "data", "blob"}, "no network"


@pytest.fixture(scope="module")
def page(watched: Watched) -> Any:
    """Return the page of the report."""
    return watched.page


def names(page: Any) -> list[str]:
    return page.eval_on_selector_all("#cases tbody tr:not([hidden])", "rows => rows.map(r => r.dataset.case)")


def drawn(page: Any, selector: str) -> np.ndarray:
    """Return the pixels of an element (rows, columns, 3)."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)


def orange(pixels: np.ndarray) -> np.ndarray:
    """Return where pixels have the colour of the first label."""
    return (pixels[..., 0] - pixels[..., 2] > 60) & (pixels[..., 0] > pixels[..., 1])


def blue(pixels: np.ndarray) -> np.ndarray:
    """Return where pixels have the colour of the reference."""
    return pixels[..., 2] - pixels[..., 0] > 60


def open_viewer(page: Any, section: str = FIRST, component: int = 0) -> None:
    """Open a scan in the viewer by a click on one of its components, and wait until it is shown."""
    page.click(f"{section} .jump >> nth={component}")
    expect_soon(page.locator(f"{section} .location")).to_contain_text("mm")
    wait_until(lambda: (drawn(page, f"{section} .canvas").mean(2) > 60).sum() > 3000, "the scan drawn")


def position_mm(page: Any, section: str = FIRST) -> np.ndarray:
    """Return the position of the crosshair in RAS mm, as the viewer states it."""
    mm = np.zeros(3)
    for value, side in re.findall(r"([\d.]+) mm (\w+)", page.inner_text(f"{section} .location")):
        axis, sign = SIDES[side]
        mm[axis] = sign * float(value)
    return mm


def box_of(page: Any, selector: str) -> dict[str, float]:
    return page.locator(selector).first.bounding_box()


def is_in_window(page: Any, selector: str) -> bool:
    """Return whether an element is completely in the window."""
    box, size = box_of(page, selector), page.evaluate("() => [innerWidth, innerHeight]")
    return bool(
        box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= size[0] and box["y"] + box["height"] <= size[1]
    )


# --- the table of scans -----------------------------------------------------------------------------------------------


def test_the_table_sorts_filters_and_shows_a_low_dice_in_red(page: Any, watched: Watched) -> None:
    watched.shoot("report")
    assert names(page) == ["broken", POOR, DOUBTFUL, "scan_2", GOOD], "no mask, needs review, lowest confidence"
    poor = page.locator(f"tr[data-case={POOR}] .poor")
    red, green, blue_part = (int(v) for v in re.findall(r"\d+", poor.evaluate("e => getComputedStyle(e).color")))
    assert red > 2 * max(green, blue_part)
    assert "below 0.5" in page.inner_text(f"tr[data-case={POOR}] .remark")
    assert "unlike" in page.inner_text(f"section[data-case={DOUBTFUL}] .message")

    page.click("th:has-text('left, ml') button")
    values = page.eval_on_selector_all("#cases tbody tr", "rows => rows.map(r => +r.cells[5].dataset.value)")
    assert values == sorted(values)
    page.click("th:has-text('left, ml') button")
    assert page.get_attribute("th:has-text('left, ml')", "aria-sort") == "descending"

    for choice, n in (("look", 2), ("failed", 1), ("found", 4), ("empty", 0), ("unmarked", 4), ("", 5)):
        page.select_option("#show", choice)
        assert len(names(page)) == n, choice
    page.fill("#find", "scan_2")
    assert names(page) == ["scan_2"]
    page.fill("#find", "")


# --- the viewer -------------------------------------------------------------------------------------------------------


def test_a_component_opens_the_viewer_with_image_list_and_review_in_one_view(page: Any) -> None:
    open_viewer(page)

    for part in (".canvas", ".lesions", ".measures", ".review", ".location", "h2"):
        assert is_in_window(page, f"{FIRST} {part}"), part
    canvas, panel = box_of(page, f"{FIRST} .canvas"), box_of(page, f"{FIRST} .panel")
    assert canvas["x"] + canvas["width"] <= panel["x"]
    assert canvas["height"] > 400
    assert canvas["width"] > 800
    assert box_of(page, f"{FIRST} .montage")["y"] > canvas["y"] + canvas["height"], "small slices are below"
    for component in (0, 1):
        page.click(f"{FIRST} .jump >> nth={component}")
        centre = page.locator(f"{FIRST} .lesions tbody td:last-child").nth(component).inner_text()
        expected = [float(v) for v in centre.split(",")]
        wait_until(lambda e=expected: np.abs(position_mm(page) - e).max() <= 0.6, "the crosshair at the component")


def test_contours_of_mask_and_reference_are_thin_lines_around_them(page: Any) -> None:
    """Compare the lines with the filled mask: the same extent, within a voxel, and a width of one to three pixels."""
    canvas = f"{FIRST} .canvas"
    page.click(f"{FIRST} .jump >> nth=0")
    page.select_option(f"{FIRST} .layout", "0")
    page.uncheck(f"{FIRST} .crosshair")
    page.uncheck(f"{FIRST} .show-reference")
    lines = orange(drawn(page, canvas))
    assert lines.sum() > 50
    page.check(f"{FIRST} .show-reference")
    page.uncheck(f"{FIRST} .show-prediction")
    assert blue(drawn(page, canvas)).sum() > 50, "the reference"
    assert not orange(drawn(page, canvas)).any()
    page.uncheck(f"{FIRST} .show-reference")
    page.locator(f"{FIRST} .opacity").fill("1")
    wait_until(lambda: orange(drawn(page, canvas)).sum() > 4 * lines.sum(), "the mask filled")
    filled = orange(drawn(page, canvas))
    page.locator(f"{FIRST} .opacity").fill("0")

    places = [np.argwhere(p) for p in (lines, filled)]
    for edge in (np.min, np.max):
        assert np.abs(edge(places[0], axis=0) - edge(places[1], axis=0)).max() <= 3
    widest = ndimage.distance_transform_edt(lines).max()
    assert widest <= 2, "half of the width of a line"
    centre = filled & (ndimage.distance_transform_edt(filled) > 6)
    assert not (lines & centre).any(), "nothing is filled"


def test_the_window_follows_a_right_drag_a_preset_a_channel_and_reset(page: Any) -> None:
    canvas, low, high = f"{FIRST} .canvas", f"{FIRST} .low", f"{FIRST} .high"
    page.click(f"{FIRST} .reset")
    first = [float(page.input_value(x)) for x in (low, high)]
    before = drawn(page, canvas)
    box = box_of(page, canvas)
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 600, box["y"] + 200, steps=3)
    page.mouse.up(button="right")

    dragged = [float(page.input_value(x)) for x in (low, high)]
    assert dragged[1] - dragged[0] == pytest.approx(2 * (first[1] - first[0]), rel=0.01), "300 pixels double the width"
    assert sum(dragged) == pytest.approx(sum(first), abs=2)
    assert page.input_value(f"{FIRST} .preset") == "", "as set"
    wait_until(lambda: np.abs(drawn(page, canvas) - before).mean() > 3, "another window")
    page.select_option(f"{FIRST} .preset", label="all values")
    assert float(page.input_value(low)) == 0
    place, value = position_mm(page), int(re.search(r"value (\d+)", page.inner_text(f"{FIRST} .location"))[1])
    page.select_option(f"{FIRST} .channels", label="T1")
    expect_soon(page.locator(f"{FIRST} .location")).to_contain_text(f"value {2000 - value},")
    assert (position_mm(page) == place).all()
    wait_until(lambda: (drawn(page, canvas) > 150).sum() > 3 * (before > 150).sum(), "air is bright in T1")
    page.select_option(f"{FIRST} .channels", label="FLAIR")
    expect_soon(page.locator(f"{FIRST} .location")).to_contain_text(f"value {value},")
    page.click(f"{FIRST} .reset")
    assert [float(page.input_value(x)) for x in (low, high)] == first
    wait_until(lambda: np.abs(drawn(page, canvas) - before).mean() < 0.5, "the first picture")


def test_keys_change_view_slice_and_crosshair_and_the_menu_follows(page: Any) -> None:
    canvas = f"{FIRST} .canvas"
    for key, view in (("s", "2"), ("c", "1"), ("t", "3"), ("a", "0")):
        page.keyboard.press(key)
        assert page.input_value(f"{FIRST} .layout") == view
    slice_number = re.search(r"axial (\d+)/30", page.inner_text(f"{FIRST} .location"))
    page.focus(f"{canvas} canvas")
    page.keyboard.press("ArrowUp")
    expect_soon(page.locator(f"{FIRST} .location")).to_contain_text(f"axial {int(slice_number[1]) + 1}/30")

    with_crosshair = drawn(page, canvas)
    page.keyboard.press("x")
    assert (drawn(page, canvas) != with_crosshair).any()
    assert not page.is_checked(f"{FIRST} .crosshair")
    page.keyboard.press("o")
    assert not (orange(drawn(page, canvas)) | blue(drawn(page, canvas))).any()
    page.click(f"{FIRST} .help")
    assert "right-drag" in page.inner_text(f"{FIRST} .keys")
    page.click(f"{FIRST} .help")


def test_ruler_and_scale_bar_agree_with_positions_in_mm(page: Any) -> None:
    """The positions of two clicks, as the viewer states them, are the truth."""
    page.click(f"{FIRST} .reset")
    page.keyboard.press("a")
    box = box_of(page, f"{FIRST} .canvas")
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    ends = [(middle[0] - 60, middle[1] - 40), (middle[0] + 60, middle[1] + 50)]
    positions = []
    for end in ends:
        page.mouse.click(*end)
        positions.append(position_mm(page))
    true_mm = np.linalg.norm(positions[1] - positions[0])
    page.check(f"{FIRST} .ruler")
    page.mouse.move(*ends[0])
    page.mouse.down()
    page.mouse.move(*ends[1], steps=3)
    page.mouse.up()

    told = re.search(r"ruler: ([\d.]+) mm", page.inner_text(f"{FIRST} .location"))
    assert float(told[1]) == pytest.approx(true_mm, rel=0.03)
    bar = page.evaluate("() => open.layer.scaleBar(open.layer.tiles()[0])")
    assert bar["px"] / bar["mm"] == pytest.approx(np.hypot(120, 90) / true_mm, rel=0.03)
    page.click(f"{FIRST} .reset")


def test_next_and_previous_open_the_neighbour_in_the_same_viewer(page: Any) -> None:
    first = drawn(page, f"{FIRST} .canvas")
    other = f"section[data-case={DOUBTFUL}]"
    page.keyboard.press("p")
    page.keyboard.press("p")  # comes while the first one still loads
    page.evaluate("() => turn")
    expect_soon(page.locator(f"{other} .location")).to_contain_text("mm")
    wait_until(lambda: (drawn(page, f"{other} .canvas").mean(2) > 60).sum() > 3000, "the scan drawn")
    second = drawn(page, f"{other} .canvas")

    assert page.locator(".stage:visible").count() == 1
    assert is_in_window(page, f"{other} .canvas")
    height = min(len(first), len(second))
    assert (np.abs(first[:height] - second[:height]) > 20).mean() > 0.01


# --- marks ------------------------------------------------------------------------------------------------------------


def test_marks_stay_in_the_browser_with_their_comments_until_they_are_downloaded(page: Any) -> None:
    section, other = f"section[data-case={DOUBTFUL}]", f"section[data-case={POOR}]"
    assert "in this browser only" in page.inner_text(f"{section} .kept"), "before the first mark"
    page.fill(f"{section} input[name=comment]", "left side")
    page.keyboard.press("Tab")
    page.fill("#reviewer", "AB")
    page.keyboard.press("Enter")
    page.click(f"{other} .jump >> nth=0")
    page.keyboard.press("2")
    assert page.is_checked(f"{other} input[value='to correct']")
    assert not page.locator("#ask-reviewer").is_visible(), "the reviewer is asked once"
    assert page.locator(f"{other} details.correct").get_attribute("open") is not None
    text = page.inner_text(f"{other} details.correct")
    for part in ("masks/scan_3.nii.gz", "corrected/scan_3.nii.gz", "itksnap -g ../scans/scan_3.nii.gz", "Slicer"):
        assert part in text
    page.reload()

    assert page.input_value(f"{section} input[name=comment]") == "left side"
    assert page.inner_text(f"tr[data-case={DOUBTFUL}] .mark") == "comment"
    assert page.inner_text(f"tr[data-case={POOR}] .mark") == "to correct"
    assert page.inner_text(".toolbar .progress") == "1 of 4 reviewed"
    assert "Not downloaded: 2 of 2" in page.inner_text(f"{section} .kept")
    with page.expect_download() as download:
        page.click(".toolbar .download")
    assert "All marks are downloaded" in page.inner_text(f"{section} .kept")
    marks = json.loads(Path(download.value.path()).read_text())["marks"]
    assert {name: (m["decision"], m["comment"], m["reviewer"], m["of"]) for name, m in marks.items()} == {
        DOUBTFUL: (None, "left side", "AB", "sign 1"),
        POOR: ("to correct", "", "AB", "sign 3"),
    }


def test_a_page_without_storage_says_that_marks_are_lost(browser: Any, out: Path) -> None:
    """A page in a sandboxed frame, as in MLflow, has no storage."""
    with watched_page(browser, width=800, height=600) as watched:
        watched.page.add_init_script(
            "Object.defineProperty(window, 'localStorage', {get() { throw new Error('sandboxed'); }})"
        )
        watched.page.goto((out / "report.html").as_uri())
        assert "lost when the page is closed" in watched.page.inner_text(f"{FIRST} .kept")
        watched.page.check(f"{FIRST} input[value=accepted]")
        watched.page.keyboard.press("Enter")
        assert watched.page.inner_text(".toolbar .progress") == "1 of 4 reviewed"
        watched.page.click(f"{FIRST} .download")
        text = json.loads(watched.page.input_value(".marks-text"))
        assert text["marks"][GOOD]["decision"] == "accepted", "to be copied, if the frame refuses the download"
        assert "Not downloaded: 1 of 1" in watched.page.inner_text(f"{FIRST} .kept")
        assert watched.errors == []


# --- sizes, themes, no JavaScript -------------------------------------------------------------------------------------


def test_every_size_and_theme_is_usable_and_axe_finds_no_serious_problem(page: Any, watched: Watched) -> None:
    page.set_viewport_size({"width": 1366, "height": 768})
    open_viewer(page)
    assert serious_problems(page, without=CLOSED) == []
    watched.shoot_window("viewer-1366")
    page.set_viewport_size({"width": 1920, "height": 1080})
    page.click("#theme")
    page.evaluate("section => document.querySelector(section).scrollIntoView()", FIRST)
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert is_in_window(page, f"{FIRST} .canvas")
    assert is_in_window(page, f"{FIRST} .review")
    watched.shoot_window("viewer-1920-dark")

    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("section => document.querySelector(section).scrollIntoView()", FIRST)
    assert is_in_window(page, f"{FIRST} .canvas")
    assert box_of(page, f"{FIRST} .canvas")["y"] < box_of(page, f"{FIRST} .panel")["y"], "the image comes first"
    page.evaluate("section => document.querySelector(section).scrollIntoView()", f"{FIRST} .panel")
    for part in ("confidence", "left", "right"):
        assert is_in_window(page, f"{FIRST} .case-head > span:has-text('{part}')"), "stays visible over the list"
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    page.evaluate("() => document.getElementById('cases').scrollIntoView()")
    assert is_in_window(page, f"tr[data-case={POOR}] td[data-label=confidence]")
    assert is_in_window(page, f"tr[data-case={POOR}] td[data-label='right, ml']")
    assert serious_problems(page, without=CLOSED) == []
    watched.shoot_window("viewer-390-dark")


def test_images_and_numbers_are_shown_without_javascript(browser: Any, out: Path) -> None:
    with watched_page(browser, java_script_enabled=False) as watched:
        watched.page.goto((out / "report.html").as_uri())

        assert watched.page.locator(f"{FIRST} figure svg image").count() >= 4
        assert watched.page.locator(".script-only:visible").count() == 0
        assert blue(drawn(watched.page, f"{FIRST} .planes figure >> nth=0")).sum() > 50, "the reference's contour"


# --- a page for each case, served -------------------------------------------------------------------------------------


def test_marks_are_saved_where_the_report_is_served(browser: Any, tmp_path: Path) -> None:
    records = Records(tmp_path)
    for n in (0, 1):
        records.end(Prediction(case=f"scan_{n}", status="done", made_by="key", input_hash=str(n)))
    views = [case_view(n, records.done(f"scan_{n}").sign) for n in (0, 1)]
    write_report(tmp_path, ReportInfo("demo", LABELS, {}, key="key", folder="out"), views, 2, layout="pages")
    server = make_server(tmp_path, "key", "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with watched_page(browser, width=900, height=600) as watched:
        page = watched.page
        page.goto(f"http://127.0.0.1:{server.server_port}/?token={server.token}")
        page.click(f"tr[data-case={DOUBTFUL}] a")
        expect_soon(page.locator(".location")).to_contain_text("mm")  # the viewer of a page of one scan opens by itself
        page.check(f"section[data-case={DOUBTFUL}] input[value=accepted]")
        page.fill("#reviewer", "AB")
        page.keyboard.press("Enter")
        expect_soon(page.locator(".kept")).to_contain_text("saved beside the masks")
        page.keyboard.press("n")
        expect_soon(page.locator(f"{FIRST} .location")).to_contain_text("mm")
        page.click("nav >> text=All scans")
        expect_soon(page.locator(f"tr[data-case={DOUBTFUL}] .mark")).to_have_text("accepted")
        expect_soon(page.locator(".progress")).to_have_text("1 of 2 reviewed")
        assert watched.errors == []
    server.shutdown()
    server.server_close()

    saved = json.loads((tmp_path / "review.json").read_text())["marks"]
    assert (saved[DOUBTFUL]["decision"], saved[DOUBTFUL]["reviewer"]) == ("accepted", "AB")
