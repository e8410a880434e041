"""Tests of enhanced files with several volumes, separated by cardiac phase, gradient direction or any dimension."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from tests.scans.dicom.truth import is_right

Group = Callable[[Dataset, int], None]


def item(**values: object) -> Items:
    d = Dataset()
    for name, value in values.items():
        setattr(d, name, value)
    return Items([d])


def write(path: Path, n_volumes: int, group: Group, dimensions: list[str] | None = None) -> Path:
    """Write an enhanced file of several volumes; `group` gives the functional groups that separate them."""
    arrays = np.random.default_rng(0).integers(0, 4000, (n_volumes, 9, 8, 4)).astype(np.uint16)
    slices = write_mr_series(
        path.parent / "one", arrays[0], np.diag([1, 1, 2, 1.0]), description="", study="s", case="c"
    )
    parts = [pydicom.dcmread(p) for p in slices]
    d = pydicom.dcmread(slices[0])
    for p in slices:
        p.unlink()
    slices[0].parent.rmdir()
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=d.PixelSpacing)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=d.ImageOrientationPatient)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime"):
        delattr(d, name)
    d.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for v in range(n_volumes):
        for k, part in enumerate(parts):
            frame = Dataset()
            frame.PlanePositionSequence = item(ImagePositionPatient=part.ImagePositionPatient)
            frame.FrameContentSequence = item(
                DimensionIndexValues=[v + 1, k + 1], StackID="1", InStackPositionNumber=k + 1
            )
            group(frame, v)
            frames.append(frame)
    if dimensions:
        d.DimensionIndexSequence = Items([item(DimensionIndexPointer=tag_for_keyword(name))[0] for name in dimensions])
    d.PerFrameFunctionalGroupsSequence, d.NumberOfFrames = Items(frames), len(frames)
    d.PixelData = np.ascontiguousarray(arrays.transpose(0, 3, 2, 1)).tobytes()
    d.save_as(path)
    return path


def cardiac_delay(frame: Dataset, v: int) -> None:
    frame.CardiacSynchronizationSequence = item(NominalCardiacTriggerDelayTime=100.0 * v)


def cardiac_phase(frame: Dataset, v: int) -> None:
    frame.CardiacSynchronizationSequence = item(NominalPercentageOfCardiacPhase=30.0 * v)


def direction(frame: Dataset, v: int) -> None:
    """Write an unweighted volume, and two gradient directions of one b-value."""
    if v == 0:
        frame.MRDiffusionSequence = item(DiffusionBValue=0.0, DiffusionDirectionality="NONE")
        return
    along = item(DiffusionGradientOrientation=np.eye(3)[v].tolist())
    frame.MRDiffusionSequence = item(DiffusionBValue=1000.0, DiffusionGradientDirectionSequence=along)


def nothing(frame: Dataset, v: int) -> None:
    """Write frames that differ only in DimensionIndexValues."""


def no_index(frame: Dataset, v: int) -> None:
    del frame.FrameContentSequence[0].DimensionIndexValues


CASES: dict[str, tuple[Group, list[str] | None, str]] = {
    "cardiac_delay": (cardiac_delay, None, "trigger"),
    "cardiac_phase": (cardiac_phase, None, "cardiac"),
    "direction": (direction, None, "direction"),
    "index_alone": (nothing, None, "dimension_1"),
    "index_with_a_name": (nothing, ["ContrastBolusAgentPhase", "InStackPositionNumber"], "contrast_bolus_agent_phase"),
}


@pytest.mark.parametrize(("group", "dimensions", "trait"), CASES.values(), ids=list(CASES))
def test_volumes_are_separated_and_named_by_their_difference(
    group: Group, dimensions: list[str] | None, trait: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "enhanced.dcm", 3, group, dimensions)

    entries = discover(tmp_path).entries

    assert [e.part for e in entries] == [f"{trait}_{n}" for n in (1, 2, 3)]
    assert is_right([path], [read_entry(e, e.name) for e in entries])


def test_volumes_without_a_difference_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "enhanced.dcm", 3, no_index)

    (entry,) = discover(tmp_path).entries

    assert entry.code == "multi_volume"
    assert "no attribute that differs" in entry.problem


@pytest.mark.parametrize("name", ["FrameAcquisitionNumber", "NominalCardiacTriggerDelayTime", "FrameReferenceDateTime"])
def test_a_dimension_of_interleaved_passes_does_not_split_a_volume(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "enhanced.dcm", 1, nothing, [name, "InStackPositionNumber"])
    d = pydicom.dcmread(path)
    for k, frame in enumerate(d.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].DimensionIndexValues = [1 + k % 2, k + 1]
    d.save_as(path)

    assert is_right([path], [read_scan(path)])


GROUPS = {
    "type": ("PETFrameTypeSequence", "FrameType", [["A", "X"], ["A", "Y"], ["A", "Z"]]),
    "asl": ("MRArterialSpinLabelingSequence", "ASLContext", ["CONTROL", "LABEL", "M_ZERO_SCAN"]),
    "velocity": ("MRVelocityEncodingSequence", "VelocityEncodingDirection", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "offset": ("TemporalPositionSequence", "TemporalPositionTimeOffset", [0.0, 10.0, 20.0]),
}


@pytest.mark.parametrize("trait", GROUPS)
def test_further_functional_groups_separate_volumes(trait: str, tmp_path: Path) -> None:
    sequence, name, values = GROUPS[trait]

    def group(frame: Dataset, v: int) -> None:
        no_index(frame, v)
        setattr(frame, sequence, item(**{name: values[v]}))

    path = write(tmp_path / "enhanced.dcm", 3, group)

    entries = discover(tmp_path).entries
    assert sorted(e.part for e in entries) == [f"{trait}_{n}" for n in (1, 2, 3)]
    assert is_right([path], [read_entry(e, e.name) for e in entries])


def test_any_attribute_that_differs_between_volumes_separates_them(tmp_path: Path) -> None:
    def group(frame: Dataset, v: int) -> None:
        no_index(frame, v)
        frame.MRAveragesSequence = item(NumberOfAverages=float(v))

    write(tmp_path / "enhanced.dcm", 3, group)

    assert [e.part for e in discover(tmp_path).entries] == ["volume_1", "volume_2", "volume_3"]


def test_a_differing_attribute_that_separates_no_volumes_is_named(tmp_path: Path) -> None:
    number = count()

    def group(frame: Dataset, v: int) -> None:
        no_index(frame, v)
        frame.MRAveragesSequence = item(NumberOfAverages=float(next(number)))

    write(tmp_path / "enhanced.dcm", 3, group)

    (entry,) = discover(tmp_path).entries
    assert "differ at one position, but do not separate volumes: NumberOfAverages" in entry.problem
