"""Regions that nest are trained, scored and exported as wholes, and give one label map."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from tests.synthetic import save_nifti, small_values

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def nested_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and a mask with edema (2) around a core (5)."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (24, 24, 16)), indexing="ij"))
    centre = np.array([12, 12, 8]) + rng.uniform(-2, 2, 3)
    distance = np.sqrt(((index - centre[:, None, None, None]) ** 2).sum(0))
    mask = np.where(distance < 3.5, 5, np.where(distance < 6.5, 2, 0)).astype(np.uint8)
    image = 100 + 60 * (mask == 2) + 140 * (mask == 5) + rng.normal(0, 8, mask.shape)
    return image.astype(np.int16), mask


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, medhybrid.Run]:
    folder = tmp_path_factory.mktemp("regions")
    names = [f"case_{i}" for i in range(7)]
    for i, name in enumerate(names):
        image, mask = nested_case(i)
        save_nifti(folder / "data" / "imagesTr" / f"{name}.nii.gz", image, AFFINE)
        save_nifti(folder / "data" / "labelsTr" / f"{name}.nii.gz", mask, AFFINE)
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    (folder / "data" / "dataset.json").write_text(json.dumps({"training": listed}))
    (folder / "data" / "splits.json").write_text(json.dumps([{"train": names[:5], "validation": names[5:]}]))
    values = small_values(folder)
    values["data"]["labels"] = {"whole": [2, 5], "core": 5}
    values["tracking"] = {"kind": "none"}
    values["training"]["iterations"] = 80
    config = StudyConfig.model_validate(values)
    medhybrid.preprocess(config)
    return config, medhybrid.train(config)


def test_regions_are_scored_as_wholes(trained: tuple[StudyConfig, medhybrid.Run]) -> None:
    config, run = trained
    (case,) = PreparedDataset(Path(config.prepare.folder) / "blobs").open(["case_5"])

    assert config.data.labels == {"whole_rest": 2, "core": 5}
    _, mask = nested_case(5)
    assert case.record.reference_ml["whole"] == pytest.approx((mask > 0).sum() * 8e-3)
    assert case.record.reference_ml["core"] == pytest.approx((mask == 5).sum() * 8e-3)
    assert run.metrics["val_label/whole/dice"] > 0.8
    assert run.metrics["val_label/core/dice"] > 0.7
    page = (run.folder / "report.html").read_text()
    assert all(f"{name}, ml" in page for name in ("whole", "core", "whole_rest"))


def test_a_predicted_mask_has_the_values_of_the_files_and_measures_of_each_region(
    trained: tuple[StudyConfig, medhybrid.Run], tmp_path: Path
) -> None:
    image, _ = nested_case(20)
    write_mr_series(tmp_path / "scans" / "a", image.astype(np.uint16), AFFINE, description="T1", study="s", case="x")

    medhybrid.predict(tmp_path / "scans", model=trained[1].folder, out=tmp_path / "out")

    (path,) = (tmp_path / "out" / "masks").glob("*.nii.gz")
    made = read_scan(path).array[0]
    assert set(np.unique(made)) <= {0, 2, 5}
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["whole volume_ml"]) == pytest.approx((made > 0).sum() * 8e-3, rel=1e-3)
    assert float(row["core volume_ml"]) == pytest.approx((made == 5).sum() * 8e-3, rel=1e-3)
    assert float(row["whole_rest volume_ml"]) == pytest.approx((made == 2).sum() * 8e-3, rel=1e-3)
    (seg,) = (tmp_path / "out" / "seg").glob("*.dcm")
    dataset = pydicom.dcmread(seg)
    assert [s.SegmentLabel for s in dataset.SegmentSequence] == ["whole", "core"]
    frames = dataset.pixel_array
    of = [g.SegmentIdentificationSequence[0].ReferencedSegmentNumber for g in dataset.PerFrameFunctionalGroupsSequence]
    sizes = {n: int(sum(f.sum() for f, s in zip(frames, of, strict=True) if s == n)) for n in (1, 2)}
    assert sizes == {1: int((made > 0).sum()), 2: int((made == 5).sum())}, "the segments overlap"

    save_nifti(tmp_path / "references" / path.name, nested_case(20)[1], AFFINE)
    scores = medhybrid.evaluate(
        tmp_path / "references", tmp_path / "out", labels=trained[0].data.labels, regions=trained[0].data.regions
    )
    assert {s.label: s.reference_ml for s in scores.scores} == pytest.approx(
        {"whole": (nested_case(20)[1] > 0).sum() * 8e-3, "core": (nested_case(20)[1] == 5).sum() * 8e-3}
    )
    page = medhybrid.report(tmp_path / "out", references=tmp_path / "references").read_text()
    assert all(f"{name}, ml" in page for name in ("whole", "core", "whole_rest"))
