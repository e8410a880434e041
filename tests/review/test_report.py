"""The report of a folder of masks: slices and contours are correct, and pages need no network."""

from __future__ import annotations

import base64
import gzip
import re
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.geometry import Grid, apply_affine
from medhybrid.review.report import CaseView, ReportInfo, VolumeView, case_order, write_report
from medhybrid.review.report.charts import Point, strip
from medhybrid.review.report.correcting import correction_commands
from medhybrid.review.report.display import display_window, grey_range
from medhybrid.review.report.slices import SIDES, crop, draw, montage, three_planes
from medhybrid.review.report.views import Size, lesions_of
from medhybrid.review.report.volumes import MAX_VOXELS, _halved, _pairs, niivue, viewer_data
from tests.patients import ACQUISITIONS, THIN
from tests.synthetic import AFFINE, blob_case

LABELS = {"left": 1, "right": 4}


def volume_view(seed: int = 0, *, with_reference: bool = False) -> VolumeView:
    image, mask = blob_case(seed)
    reference = np.roll(mask, 1, axis=1) if with_reference else None
    return VolumeView.from_scan(image, mask, reference, Grid(image.shape, AFFINE))


def view(case: str, *, score: float | None = 0.9, verdict: str = "confident", ml: float = 2.0) -> CaseView:
    return CaseView(
        case, "done", verdict=verdict, score=score, sizes={"left": Size(ml, 1, 9.0), "right": Size(ml, 2, 5.0)}
    )


# --- slices -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_contours_enclose_the_area_of_the_mask(seed: int, axis: int) -> None:
    """Compare the area of the paths (Gauss's formula, minus holes) with that of the voxels, within half a voxel's edge."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    mask = ndimage.binary_opening(ndimage.gaussian_filter(rng.normal(size=(20, 18, 16)), 2) > 0.02, iterations=2)
    grid = Grid(mask.shape, np.diag([2.0, 1.5, 3.0, 1.0]))
    picture = VolumeView(mask.astype(np.float32), mask.astype(np.uint8), None, grid)
    index = int(mask.any(axis=tuple(a for a in range(3) if a != axis)).argmax())

    svg = draw(picture, axis, index, (0.0, 1.0), [1]).svg

    area = 0.0
    for path in re.findall(r'<path class="prediction label-1" d="([^"]+)"', svg):
        for line in re.findall(r"M([^Z]+)Z", path):
            x, y = np.array([[float(v) for v in p.split()] for p in line.split("L")]).T
            area += 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    kept = [a for a in range(3) if a != axis]
    spacing = np.array(grid.spacing_mm)[kept]
    plane = np.take(mask, index, axis)
    edges = (
        np.abs(np.diff(np.pad(plane, 1).astype(int), axis=0)).sum()
        + np.abs(np.diff(np.pad(plane, 1).astype(int), axis=1)).sum()
    )
    voxel = float(spacing.prod())
    assert abs(abs(area) - plane.sum() * voxel) <= 0.3 * edges * voxel + 1e-6


def test_the_patients_right_is_on_the_left_of_a_slice() -> None:
    """A mark at right, anterior, superior is at the left and top of axial and coronal slices, left in sagittal ones."""
    image = np.zeros((30, 30, 30), np.float32)
    mask = np.zeros(image.shape, np.uint8)
    mask[24:28, 24:28, 24:28] = 1
    picture = VolumeView(image, mask, None, Grid(image.shape, np.eye(4)))

    for axis in range(3):
        svg = draw(picture, axis, 25, (0.0, 1.0), [1]).svg
        points = np.array(
            [[float(v) for v in p.split()] for p in re.findall(r"[\d.]+ [\d.]+", re.search(r' d="([^"]+)"', svg)[1])]
        )
        assert (points < 10).all(), axis
        assert svg.count("<text") == 4


@pytest.mark.parametrize("name", [*ACQUISITIONS, *THIN])
def test_each_letter_of_a_slice_is_on_the_side_of_a_block_there(name: str) -> None:
    """Compare the letters with a block at the patient's right, anterior and superior, and the opposite letters."""
    acquisition = {**ACQUISITIONS, **THIN}[name]
    image, block = acquisition.scan()
    picture = VolumeView.from_scan(image, block, None, Grid(acquisition.shape, acquisition.affine))

    for axis in range(3):
        index = int(np.argwhere(picture.prediction)[:, axis].mean())
        svg = draw(picture, axis, index, (0.0, 1000.0), [1]).svg
        low_x, low_y, width, height = (float(v) for v in re.search(r'viewBox="([^"]+)"', svg)[1].split())
        drawn = re.search(r'<image href="[^"]+" width="([\d.]+)" height="([\d.]+)"', svg)
        centre = np.array([float(drawn[1]), float(drawn[2])]) / 2
        contour = re.findall(r"([\d.]+) ([\d.]+)", re.search(r' d="([^"]+)"', svg)[1])
        is_block_low = (
            np.array(contour, float).mean(axis=0) < centre
        )  # whether the block is left of the centre, and above it
        texts = re.findall(r'<text x="([-\d.]+)" y="([-\d.]+)" font-size="([\d.]+)">(\w)', svg)
        assert {letter for *_, letter in texts} == set(SIDES[axis])
        for x, y, size, letter in texts:
            place = np.array([float(x), float(y) - float(size) / 3])  # the text's middle above its base line
            across = int(letter in "SI" or (letter in "AP" and axis == 2))
            assert (place < centre)[across] == (is_block_low[across] == (letter in "RAS")), (axis, letter)
            assert abs(place - centre)[across] >= float(size) / 3, "the letters do not cover each other"
            assert low_x <= float(x) <= low_x + width
            assert low_y <= float(y) <= low_y + height


def test_a_montage_goes_through_prediction_and_reference() -> None:
    mask = np.zeros((20, 20, 40), np.uint8)
    mask[5:9, 5:9, 10] = 1
    reference = np.zeros_like(mask)
    reference[5:9, 5:9, 30] = 1
    picture = VolumeView(mask.astype(np.float32), mask, reference, Grid(mask.shape, np.diag([1.0, 1, 3, 1])))

    assert [s.index for s in montage(picture, [1])] == [30, 10]
    assert {s.plane for s in three_planes(picture, [1])} == {"axial", "coronal", "sagittal"}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_scan_of_one_slice_is_shown_with_and_without_findings(axis: int) -> None:
    whole = volume_view(with_reference=True)
    one = crop(
        VolumeView(
            np.take(whole.image, [9], axis=axis),
            np.take(whole.prediction, [9], axis=axis),
            np.take(whole.prediction, [9], axis=axis),
            whole.grid.box(tuple(slice(9, 10) if a == axis else slice(None) for a in range(3))),
        )
    )
    empty = VolumeView(one.image, 0 * one.prediction, None, one.grid)

    for view in (one, empty):
        assert [s.axis for s in three_planes(view, (1, 2))] == [axis]
        assert montage(view, (1, 2))


def test_components_are_listed_with_a_voxel_inside_them() -> None:
    picture = crop(volume_view())

    lesions = lesions_of(picture, LABELS)

    assert [x.label for x in lesions] == ["left", "right"]
    for x in lesions:
        assert picture.prediction[x.voxel] == LABELS[x.label]
        np.testing.assert_allclose(apply_affine(picture.grid.affine, np.array(x.voxel, float)), x.centre_mm)
        assert x.volume_ml == pytest.approx((picture.prediction == LABELS[x.label]).sum() * 1.5 * 1.5 * 3 / 1000)


# --- volumes ----------------------------------------------------------------------------------------------------------


def decoded(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_the_viewer_gets_the_scans_values_at_their_positions() -> None:
    """Compare value and world position of each voxel of the crop with the scan, as nibabel reads them."""
    image, mask = blob_case(3)
    data = viewer_data(crop(VolumeView.from_scan(image, mask, None, Grid(image.shape, AFFINE))), [1, 4])

    shown, labels = decoded(data.images[0].data), decoded(data.prediction)
    index = np.argwhere(np.ones(shown.shape, bool))
    voxels = np.round(nib.affines.apply_affine(np.linalg.inv(AFFINE) @ shown.affine, index)).astype(int)
    np.testing.assert_array_equal(shown.get_fdata().ravel(), image[tuple(voxels.T)])
    numbered = np.select([mask == 1, mask == 4], [1, 2])
    np.testing.assert_array_equal(np.asarray(labels.dataobj).ravel(), numbered[tuple(voxels.T)])
    assert (np.asarray(labels.dataobj) > 0).sum() == (mask > 0).sum()
    assert nib.aff2axcodes(shown.affine) == ("R", "A", "S")


def test_a_large_scan_is_downsampled_and_small_lesions_remain() -> None:
    shape = (260, 251, 100)
    assert np.prod(shape) > MAX_VOXELS
    mask = np.zeros(shape, np.uint8)
    mask[101, 77, 50] = 1
    affine = np.diag([0.5, 0.6, 2.0, 1.0])
    image = np.add.outer(np.arange(260.0), np.zeros((251, 100))).astype(np.float32)

    data = viewer_data(VolumeView(image, mask, None, Grid(shape, affine)), [1])

    assert data.factors == (2, 1, 1)
    shown, labels = decoded(data.images[0].data), decoded(data.prediction)
    assert shown.shape == (130, 251, 100)
    place = np.argwhere(np.asarray(labels.dataobj))
    assert len(place) == 1
    assert (
        np.abs(nib.affines.apply_affine(labels.affine, place[0]) - affine[:3, :3] @ (101, 77, 50)).max() <= 0.25 + 1e-6
    )
    np.testing.assert_allclose(shown.get_fdata()[10, 0, 0], 20.5, atol=0.13)


def test_other_channels_are_held_if_they_fit() -> None:
    image, mask = blob_case(0)
    grid = Grid(image.shape, AFFINE)
    second = image[::-1] + 7
    volume = crop(VolumeView.from_scan(image, mask, None, grid, channel="FLAIR", others={"T1": second}))

    data = viewer_data(volume, [1, 4])
    small = viewer_data(volume, [1, 4], max_voxels_of_channels=2 * volume.image.size - 1)

    assert ([i.name for i in data.images], data.left_out) == (["FLAIR", "T1"], ())
    assert ([i.name for i in small.images], small.left_out) == (["FLAIR"], ("T1",))
    shown = decoded(data.images[1].data)
    index = np.argwhere(np.ones(shown.shape, bool))
    voxels = np.round(nib.affines.apply_affine(np.linalg.inv(AFFINE) @ shown.affine, index)).astype(int)
    np.testing.assert_array_equal(shown.get_fdata().ravel(), second[tuple(voxels.T)])


@given(st.integers(1, 9), st.integers(0, 2))
def test_downsampling_keeps_the_position_of_each_pair(n: int, axis: int) -> None:
    shape = [4, 4, 4]
    shape[axis] = n
    places = np.indices(shape)[axis].astype(float)
    halved = _pairs(places, axis).mean(axis)
    grid = _halved(Grid(tuple(shape), np.eye(4)), axis)

    assert halved.shape == grid.shape
    expected = grid.affine[axis, 3] + grid.affine[axis, axis] * np.indices(grid.shape)[axis]
    if n % 2:  # the last voxel has no partner
        expected, halved = np.take(expected, range(n // 2), axis), np.take(halved, range(n // 2), axis)
    np.testing.assert_allclose(halved, expected)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_failures_come_first_then_needs_review_then_the_lowest_confidence() -> None:
    views = [
        view("sure"),
        view("unsure", score=0.5),
        view("doubtful", score=0.8, verdict="needs review"),
        CaseView("broken", "failed", message="cut off"),
    ]

    assert [v.case for v in sorted(views, key=case_order)] == ["broken", "doubtful", "unsure", "sure"]


def scores_of(dice: float) -> CaseView:
    return CaseView("a", "done", sizes={"left": Size(2.0, 1, 9.0)}, mean_dice=dice)


def test_a_case_with_a_low_dice_needs_review_for_this_reason() -> None:
    """A training report has no confidence; its states are those of a prediction's report."""
    assert (scores_of(0.04).state, scores_of(0.9).state) == ("look", "found")
    assert scores_of(0.04).reason == "Dice against the reference is 0.040, below 0.5"


def test_scans_that_need_review_count_as_segmented_and_the_page_says_so(tmp_path: Path) -> None:
    empty = CaseView("empty", "done", sizes={"left": Size(0.0, 0, 0.0)})
    cases = [view(f"c{i}", verdict="needs review") for i in range(3)] + [empty, CaseView("broken", "failed")]

    text = write_report(tmp_path, ReportInfo("t", LABELS, {}), cases, len(cases)).read_text()

    counts = {name: int(n) for n, name in re.findall(r"<strong>(\d+)</strong> ([^<]+)</li>", text)}
    assert counts == {
        "scans": 5,
        "need review": 3,
        "without mask": 1,
        "with a segmented structure": 3,
        "with an empty mask": 1,
    }
    assert "The counts overlap" in text


@pytest.mark.parametrize("layout", ["single", "pages"])
def test_previous_and_next_follow_the_order_of_review(tmp_path: Path, layout: str) -> None:
    cases = [view("sure"), view("unsure", score=0.5), CaseView("broken", "failed")]

    page = write_report(tmp_path, ReportInfo("t", LABELS, {}), cases, 3, layout=layout)

    texts = [page.read_text()] if layout == "single" else [f.read_text() for f in tmp_path.glob("report/*.html")]
    sections = {
        part.partition('data-case="')[2].partition('"')[0]: part
        for text in texts
        for part in text.split('<section class="case"')[1:]
    }
    number = {"sure": 1, "unsure": 2, "broken": 3}
    for k, name in enumerate(order := ["broken", "unsure", "sure"]):
        for kind, other in (("previous", k - 1), ("next", k + 1)):
            link = re.search(rf'class="{kind}" href="([^"]+)"', sections[name])
            expected = number[order[other]] if 0 <= other < 3 else None
            shape = "#case-{}" if layout == "single" else "{}.html"
            assert (link and link[1]) == (expected and shape.format(expected))
        assert f">{k + 1} of 3</span>" in sections[name]


def test_the_page_has_commands_that_open_a_copy_of_the_mask(tmp_path: Path) -> None:
    """Run the command in a shell, with a stand-in for the editor that prints its arguments."""
    mask, scan = "masks/it's a case.nii.gz", "../scans/it's a scan.nii.gz"
    (tmp_path / "out" / "masks").mkdir(parents=True)
    (tmp_path / "out" / mask).write_bytes(b"mask")
    editor = tmp_path / "bin" / "itksnap"
    editor.parent.mkdir()
    editor.write_text('#!/bin/sh\nprintf "%s|" "$@"')
    editor.chmod(0o755)
    command = correction_commands(mask, scan)["ITK-SNAP"]

    def run() -> str:
        path = f"{editor.parent}:/usr/bin:/bin"
        return subprocess.run(
            ["sh", "-c", command], cwd=tmp_path / "out", env={"PATH": path}, capture_output=True, text=True, check=True
        ).stdout

    assert run() == f"-g|{scan}|-s|corrected/it's a case.nii.gz|"
    copy = tmp_path / "out" / "corrected" / "it's a case.nii.gz"
    assert copy.read_bytes() == b"mask"
    copy.write_bytes(b"corrected")
    run()
    assert copy.read_bytes() == b"corrected", "a corrected mask is kept"


def test_names_and_messages_cannot_become_code(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    info = ReportInfo(evil, LABELS, {evil: evil}, ((evil, evil),), key="k")
    cases = [CaseView(f"{evil}{i}", "failed", message=evil) for i in range(3)]
    cases += [view(f"{evil} {i}", ml=10.0**i) for i in range(5)]

    for layout in ("single", "pages"):
        write_report(tmp_path, info, iter(cases), len(cases), layout=layout)
        for page in tmp_path.rglob("*.html"):
            text = page.read_text()
            assert "<script>alert" not in text
            assert "<img src=x" not in text


@pytest.mark.parametrize("layout", ["single", "pages"])
def test_a_page_loads_nothing_from_the_network(tmp_path: Path, layout: str) -> None:
    cases = [CaseView(c, "done", sizes={}, volume=volume_view(i, with_reference=True)) for i, c in enumerate("ab")]

    page = write_report(tmp_path, ReportInfo("t", LABELS, {}), iter(cases), 2, layout=layout)

    assert sorted(p.name for p in (tmp_path / "report").glob("*")) == (
        [] if layout == "single" else ["1.html", "2.html", "viewer.js"]
    )
    for file in (page, *tmp_path.glob("report/*.html")):
        text = re.sub(r'NIIVUE_GZ = "[^"]+"', "", file.read_text())
        assert "default-src 'none'" in text
        links = re.findall(r'(?:href|src)="([^"]*)"', text)
        assert all(
            x.startswith(("#", "data:", "report/", "../report.html", "viewer.js", "1.html", "2.html")) for x in links
        )
        assert "http" not in re.sub(r"http-equiv|\"http\"", "", text)


def test_pages_of_an_earlier_report_are_removed(tmp_path: Path) -> None:
    info = ReportInfo("t", LABELS, {})
    write_report(tmp_path, info, iter([view(c) for c in "abc"]), 3, layout="pages")

    write_report(tmp_path, info, iter([view("a")]), 1, layout="pages")

    assert not (tmp_path / "report" / "2.html").exists()


def test_the_index_of_a_hundred_scans_is_small(tmp_path: Path) -> None:
    """The images are on the pages of the scans; the index has a row and a preview of each."""
    shared = volume_view()
    cases = (
        CaseView(f"case {i}", "done", score=0.9, volume=shared, sizes={"left": Size(1 + i, 1, 4.0)}) for i in range(100)
    )

    page = write_report(tmp_path, ReportInfo("t", LABELS, {}), cases, 100)

    assert len(list((tmp_path / "report").glob("*.html"))) == 100
    assert page.stat().st_size < 1_000_000


def test_outliers_are_named_and_linked() -> None:
    points = [Point(f"c{i}", 10.0 + 0.1 * i, f"#c{i}") for i in range(12)] + [
        Point("far", 900.0, "#far"),
        Point("none", 0.0, "#none"),
    ]

    svg = strip("volume, ml", points, is_log=True)

    assert svg.count("<circle") == 14
    assert svg.count('class="outlier"') == 1
    assert 'class="name"' in svg
    assert 'href="#far"' in svg
    assert strip("nothing", []) == ""


def test_the_viewer_comes_with_the_installed_package() -> None:
    script = gzip.decompress(base64.b64decode(niivue() or "")).decode()

    assert re.search(r"export\s*\{\w+ as default\}", script)


@pytest.mark.parametrize("is_high_good", [True, False])
def test_the_best_case_is_no_outlier_of_a_score(is_high_good: bool) -> None:
    points = [Point(f"c{i}", 0.7 + 0.001 * i, f"#c{i}") for i in range(12)]
    points += [Point("best", 0.99, "#best"), Point("worst", 0.1, "#worst")]

    svg = strip("Dice", points, is_high_good=is_high_good)

    named = {name for name in ("best", "worst") if f">{name}</text>" in svg}
    assert named == ({"worst"} if is_high_good else {"best", "worst"})


def with_lesion(tissue: float, lesion: float, *, lesion_share: float = 0.001) -> VolumeView:
    """Return air, tissue with noise, and a masked lesion of a given brightness."""
    rng = np.random.default_rng(0)
    image = np.zeros((60, 60, 60), np.float32)
    image[10:50, 10:50, 10:50] = rng.normal(tissue, 0.05 * abs(tissue), (40, 40, 40))
    mask = np.zeros(image.shape, np.uint8)
    n = round((lesion_share * image.size) ** (1 / 3))
    mask[20 : 20 + n, 20 : 20 + n, 20 : 20 + n] = 1
    image[mask == 1] = lesion * rng.uniform(0.8, 1, (mask == 1).sum())
    return VolumeView(image, mask, None, Grid(image.shape, np.eye(4)))


def test_a_small_bright_lesion_is_not_white_in_the_default_window() -> None:
    """Of all voxels, 0.1 % are lesion: a percentile of the image alone would cut them."""
    volume = with_lesion(300, 550)

    low, high = display_window(volume)
    shown = np.clip((volume.image - low) / (high - low), 0, 1)

    assert (shown[volume.prediction == 1] >= 1).mean() <= 0.02
    assert 0.4 < np.median(shown[volume.image > 200]) < 0.7, "tissue is neither dark nor bright"
    assert grey_range(volume.image)[1] < 0.8 * high


def test_a_lesion_that_the_prediction_missed_is_not_white_either() -> None:
    """A prediction of all tissue has few bright voxels, and the reference has the lesion."""
    lesion = with_lesion(300, 550)
    tissue = (lesion.image > 100).astype(np.uint8)

    missed = display_window(VolumeView(lesion.image, tissue, lesion.prediction, lesion.grid))

    assert missed == display_window(lesion)


def test_an_artefact_in_the_mask_does_not_darken_the_tissue() -> None:
    low, high = display_window(with_lesion(300, 30_000))

    assert high - low < 1000


@pytest.mark.parametrize(("hu", "expected"), [(40, (-160, 240)), (-800, (-1350, 150)), (900, (-500, 1300))])
def test_ct_is_shown_in_the_window_of_the_masked_structure(hu: float, expected: tuple[float, float]) -> None:
    volume = with_lesion(40, hu)
    image = np.where(volume.image == 0, -1000, volume.image)
    image[:12] = np.where(volume.image[:12] != 0, -90, image[:12])  # fat

    assert display_window(VolumeView(image, volume.prediction, None, volume.grid)) == expected


def test_an_mr_image_padded_with_negative_values_is_not_ct() -> None:
    volume = with_lesion(300, 500)
    image = np.where(volume.image == 0, -1024, volume.image)

    low, high = display_window(VolumeView(image, volume.prediction, None, volume.grid))

    assert low == 0
    assert 450 < high < 550


def test_a_constant_image_has_a_valid_display_window() -> None:
    low, high = grey_range(np.zeros((4, 4, 4)))

    assert high > low
