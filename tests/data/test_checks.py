"""Every check finds its error with the right severity, and nothing in a good case."""

import numpy as np
import pytest

from medhybrid.data.checks import check_image, check_mask
from medhybrid.data.dataset_checks import ct_findings
from medhybrid.data.fingerprint import CaseFingerprint
from medhybrid.geometry import Grid

CHANNELS = ["T1", "FLAIR"]
LABELS = {"left": 1, "right": 4}
GRID = Grid((4, 5, 6), np.eye(4))


def good_image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)


def good_mask() -> np.ndarray:
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1:3], mask[3:] = 1, 4
    return mask


def codes(findings: list) -> dict[str, str]:  # type: ignore[type-arg]
    return {f.code: f.severity for f in findings}


def test_a_good_case_has_no_findings() -> None:
    assert not check_image("a", good_image(), CHANNELS, ())
    assert not check_mask("a", GRID, good_mask(), GRID, LABELS, 0.01)


def test_nan_and_infinite_values_are_errors_with_their_count() -> None:
    image = good_image()
    image[0, 0, 0, 0], image[0, 0, 0, 1] = np.nan, np.inf

    (finding,) = check_image("a", image, CHANNELS, ())

    assert (finding.code, finding.severity, finding.found) == ("not_finite", "error", "2 voxels")


def test_a_constant_channel_is_an_error_unless_it_is_missing() -> None:
    image = good_image()
    image[1] = 7

    assert codes(check_image("a", image, CHANNELS, ())) == {"constant": "error"}
    assert codes(check_image("a", image, CHANNELS, ("channel FLAIR is missing",))) == {"note": "warning"}


def test_a_copied_channel_is_a_warning() -> None:
    image = good_image()
    image[1] = image[0]

    (finding,) = check_image("a", image, CHANNELS, ())
    (blanked,) = check_image("a", image, CHANNELS, (), blanked_if_copied=["T1"])

    assert (finding.code, finding.severity) == ("copied_channel", "warning")
    assert "mark that channel optional" in finding.remedy
    assert blanked.found == "T1 is treated as missing"


def test_a_wrong_number_of_channels_is_an_error() -> None:
    assert codes(check_image("a", good_image()[:1], CHANNELS, ())) == {"channels": "error"}


@pytest.mark.parametrize(("shift", "is_error"), [(0.005, False), (0.5, True)])
def test_a_mask_at_another_position_is_an_error_beyond_the_tolerance(shift: float, is_error: bool) -> None:
    affine = np.eye(4)
    affine[0, 3] = shift

    findings = check_mask("a", GRID, good_mask(), Grid(GRID.shape, affine), LABELS, 0.01)

    assert codes(findings) == ({"affine": "error"} if is_error else {})


def test_another_shape_an_unknown_label_and_an_empty_mask_are_found() -> None:
    unknown = good_mask()
    unknown[0, 0, 0] = 2

    other_shape = check_mask("a", GRID, good_mask()[:2], Grid((2, 5, 6), np.eye(4)), LABELS, 0.01)

    assert codes(other_shape) == {"shape": "error"}
    assert codes(check_mask("a", GRID, unknown, GRID, LABELS, 0.01)) == {"unknown_label": "error"}
    assert codes(check_mask("a", GRID, 0 * good_mask(), GRID, LABELS, 0.01)) == {"empty_mask": "warning"}


def fingerprint(low: float, high: float, median: float | None = None) -> CaseFingerprint:
    return CaseFingerprint(
        shape=(4, 4, 4),
        spacing_mm=(1, 1, 1),
        foreground_ml={},
        samples={},
        percentiles={"A": (low, (low + high) / 2 if median is None else median, high)},
    )


def test_only_ct_scans_of_another_scale_are_reported() -> None:
    ranges = {
        "head": (-1000, 900),
        "body": (-1020, 400),
        "padded": (-2048, 1200),
        "normalised": (0, 1),
        "shifted": (24, 1400),
        "shifted and padded": (-1024, 1500, 1060),
        "byte": (0, 255),
        "missing": (0, 0),
    }

    findings = ct_findings({n: fingerprint(r[0], *r[1:]) for n, r in ranges.items()}, ["A"])

    assert [(f.where, f.code, f.severity) for f in findings] == [
        (n, "ct_values", "warning") for n in ("normalised", "shifted", "shifted and padded", "byte")
    ]
    assert findings[0].found == "values from 0 to 1 (percentiles 1 and 99), median 0.5"
    vertebrae = {f"c{i}": fingerprint(-80 - i, 1300, 250) for i in range(4)}
    assert not ct_findings(vertebrae, ["A"])
    skull_stripped = {f"c{i}": fingerprint(0, 80 + i) for i in range(4)}
    assert not ct_findings(skull_stripped, ["A"])
    assert [f.where for f in ct_findings({"only": fingerprint(0, 1)}, ["A"])] == ["only"]
