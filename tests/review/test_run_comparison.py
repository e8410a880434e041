"""Several runs are compared with the first one, case by case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medhybrid.metrics import paired_difference
from medhybrid.review.run_comparison import draw_runs, holm, markdown_of_runs, rows_of_runs, score_runs

FIRST = [0.5, 0.6, 0.7, 0.8, 0.55, 0.65]
BETTER = [d + 0.1 for d in FIRST]


def test_p_values_are_corrected_by_holms_method() -> None:
    # by hand: 0.01 x 3; 0.03 x 2; 0.04 x 1, which must not be below the value before
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_each_run_has_its_mean_and_its_difference_to_the_first() -> None:
    first, better, same = score_runs(["a", "b", "c"], [FIRST, BETTER, FIRST])

    assert first.difference is None
    assert first.mean.mean == pytest.approx(np.mean(FIRST))
    assert better.difference is not None
    assert better.difference.interval.mean == pytest.approx(0.1)
    assert better.p == pytest.approx(2 * paired_difference(BETTER, FIRST).p)
    assert same.difference is not None
    assert (same.difference.n_better, same.difference.n_worse) == (0, 0)


def test_the_table_has_a_row_for_each_run_and_names_its_methods() -> None:
    runs = score_runs(["a", "b|c"], [FIRST, BETTER])
    columns, rows = rows_of_runs(runs)
    text = markdown_of_runs(runs)

    assert [len(row) for row in rows] == [len(columns)] * 2
    assert rows[1][-1] == "6, 0"
    assert r"b\|c" in text
    assert "6 cases" in text
    assert "Holm" in text


def test_the_figure_grows_with_the_runs(tmp_path: Path) -> None:
    heights = []
    for n in (3, 6):
        runs = score_runs([f"run {i}" for i in range(n)], [FIRST] * n)
        with Image.open(draw_runs(tmp_path / f"{n}.png", runs)) as image:
            heights.append(image.height)
            assert len(set(image.convert("L").tobytes())) > 10, "points and intervals are drawn"
    assert heights[0] < heights[1]
