"""Tests of slices of several kinds at alternating positions: split or refused, unless the variation is normal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from medhybrid.errors import SeriesError
from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from tests.scans.dicom.test_awkward import edit_all
from tests.scans.dicom.truth import is_right

N = 8


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    array = np.random.default_rng(0).integers(0, 4000, (9, 8, N)).astype(np.uint16)
    return write_mr_series(tmp_path / "series", array, np.diag([1, 1, 2, 1.0]), description="T1", study="s", case="c")


def alternating(name: str, *values: object) -> Callable[[Dataset, int], None]:
    def edit(d: Dataset, k: int) -> None:
        value = values[k % len(values)]
        if value is None:
            if name in d:
                delattr(d, name)
            return
        setattr(d, name, value)

    return edit


SPLIT = {
    "echo": (alternating("EchoTime", "10", "80"), "echo", 2),
    "three_echoes": (alternating("EchoTime", "10", "40", "80"), "echo", 3),
    "four_echoes": (alternating("EchoTime", "10", "20", "30", "40"), "echo", 4),
    "type": (alternating("ImageType", ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "type", 2),
    "weighting": (alternating("DiffusionBValue", 0.0, 1000.0), "b", 2),
    "weighting_or_none": (alternating("DiffusionBValue", 1000.0, None), "b", 2),
    "inversion": (alternating("InversionTime", "150", "2500"), "inversion", 2),
    "time": (alternating("TemporalPositionIdentifier", 1, 2), "time", 2),
    "voltage": (alternating("KVP", "80", "140"), "kvp", 2),
    "kernel": (alternating("ConvolutionKernel", "B30f", "B70f"), "kernel", 2),
    "flip": (alternating("FlipAngle", "5", "26"), "flip", 2),
    "contrast": (alternating("ContrastBolusAgent", "agent", None), "contrast", 2),
    "rescale": (alternating("RescaleType", "HU", "US"), "rescale", 2),
    "photometric": (alternating("PhotometricInterpretation", "MONOCHROME1", "MONOCHROME2"), "photometric", 2),
    "sequence": (alternating("SequenceName", "*se2d1", "*fl2d1"), "sequence", 2),
    "stack": (alternating("StackID", "1", "2"), "stack", 2),
}


@pytest.mark.parametrize(("edit", "trait", "n"), SPLIT.values(), ids=list(SPLIT))
def test_kinds_at_alternating_positions_are_split_or_refused(
    edit: Callable[[Dataset, int], None], trait: str, n: int, series: list[Path]
) -> None:
    edit_all(series, edit)

    with pytest.raises(SeriesError) as caught:
        read_scan(series)

    assert caught.value.code == "multi_volume"
    entries = discover(series[0].parent).entries
    assert len(entries) == n
    assert all(e.part.startswith(f"{trait}_") and not e.problem for e in entries)
    if trait != "photometric":
        assert is_right(series, [read_entry(e, e.name) for e in entries])


def blocks(name: str, *values: object) -> Callable[[Dataset, int], None]:
    return lambda d, k: setattr(d, name, values[k * len(values) // N])


def each(name: str, value: Callable[[int], object]) -> Callable[[Dataset, int], None]:
    return lambda d, k: setattr(d, name, value(k))


WHOLE = {
    "number": each("InstanceNumber", lambda k: 100 - 7 * k),
    "clock_of_interleaved_slices": alternating("AcquisitionTime", "120000", "120130"),
    "clock": each("AcquisitionTime", lambda k: f"12{k:02d}00"),
    "slope": each("RescaleSlope", lambda k: 1 + (k % 2)),
    "growing_trigger": each("TriggerTime", lambda k: str(40 * k)),
    "trigger_of_slices_excited_together": each("TriggerTime", lambda k: str(40 * (k % 4))),
    "acquisition_of_passes": alternating("AcquisitionNumber", 1, 2),
    "trigger_of_passes": alternating("TriggerTime", "10", "400"),
    "acquisition_of_blocks": blocks("AcquisitionNumber", 1, 2),
    "acquisition_of_each_slice": each("AcquisitionNumber", lambda k: k + 1),
    "inversion_of_each_slice": each("InversionTime", lambda k: str(100 + 37 * ((k * 5) % 8))),
    "flip_within_a_tenth": each("FlipAngle", lambda k: ("150", "145", "150", "150", "145", "145", "150", "150")[k]),
    "kernel_that_some_slices_lack": each("ConvolutionKernel", lambda k: "B30f" if k in (1, 2, 6) else ""),
    "rounded_echo": each("EchoTime", lambda k: ("2.46", "2.47", "2.46", "2.46", "2.47", "2.47", "2.46", "2.46")[k]),
    "type_of_the_first_slice": each("ImageType", lambda k: ["ORIGINAL", "PRIMARY", "OTHER" if k else "FIRST"]),
    "tube_current": each("XRayTubeCurrent", lambda k: str((100, 200)[k in (1, 2, 5, 6)])),
    "repetition_within_a_half": each("RepetitionTime", lambda k: ("900", "1200")[k in (1, 2, 5)]),
    "directions_written_with_jitter": each(
        "DiffusionGradientOrientation", lambda k: [0.6, 0.8 + 1e-5 * (k in (1, 2, 5)), 0]
    ),
    "time_of_slices_excited_together": each("TemporalPositionIdentifier", lambda k: k % 4),
    "a_word_that_some_slices_lack": each(
        "ImageType", lambda k: ["ORIGINAL", "PRIMARY", "M"] + ["ND"] * (k in (1, 2, 5))
    ),
    "repetition_of_gated_slices": each("RepetitionTime", lambda k: str(900 + 13 * ((k * 5) % 7))),
}


@pytest.mark.parametrize("edit", WHOLE.values(), ids=list(WHOLE))
def test_normal_variation_between_slices_does_not_split_a_volume(
    edit: Callable[[Dataset, int], None], series: list[Path]
) -> None:
    def with_intercept(d: Dataset, k: int) -> None:
        d.RescaleSlope, d.RescaleIntercept = 1, 0
        edit(d, k)

    edit_all(series, with_intercept)

    assert is_right(series, [read_scan(series)])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("EchoTime", ["10", "10", "10", "10", "80", "80", "80", "80"]),
        ("EchoTime", ["10", "80", "80", "10", "80", "10", "10", "80"]),
        ("DiffusionBValue", [0.0, 0.0, 1000.0, 0.0, 1000.0, 1000.0, 0.0, 0.0]),
        ("ConvolutionKernel", ["B30f", "B30f", "B70f", "B70f"] * 2),
        ("ImageType", [["ORIGINAL", "PRIMARY", c] for c in "MMPPMPPM"]),
        ("ComplexImageComponent", ["MAGNITUDE"] * 3 + ["PHASE"] * 5),
        ("FlipAngle", ["5", "20", "20", "5", "5", "20", "5", "5"]),
        ("InversionTime", ["150", "150", "2500", "2500"] * 2),
        ("RescaleType", ["HU"] * 5 + ["US"] * 3),
        ("KVP", ["80", "140", "140", "80", "140", "80", "80", "140"]),
        ("SequenceName", ["*ep_b0", "*ep_b0", "*ep_b1000t", "*ep_b0", "*ep_b1000t", "*ep_b1000t", "*ep_b0", "*ep_b0"]),
        ("RepetitionTime", ["500", "4000", "4000", "500", "500", "500", "4000", "4000"]),
        ("ContrastBolusAgent", ["", "GD", "GD", "", "GD", "GD", "", ""]),
        ("FilterType", ["HEAD", "BODY", "BODY", "HEAD"] * 2),
        ("StackID", ["1", "2", "2", "1", "2", "1", "1", "2"]),
        ("DiffusionGradientOrientation", [[1.0, 0, 0] if c == "x" else [0, 1.0, 0] for c in "xyyxyxxy"]),
        ("TemporalPositionIdentifier", [1, 1, 2, 1, 2, 2, 1, 2]),
        ("ImageType", [["ORIGINAL", "PRIMARY", "M", "WATER" if c == "w" else "FAT"] for c in "wffwfffw"]),
        ("ImageType", [["DERIVED", "PRIMARY", c, "NONE"] for c in "WFFWWWFW"]),
        ("ImageType", [["DERIVED", "PRIMARY", "DIFFUSION", "ADC" if c == "a" else "TRACEW"] for c in "aaaaattt"]),
        ("ImageType", [["DERIVED", "PRIMARY", "OTHER", "MAP_A" if c == "a" else "MAP_B"] for c in "abbabaab"]),
        ("PhotometricInterpretation", ["MONOCHROME2"] * 3 + ["MONOCHROME1"] + ["MONOCHROME2"] * 4),
    ],
)
def test_two_contrasts_in_one_stack_are_refused_in_any_order(
    name: str, values: list[object], series: list[Path]
) -> None:
    edit_all(series, lambda d, k: setattr(d, name, values[k]))

    with pytest.raises(SeriesError, match=r"Expected one \w+ in all slices") as caught:
        read_scan(series)

    assert caught.value.code == "multi_volume"


def test_a_stack_in_which_every_second_slice_lacks_rescaling_is_refused(series: list[Path]) -> None:
    def rescaled(d: Dataset, k: int) -> None:
        if k % 2:
            d.RescaleSlope, d.RescaleIntercept, d.RescaleType = 2, 0, "US"

    edit_all(series, rescaled)

    (entry,) = discover(series[0].parent).entries

    assert entry.code == "not_image"
    assert "no rescaling" in entry.problem
