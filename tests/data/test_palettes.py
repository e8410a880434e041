"""Masks in which the same value has another colour are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medhybrid.data.palettes import palette_findings
from medhybrid.steps.init import init_study

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def write_mask(path: Path, colours: list[tuple[int, int, int]], values: list[int]) -> Path:
    """Write a mask with the values in equal bands, and a palette with black for 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.repeat(np.array([0, *values], np.uint8), 16)[:, None].repeat(32, axis=1), mode="P")
    image.putpalette([c for colour in [(0, 0, 0), *colours] for c in colour])
    image.save(path)
    return path


def test_a_value_with_two_colours_is_named(tmp_path: Path) -> None:
    masks = {f"c{i}": write_mask(tmp_path / f"{i}.png", [RED, GREEN], [1, 2]) for i in range(4)}
    masks["c4"] = write_mask(tmp_path / "4.png", [GREEN, RED], [1, 2])
    masks["c5"] = write_mask(tmp_path / "5.png", [RED, BLUE], [1])  # the other entry is not used

    first, second = palette_findings(masks)

    assert (first.where, first.expected[:7], first.found) == ("c4", "#ff0000", "#00ff00")
    assert "the value 2" in second.message
    assert palette_findings({c: p for c, p in masks.items() if c != "c4"}) == []


def test_colours_of_large_values_are_compared(tmp_path: Path) -> None:
    colours = [(i, 0, 0) for i in range(1, 256)]
    other = [*colours[:127], BLUE, *colours[128:]]
    masks = {f"c{i}": write_mask(tmp_path / f"{i}.png", c, [128, 255]) for i, c in enumerate([colours, colours, other])}

    (found,) = palette_findings(masks)

    assert (found.where, found.expected[:7], found.found) == ("c2", "#800000", "#0000ff")


def test_grey_masks_and_unreadable_files_have_no_colours(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")

    assert palette_findings({n: tmp_path / f"{n}.png" for n in ("a", "b", "c")}) == []


def test_init_names_exchanged_colours(tmp_path: Path) -> None:
    for i, colours in enumerate([[RED, GREEN], [RED, GREEN], [GREEN, RED]]):
        write_mask(tmp_path / "d" / "masks" / f"p{i}.png", colours, [1, 2])
        grey = np.random.default_rng(i).integers(0, 255, (48, 32), np.uint8)
        (tmp_path / "d" / "images").mkdir(exist_ok=True)
        Image.fromarray(grey).save(tmp_path / "d" / "images" / f"p{i}.png")

    remarks = init_study(tmp_path / "d", tmp_path / "study.yaml").draft.remarks

    assert sum("in several colours: labels may be exchanged; p2 has" in r for r in remarks) == 2
