"""Files that change between two calls are noticed: those beside an image, prepared cases, masks of a run, and edited outputs.

The place of an Analyze image is read with nibabel, the independent library.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.spm99analyze import Spm99AnalyzeImage
from PIL import Image

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.dataset import IN_USE, PreparedDataset
from medhybrid.errors import DataError
from medhybrid.files import held
from medhybrid.progress import Silent
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.setup import resolve_setup
from medhybrid.steps.compare import compare
from medhybrid.steps.predict import predict
from medhybrid.steps.report import report
from medhybrid.steps.train import resume
from tests.synthetic import AFFINE, SHAPE, blob_case, save_nifti, small_config, write_csv, write_study
from tests.test_masks_on_grid import with_box
from tests.test_names import model

pytestmark = [pytest.mark.usefixtures("in_this_process"), pytest.mark.filterwarnings("ignore")]

Spacing = tuple[float, float, float]
FIRST, SECOND = (1.5, 1.25, 3.0), (1.75, 1.25, 3.0)


class Messages(Silent):
    """Reporter that keeps the messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        """Keep a message."""
        self.texts.append(text)


def write_analyze(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write an Analyze image with SPM's matrix beside it, by nibabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(Spm99AnalyzeImage(array, affine), path)


# --- files beside a scan ----------------------------------------------------------------------------------------------


def write_scan_of_spm(folder: Path, name: str) -> None:
    write_analyze(folder / f"{name}.img", with_box((8, 7, 6))[0], np.diag([1.5, 1.5, 3.0, 1.0]))
    (folder / f"{name}.mat").unlink()


def write_matrix(folder: Path, spacing: Spacing) -> None:
    write_analyze(folder.parent / "other" / "a.img", with_box((8, 7, 6))[0], np.diag([*spacing, 1.0]))
    shutil.copyfile(folder.parent / "other" / "a.mat", folder / "a.mat")


def write_tiff(folder: Path, name: str) -> None:
    Image.fromarray(with_box((8, 7, 6))[0][:, :, 2].astype(np.uint16)).save(folder / f"{name}.tif")


def write_spacing(folder: Path, spacing: Spacing) -> None:
    x, y, z = spacing
    (folder / "a.json").write_text(json.dumps({"spacing": [z, y, x]}))


KINDS = {"SPM": (write_scan_of_spm, write_matrix), "TIFF": (write_tiff, write_spacing)}

Write = tuple[Callable[[Path, str], None], Callable[[Path, Spacing], None]]


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def write(request: pytest.FixtureRequest) -> Write:
    found: Write = request.param
    return found


def zooms(path: Path) -> tuple[float, ...]:
    return tuple(np.round(np.linalg.norm(nib.load(path).affine[:3, :3], axis=0), 4).tolist())


@pytest.mark.parametrize("was_there", [False, True], ids=["added", "changed"])
def test_a_scan_whose_place_is_stated_anew_is_predicted_again(tmp_path: Path, write: Write, was_there: bool) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for name in ("a", "b"):
        write[0](scans, name)
    if was_there:
        write[1](scans, FIRST)
    predict(scans, model=model(), out=out)
    before = zooms(out / "masks" / "a.nii.gz")
    write[1](scans, SECOND)

    second = predict(scans, model=model(), out=out)
    third = predict(scans, model=model(), out=out)

    assert before != SECOND
    assert zooms(out / "masks" / "a.nii.gz") == SECOND
    assert {p.case: p.status for p in second.predictions} == {"a": "done", "b": "done"}
    assert (second.n_skipped, third.n_skipped) == (1, 2)


def test_a_report_does_not_draw_a_scan_whose_place_is_stated_anew(tmp_path: Path, write: Write) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    write[0](scans, "a")
    write[1](scans, FIRST)
    predict(scans, model=model(), out=out)
    same = report(out).read_text()
    write[1](scans, SECOND)

    changed = report(out).read_text()

    assert "the scan has changed" not in same
    assert same.count('data-kind="image"') == 1
    assert "the scan has changed since its mask was predicted" in changed
    assert changed.count('data-kind="image"') == 0


# --- files beside the images of a dataset -----------------------------------------------------------------------------

SHIFT_MM = 0.125
"""Below `prepare.max_affine_error_mm` for a tolerant config, so that masks still belong to their images."""


def moved(affine: np.ndarray) -> np.ndarray:
    shifted = affine.copy()
    shifted[0, 3] += SHIFT_MM
    return shifted


def write_pair(folder: Path, affine: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Pair(blob_case(0)[0].astype(np.int16), affine), folder / "c0.img")


def study_with_pair(tmp_path: Path, *, is_spm: bool) -> StudyConfig:
    """Write a dataset whose table lists the `.img` file of the first case."""
    data = tmp_path / "data"
    rows = []
    for n in range(4):
        image, mask = blob_case(n)
        suffix = "nii.gz" if n else "img"
        if n:
            save_nifti(data / f"c{n}.nii.gz", image)
        save_nifti(data / "masks" / f"c{n}.nii.gz", mask)
        rows.append({"case": f"c{n}", "T1": f"c{n}.{suffix}", "mask": f"masks/c{n}.nii.gz"})
    if is_spm:
        write_analyze(data / "c0.img", blob_case(0)[0].astype(np.int16), AFFINE)
    else:
        write_pair(data, AFFINE)
    write_csv(data, rows)
    return small_config(tmp_path, "prepare.max_affine_error_mm=0.5")


@pytest.mark.parametrize("name", ["c0.mat", "c0.hdr"])
def test_a_case_whose_place_is_stated_anew_is_prepared_again(tmp_path: Path, name: str) -> None:
    config = study_with_pair(tmp_path, is_spm=name == "c0.mat")
    assert medhybrid.preprocess(config).left_out == ()
    other = tmp_path / "other"
    if name == "c0.mat":
        write_analyze(other / "c0.img", blob_case(0)[0].astype(np.int16), moved(AFFINE))
    else:
        write_pair(other, moved(AFFINE))
    shutil.copyfile(other / name, tmp_path / "data" / name)

    second, third = medhybrid.preprocess(config), medhybrid.preprocess(config)

    (case,) = PreparedDataset(second.folder).open(["c0"])
    truth = nib.load(tmp_path / "data" / "c0.img").affine
    np.testing.assert_allclose(truth, moved(AFFINE), atol=1e-4)
    np.testing.assert_allclose(case.record.source_affine, truth, atol=1e-4)
    assert (second.n_prepared, second.n_unchanged) == (1, 3)
    assert (third.n_prepared, third.n_unchanged) == (0, 4)


def test_a_matrix_added_to_a_case_is_noticed(tmp_path: Path) -> None:
    config = study_with_pair(tmp_path, is_spm=True)
    matrix = (tmp_path / "data" / "c0.mat").read_bytes()
    (tmp_path / "data" / "c0.mat").unlink()
    assert medhybrid.preprocess(config).left_out == ("c0",)  # Analyze alone has another place than the mask
    (tmp_path / "data" / "c0.mat").write_bytes(matrix)

    second = medhybrid.preprocess(config)

    assert second.left_out == ()
    assert (second.n_prepared, second.n_unchanged) == (1, 3)


@pytest.mark.parametrize("was_there", [False, True], ids=["added", "changed"])
def test_a_tiff_whose_spacing_is_stated_anew_is_prepared_again(tmp_path: Path, was_there: bool) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for n in range(4):
        image, mask = (v[:, :, 10] for v in blob_case(n))
        Image.fromarray(image).save(data / f"c{n}.tif")
        Image.fromarray(mask).save(data / f"c{n}_mask.png")
    write_csv(data, [{"case": f"c{n}", "T1": f"c{n}.tif", "mask": f"c{n}_mask.png"} for n in range(4)])
    if was_there:
        (data / "c0.json").write_text(json.dumps({"spacing": [1, 0.5, 0.5]}))
    config = small_config(tmp_path, "prepare.patch_size=[24,24,1]", "prepare.spacing_mm=[1,1,1]")
    assert medhybrid.preprocess(config).left_out == ()
    (data / "c0.json").write_text(json.dumps({"spacing": [1, 0.75, 0.5]}))

    second, third = medhybrid.preprocess(config), medhybrid.preprocess(config)

    (case,) = PreparedDataset(second.folder).open(["c0"])
    assert np.abs(np.diag(case.record.source_affine)[:2]).tolist() == [0.5, 0.75]
    assert (second.n_prepared, second.n_unchanged) == (1, 3)
    assert (third.n_prepared, third.n_unchanged) == (0, 4)


# --- prepared cases and trainings -------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    """Return the config of a prepared study, in which case_00 has no mask and is left out."""
    write_study(tmp_path / "data", n_cases=8)
    (tmp_path / "data" / "labelsTr" / "case_00.nii.gz").unlink()
    config = small_config(tmp_path, "training.iterations=2", "tracking.kind=none")
    assert medhybrid.preprocess(config).left_out == ("case_00",)
    return config


def change_mask(config: StudyConfig, case: str) -> None:
    path = Path(str(config.data.root)) / "labelsTr" / f"{case}.nii.gz"
    mask = np.array(nib.load(path).dataobj)
    mask[tuple(np.argwhere(mask == 1)[0])] = 0
    save_nifti(path, mask)


def test_cases_that_preprocess_left_out_do_not_hinder_a_training(config: StudyConfig) -> None:
    setup = resolve_setup(config)

    assert {c.name for c in setup.train_cases} == {"case_01", "case_02", "case_03", "case_04"}
    assert "case_00" in setup.fold.train


@pytest.mark.parametrize("case", ["case_02", "case_06"], ids=["training", "validation"])
@pytest.mark.parametrize("lost", [".", "case.json"])
def test_a_training_refuses_prepared_cases_that_are_missing(config: StudyConfig, case: str, lost: str) -> None:
    path = prepared_folder(config) / "cases" / case / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    with pytest.raises(DataError, match=rf"1 prepared cases are missing in .*Found {case}\..*preprocess again"):
        resolve_setup(config)


def test_missing_cases_of_another_fold_do_not_hinder_a_training(config: StudyConfig) -> None:
    kept = config.model_copy(update={"training": config.training.model_copy(update={"max_cases": 2})})
    names = {c.name for c in resolve_setup(kept).train_cases}
    other = min({"case_01", "case_02", "case_03", "case_04"} - names)
    fold = json.loads((prepared_folder(config) / "folds.json").read_text())
    fold[0]["train"].remove(other)
    (prepared_folder(config) / "folds.json").write_text(json.dumps(fold))
    shutil.rmtree(prepared_folder(config) / "cases" / other)

    assert other not in {c.name for c in resolve_setup(config).train_cases}


def test_prepared_cases_are_not_changed_while_a_training_uses_them(config: StudyConfig) -> None:
    folder = prepared_folder(config)
    before = {p: p.read_bytes() for p in (folder / "cases").rglob("*") if p.is_file()}

    with held(folder / IN_USE, is_shared=True):
        assert medhybrid.preprocess(config).n_unchanged == 7, "nothing changes"
        change_mask(config, "case_02")
        with pytest.raises(
            DataError, match=r"a training uses the prepared cases of .*they would change.*prepare\.folder"
        ):
            medhybrid.preprocess(config)
        assert {p: p.read_bytes() for p in (folder / "cases").rglob("*") if p.is_file()} == before

    assert medhybrid.preprocess(config).n_prepared == 1


def test_no_prepared_case_is_removed_while_a_training_uses_it(config: StudyConfig) -> None:
    (Path(str(config.data.root)) / "labelsTr" / "case_02.nii.gz").write_bytes(b"damaged")

    with held(prepared_folder(config) / IN_USE, is_shared=True), suppress(DataError):
        medhybrid.preprocess(config)

    assert "case_02" in PreparedDataset(prepared_folder(config)).names()


def test_a_plan_is_not_changed_while_a_training_uses_it(config: StudyConfig) -> None:
    other = config.model_copy(update={"prepare": config.prepare.model_copy(update={"spacing_mm": (2.0, 2.0, 3.0)})})

    with (
        held(prepared_folder(config) / IN_USE, is_shared=True),
        pytest.raises(DataError, match="a training uses the prepared cases"),
    ):
        medhybrid.preprocess(other)

    assert resolve_setup(config).plan.spacing_mm == (1.5, 1.5, 3.0)


@pytest.mark.usefixtures("blank_pictures", "small_program")
def test_a_training_holds_its_prepared_cases(config: StudyConfig) -> None:
    refused: list[str] = []

    def prepare_again(_: Path) -> None:
        change_mask(config, "case_02")
        with pytest.raises(DataError) as caught:
            medhybrid.preprocess(config)
        refused.append(str(caught.value))

    medhybrid.train(config, on_start=prepare_again)

    assert "a training uses the prepared cases" in refused[0]
    assert medhybrid.preprocess(config).n_prepared == 1


@pytest.mark.usefixtures("blank_pictures", "small_program")
def test_resume_names_masks_that_changed_since_they_were_prepared(config: StudyConfig) -> None:
    run = medhybrid.train(config)
    unchanged, changed = Messages(), Messages()
    resume(run.folder, ["training.iterations=+1"], reporter=unchanged)
    change_mask(config, "case_02")

    resume(run.folder, ["training.iterations=+1"], reporter=changed)

    assert not any("have changed" in text for text in unchanged.texts)
    (message,) = (text for text in changed.texts if "have changed" in text)
    assert "files of 1 cases have changed since they were prepared; the changes are not used: case_02." in message


@pytest.mark.usefixtures("blank_pictures", "small_program")
def test_compare_draws_no_case_whose_data_were_prepared_again(config: StudyConfig, tmp_path: Path) -> None:
    first = medhybrid.train(config).folder
    second = first.with_name("second")
    shutil.copytree(first, second)
    with (second / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows[0]["dice"] = "0.875"
    with (second / "validation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    drawn = compare(first, second, out=tmp_path / "before").page.read_text().count("<svg viewBox")
    change_mask(config, rows[0]["case"])
    medhybrid.preprocess(config)

    result = compare(first, second, out=tmp_path / "after")

    assert drawn == 6
    assert result.page.read_text().count("<svg viewBox") == 0
    assert (rows[0]["case"], 0.875) in {(case, y) for case, _, y in result.cases}


# --- edited masks -----------------------------------------------------------------------------------------------------


def test_a_report_does_not_score_an_edited_mask_and_says_so(tmp_path: Path) -> None:
    scans, out, references = tmp_path / "scans", tmp_path / "out", tmp_path / "references"
    array, _ = with_box(SHAPE)
    for name in ("a", "b"):
        save_nifti(scans / f"{name}.nii.gz", array)
        save_nifti(references / f"{name}.nii.gz", np.where(array > 500, 255, 0).astype(np.uint8))
    predict(scans, model=model(), out=out)
    mask = np.array(nib.load(out / "masks" / "a.nii.gz").dataobj)
    mask[-1] = 255
    save_nifti(out / "masks" / "a.nii.gz", mask)

    text = report(out, references=references, layout="single").read_text()

    assert text.count("the mask was edited after predict wrote it: the measures are those of the original") == 1
    assert text.count("an edited mask is not scored") == 1
    assert text.count("Against the reference") == 1, "of the other mask"


def test_a_mask_whose_time_alone_changed_is_scored(tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    array, _ = with_box(SHAPE)
    save_nifti(scans / "a.nii.gz", array)
    save_nifti(tmp_path / "references" / "a.nii.gz", np.where(array > 500, 255, 0).astype(np.uint8))
    predict(scans, model=model(), out=out)
    os.utime(out / "masks" / "a.nii.gz", (2e9, 2e9))

    text = report(out, references=tmp_path / "references").read_text()

    assert "was edited" not in text
    assert "Against the reference" in text
