"""Figures show three planes through the largest reference region, with the contours of the masks."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from medhybrid.geometry import Grid
from medhybrid.review import figures
from medhybrid.review.figures import draw_case, largest_region_centre
from medhybrid.review.report import VolumeView
from tests.patients import ACQUISITIONS, THIN


def masks() -> tuple[np.ndarray, np.ndarray]:
    reference = np.zeros((30, 36, 20), np.uint8)
    reference[2:4, 2:4, 2:4] = 1
    reference[15:22, 20:30, 8:14] = 2
    return reference, np.roll(reference, 2, 0)


def test_the_centre_lies_in_the_largest_region() -> None:
    reference, _ = masks()

    x, y, z = largest_region_centre(reference)

    assert reference[x, y, z] == 2
    assert largest_region_centre(0 * reference) == (15, 18, 10)


def has_colour(picture: np.ndarray, colour: str) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(picture[..., :3] - wanted).max(-1) < 0.1).any())


@pytest.mark.parametrize("with_reference", [True, False])
def test_contours_of_both_masks_are_drawn(tmp_path: Path, with_reference: bool) -> None:
    reference, prediction = masks()
    image = np.random.default_rng(0).normal(size=reference.shape)

    draw_case(
        tmp_path / "x.png",
        image,
        reference=reference if with_reference else None,
        prediction=prediction,
        spacing_mm=(1.0, 1.0, 2.0),
        title="x",
    )

    picture = matplotlib.image.imread(tmp_path / "x.png")
    assert picture.shape[1] == 1000
    assert has_colour(picture, "#E69F00")
    assert has_colour(picture, "#56B4E9") == with_reference


def test_empty_masks_and_constant_images_are_drawn(tmp_path: Path) -> None:
    empty = np.zeros((8, 8, 8), np.uint8)

    draw_case(tmp_path / "x.png", empty, reference=empty, prediction=empty, spacing_mm=(1.0, 1.0, 1.0), title="x")

    assert (tmp_path / "x.png").stat().st_size > 0


@pytest.mark.parametrize("shape", [(1, 9, 9), (9, 1, 9), (9, 9, 1)])
def test_a_scan_of_one_slice_is_drawn(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(0, (n + 1) // 2) for n in shape)] = 1

    draw_case(tmp_path / "x.png", 1.0 * mask, reference=None, prediction=mask, spacing_mm=(1.0, 1.0, 1.0), title="x")

    assert has_colour(matplotlib.image.imread(tmp_path / "x.png"), "#E69F00")


@pytest.mark.parametrize("name", ["oblique", "sagittal", *THIN])
def test_the_letter_left_of_each_plane_is_on_the_side_of_a_block_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Find letters as the difference to a figure without them, and compare with a bright block at right and anterior."""
    acquisition = {**ACQUISITIONS, **THIN}[name]
    image, block = acquisition.scan()
    scan = VolumeView.from_scan(image, block, None, Grid(acquisition.shape, acquisition.affine))

    def figure(file: str) -> np.ndarray:
        draw_case(
            tmp_path / file,
            scan.image,
            reference=None,
            prediction=scan.prediction,
            spacing_mm=scan.grid.spacing_mm,
            title="",
        )
        return matplotlib.image.imread(tmp_path / file)[..., 2]

    lettered = figure("lettered.png")
    monkeypatch.setattr(figures, "LEFT_SIDES", "   ")
    plain = figure("plain.png")

    height = plain.shape[0]
    rows = slice(int(0.14 * height), int(0.94 * height))  # without title, names and legend
    bodies = parts_along_columns(plain[rows] > 0.2)
    letters = parts_along_columns(np.abs(lettered - plain)[rows] > 0.2)
    assert len(bodies) == len(letters) == 3
    for body, letter in zip(bodies, letters, strict=True):
        bright = np.argwhere(plain[rows, body] > 0.95)[:, 1].mean()
        middle = (body.stop - body.start) / 2
        assert bright < middle
        assert letter.stop - body.start <= middle, "all of the letter is on the left"
        assert body.start - letter.stop < 30


def parts_along_columns(mask: np.ndarray) -> list[slice]:
    """Return the columns of each part, where parts are separated by empty columns."""
    from scipy import ndimage

    return [columns for (columns,) in ndimage.find_objects(ndimage.label(mask.any(axis=0))[0])]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 0.5, 8.0)])
def test_a_volume_of_one_slice_is_drawn_with_its_contours(
    tmp_path: Path, axis: int, spacing_mm: tuple[float, float, float]
) -> None:
    reference, prediction = (np.take(m, [10], axis=2) for m in masks())
    reference, prediction = (np.moveaxis(m, 2, axis) for m in (reference, prediction))
    image = np.random.default_rng(0).normal(size=reference.shape)

    draw_case(
        tmp_path / "x.png", image, reference=reference, prediction=prediction, spacing_mm=spacing_mm, title="one slice"
    )

    picture = matplotlib.image.imread(tmp_path / "x.png")
    assert has_colour(picture, "#E69F00")
    assert has_colour(picture, "#56B4E9")


@pytest.mark.parametrize("shape", [(1, 1, 9), (1, 9, 1), (9, 1, 1), (1, 1, 1), (2, 1, 3)])
def test_volumes_with_several_axes_of_length_one_are_drawn(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    mask = np.zeros(shape, np.uint8)
    mask.flat[mask.size // 2] = 1

    draw_case(
        tmp_path / "x.png",
        np.ones(shape),
        reference=mask,
        prediction=0 * mask,
        spacing_mm=(1.0, 1.0, 1.0),
        title="x",
    )

    assert (tmp_path / "x.png").stat().st_size > 0
