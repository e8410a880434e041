"""The letters of the report's viewer are on the correct sides of the patient, compared with a block of known position."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.geometry import Grid
from medhybrid.review.report import CaseView, ReportInfo, VolumeView, write_report
from tests.browser import chromium, needs_browser, watched_page
from tests.patients import ACQUISITIONS, DOUBLE_OBLIQUE, THIN

pytestmark = needs_browser

SCANS = {**ACQUISITIONS, **THIN, "double oblique": DOUBLE_OBLIQUE}

AXIAL, CORONAL, SAGITTAL, THREE_PLANES = "0", "1", "2", "3"
LETTERS = {
    AXIAL: {"R": "x", "A": "y"},
    CORONAL: {"R": "x", "S": "y"},
    SAGITTAL: {"A": "x", "S": "y"},
}
"""Letters of a plane, and the axis of the canvas along which each names a side."""

OPPOSITE = {"L": "R", "P": "A", "I": "S"}

EVERY_VIEW = (THREE_PLANES, AXIAL, CORONAL, SAGITTAL)
SMALL_WINDOW = (400, 700, 1)  # width, height, pixels of the screen per pixel of the page
WINDOWS = [
    ("ras", (800, 600, 1), EVERY_VIEW),
    ("ras", (500, 700, 2), (AXIAL,)),
    ("las", (1366, 768, 1), EVERY_VIEW),
    ("las", (1920, 1080, 2), (CORONAL,)),
    ("oblique", (1366, 768, 1), (AXIAL, CORONAL, SAGITTAL)),
    ("sagittal", (800, 600, 2), (THREE_PLANES, AXIAL)),
    ("sagittal", (1920, 1080, 1), (CORONAL, SAGITTAL)),
    ("coronal", (1366, 768, 2), (AXIAL, CORONAL)),
    ("coronal", (1920, 1080, 1), (THREE_PLANES, SAGITTAL)),
]

READ_CANVAS = """() => {
    const model = open.model, canvas = document.querySelector(".canvas canvas"), gl = canvas.getContext("webgl2");
    const shown = model.get("opts");
    model.change("opts", {...shown, crosshairWidth: 0, fontColor: [1, 0, 0, 1]});
    model.tell("draw_scene");
    const n = canvas.width * canvas.height, colours = new Uint8Array(4 * n), red_and_green = new Uint8Array(2 * n);
    gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, colours);
    model.change("opts", shown);
    for (let i = 0; i < n; i++) { red_and_green[i] = colours[4 * i]; red_and_green[n + i] = colours[4 * i + 1]; }
    let text = "";
    for (let i = 0; i < 2 * n; i += 32768) text += String.fromCharCode(...red_and_green.subarray(i, i + 32768));
    return [canvas.width, canvas.height, btoa(text)];
}"""
"""The canvas without crosshair, its letters in red."""


READ_CONTOURS = """() => {
    open.layer.hasCrosshair = false;
    open.layer.draw();
    const {canvas} = open.layer, n = canvas.width * canvas.height;
    const colours = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data, orange = new Uint8Array(n);
    for (let i = 0; i < n; i++) orange[i] = colours[4 * i] > 120 && colours[4 * i + 2] < 90 && colours[4 * i + 3] > 90;
    let text = "";
    for (let i = 0; i < n; i += 32768) text += String.fromCharCode(...orange.subarray(i, i + 32768));
    return [canvas.width, canvas.height, btoa(text)];
}"""
"""Where the layer over the canvas has the colour of a mask."""


@dataclass(frozen=True)
class Box:
    """Box on the canvas, in pixels; rows run down."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def centre(self) -> NDArray[np.float64]:
        """Centre (x, y) of the box."""
        return np.array([self.left + self.right, self.top + self.bottom]) / 2

    def distance(self, place: NDArray[np.float64]) -> float:
        """Return the distance in pixels from a point to the box; 0 inside."""
        low = np.array([self.left, self.top])
        high = np.array([self.right, self.bottom])
        return float(np.linalg.norm(np.maximum(np.maximum(low - place, place - high), 0)))


def boxes_of(mask: NDArray[np.bool_], n_least: int) -> list[Box]:
    """Return the boxes around the connected components of at least `n_least` pixels."""
    labelled, n = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labelled.ravel(), minlength=n + 1)
    found = ndimage.find_objects(labelled)
    return [
        Box(columns.start, rows.start, columns.stop, rows.stop)
        for number, (rows, columns) in enumerate(found, start=1)
        if sizes[number] >= n_least
    ]


def glyph(letter: str) -> NDArray[np.float64]:
    """Return a letter in Pillow's font, in the size that `letter_in` compares."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (200, 200))
    ImageDraw.Draw(image).text((50, 30), letter, fill=255, font=ImageFont.load_default(100))
    return scaled(np.asarray(image.crop(image.getbbox())))


def scaled(grey: NDArray[np.generic]) -> NDArray[np.float64]:
    """Scale the image of a letter to a fixed size, zero mean and unit norm."""
    from PIL import Image

    values = np.asarray(Image.fromarray(grey.astype(np.uint8)).resize((16, 24)), float)
    values = values - values.mean()
    return values / np.linalg.norm(values)


def letter_in(grey: NDArray[np.generic]) -> str:
    """Return the letter that is most similar to a glyph."""
    height, width = grey.shape
    if width < 0.4 * height:
        return "I"
    best = max("RLAS", key=lambda letter: float((glyph(letter) * scaled(grey)).sum()))
    leg = grey[int(0.65 * height) :, width // 2 :]
    return "P" if best == "R" and leg.mean() < 0.3 * grey.mean() else best


def glyphs_in(letters: NDArray[np.int_]) -> list[tuple[str, Box]]:
    """Return the letters in grey values; two letters that touch are separated at the column with the least ink."""
    parted = []
    for box in boxes_of(letters > 80, n_least=6):
        width = box.right - box.left
        if width < 1.2 * (box.bottom - box.top):
            parted.append(box)
            continue
        third = width // 3
        ink = letters[box.top : box.bottom, box.left + third : box.right - third].sum(axis=0)
        split = box.left + third + int(ink.argmin())
        parted += [Box(box.left, box.top, split, box.bottom), Box(split, box.top, box.right, box.bottom)]
    return [(letter_in(letters[box.top : box.bottom, box.left : box.right]), box) for box in parted]


@dataclass(frozen=True)
class Shown:
    """Content of the canvas: glyphs with their letters, the body of each plane, and the block in it."""

    glyphs: list[tuple[str, Box]]
    bodies: list[Box]
    blocks: list[Box]


def look(page: Any) -> Shown:
    """Find letters, bodies and blocks by their pixels."""
    width, height, text = page.evaluate(READ_CANVAS)
    pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(2, height, width)  # rows run up
    red, green = pixels[:, ::-1].astype(int)
    bodies = boxes_of(red > 50, n_least=400)
    blocks = boxes_of(green > 245, n_least=40)
    return Shown(glyphs_in(red - green), bodies, blocks)  # the scan is grey, and letters are red


def plane_of(letters: set[str]) -> dict[str, str] | None:
    """Return the axes of the plane that has these letters; None if no plane has them."""
    named = {OPPOSITE.get(letter, letter) for letter in letters}
    return next((axes for axes in LETTERS.values() if set(axes) == named), None)


def wrong_sides(shown: Shown, n_planes: int) -> list[str]:
    """Describe each letter that is not on the side of the block, and each plane that lacks letters."""
    if not (len(shown.bodies) == len(shown.blocks) == n_planes):
        return [f"found {len(shown.bodies)} planes and {len(shown.blocks)} blocks, expected {n_planes}"]
    problems = []
    for body in shown.bodies:
        of_body = [
            (letter, box)
            for letter, box in shown.glyphs
            if min(shown.bodies, key=lambda other, box=box: other.distance(box.centre)) is body
        ]
        axes = plane_of({letter for letter, _ in of_body})
        if axes is None:
            problems.append(f"a plane has the letters {[letter for letter, _ in of_body]}")
            continue
        block = min(shown.blocks, key=lambda b, body=body: body.distance(b.centre))
        for letter, box in of_body:
            axis = "xy".index(axes[OPPOSITE.get(letter, letter)])
            is_towards_block = bool(
                np.sign((box.centre - body.centre)[axis]) == np.sign((block.centre - body.centre)[axis])
            )
            if is_towards_block == (letter in OPPOSITE):
                problems.append(f"{letter} is at {box.centre}, the block at {block.centre}, the body {body}")
    return problems


def wrong_contours(page: Any, shown: Shown) -> list[str]:
    """Describe each block without a contour that has its centre and is larger by at most a voxel.

    The block is seen from the centre of its first voxel to that of its last one, between which its grey value is constant.
    """
    width, height, text = page.evaluate(READ_CONTOURS)
    orange = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width) > 0
    contours = boxes_of(orange, n_least=20)
    problems = []
    for block in shown.blocks:
        contour = min(contours, key=lambda c, block=block: float(np.linalg.norm(c.centre - block.centre)), default=None)
        size = np.array([block.right - block.left, block.bottom - block.top])
        if contour is not None:
            larger = np.array([contour.right - contour.left, contour.bottom - contour.top]) - size
            if np.abs(contour.centre - block.centre).max() <= 3 and (larger >= 0).all() and (larger <= size).all():
                continue
        problems.append(f"the block is {block}, the contour {contour}")
    return problems


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Open a report of all scans in a page of headless Chromium."""
    out = tmp_path_factory.mktemp("sides")
    views = []
    for name, acquisition in SCANS.items():
        image, block = acquisition.scan()
        grid = Grid(acquisition.shape, acquisition.affine)
        views.append(CaseView(name, "done", volume=VolumeView.from_scan(image, block, None, grid)))
    info = ReportInfo("sides", {"block": 1}, {})
    write_report(out, info, views, len(views), layout="single")
    with chromium() as browser, watched_page(browser) as watched:
        watched.page.goto((out / "report.html").as_uri())
        yield watched.page
        assert watched.errors == []


def open_scan(page: Any, name: str) -> str:
    """Open a scan in the viewer at the block, with its mask hidden; return the selector of its section."""
    section = f"section[data-case='{name}']"
    page.click(f"{section} .jump >> nth=0")
    page.wait_for_function(
        "section => document.querySelector(`${section} .location`).textContent.includes('mm')", arg=section
    )
    page.locator(f"{section} .opacity").fill("0")
    return section


def resize(page: Any, width: int, height: int, density: int) -> None:
    """Change the size and pixel density of the window, as on a move to another screen; wait until the canvas follows."""
    size = {"width": width, "height": height, "deviceScaleFactor": density, "mobile": False}
    page.context.new_cdp_session(page).send("Emulation.setDeviceMetricsOverride", size)
    page.wait_for_function(
        "([width, density]) => { const c = document.querySelector('.canvas canvas');"
        " return innerWidth === width && devicePixelRatio === density && (!c || c.width === c.clientWidth * density); }",
        arg=[width, density],
    )


def test_each_letter_is_on_the_patients_side_in_every_view_and_window(page: Any) -> None:
    problems = []
    section, opened = "", ""
    for name, window, views in WINDOWS:
        if name != opened:
            resize(page, *SMALL_WINDOW)
            section, opened = open_scan(page, name), name
        resize(page, *window)
        for view in views:
            page.select_option(f"{section} .layout", view)
            shown = look(page)
            found = wrong_sides(shown, n_planes=3 if view == THREE_PLANES else 1)
            found += wrong_contours(page, shown)
            problems += [f"{name}, window {window}, view {view}: {problem}" for problem in found]

    assert problems == []


def test_letters_stay_on_the_patients_side_when_the_slice_is_moved_and_the_view_key_is_pressed(page: Any) -> None:
    section = open_scan(page, "ras")
    resize(page, 1366, 768, 1)
    page.select_option(f"{section} .layout", AXIAL)
    box = page.locator(f"{section} .canvas").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.wheel(0, 100)
    page.mouse.down(button="middle")
    page.mouse.move(middle[0] + 40, middle[1] + 20, steps=3)
    page.mouse.up(button="middle")
    page.keyboard.press("v")

    shown = look(page)
    assert page.input_value(f"{section} .layout") == AXIAL
    assert {letter for letter, _ in shown.glyphs} == {"R", "A"}, "the view is the one of the list"
    assert wrong_sides(shown, n_planes=1) == []


@pytest.mark.parametrize("name", list(THIN))
def test_a_narrow_slice_has_small_letters_on_their_sides_or_a_note_instead(page: Any, name: str) -> None:
    section = open_scan(page, name)
    resize(page, 1366, 768, 1)
    for view in (THREE_PLANES, AXIAL, CORONAL):
        page.select_option(f"{section} .layout", view)
        shown = look(page)
        is_noted = page.locator(f"{section} .thin").is_visible()

        assert is_noted == (name == "sheet")
        if is_noted:
            assert shown.glyphs == []
        else:
            assert wrong_sides(shown, n_planes=3 if view == THREE_PLANES else 1) == []


def test_a_click_on_a_component_leads_to_it_if_the_order_of_axes_is_ambiguous(page: Any) -> None:
    section = open_scan(page, "double oblique")
    shown = page.inner_text(f"{section} .location")
    listed = page.inner_text(f"{section} .lesions tbody td:last-child")

    signs = {"right": 1, "left": -1, "anterior": 1, "posterior": -1, "superior": 1, "inferior": -1}
    mm = [float(value) * signs[side] for value, side in re.findall(r"([\d.]+) mm (\w+)", shown)]
    assert mm == pytest.approx([float(value) for value in listed.split(",")], abs=0.6)
    assert "value 1000" in shown
    assert wrong_contours(page, look(page)) == []
