"""Further changes between two calls: labels in another order, a shorter length, another model's masks, exchanged scans."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medhybrid
from medhybrid.cli import main
from medhybrid.config import StudyConfig
from medhybrid.errors import ConfigError, DataError
from medhybrid.planning.plan import Plan
from medhybrid.runs.prepared import prepared_folder
from medhybrid.steps.compare import compare, judged
from medhybrid.steps.compare_runs import compare_runs
from medhybrid.steps.evaluate import evaluate
from medhybrid.steps.predict import predict
from medhybrid.steps.report import report
from medhybrid.steps.train import resume
from tests.steps.test_changes_between_calls import Messages
from tests.synthetic import SHAPE, save_nifti, small_config, write_study
from tests.test_masks_on_grid import with_box
from tests.test_names import model

pytestmark = [
    pytest.mark.usefixtures("in_this_process", "blank_pictures", "small_program"),
    pytest.mark.filterwarnings("ignore"),
]

LABELS = {"lesion": 255}


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    write_study(tmp_path / "data", n_cases=6)
    config = small_config(tmp_path, "training.iterations=3", "tracking.kind=none")
    medhybrid.preprocess(config)
    return config


def in_other_order(config: StudyConfig) -> StudyConfig:
    """Return the config with the same labels in another order: the classes of the network are numbered in this order."""
    labels = dict(reversed(config.data.labels.items()))
    return config.model_copy(update={"data": config.data.model_copy(update={"labels": labels})})


def test_a_run_is_not_resumed_on_labels_in_another_order(config: StudyConfig) -> None:
    run = medhybrid.train(config)
    before = (run.folder / "model" / "model.json").read_bytes()
    medhybrid.preprocess(in_other_order(config))

    with pytest.raises(DataError, match="Expected labels in the order left, right, found right, left"):
        resume(run.folder, ["training.iterations=+1"])

    assert (run.folder / "model" / "model.json").read_bytes() == before
    medhybrid.preprocess(config)
    assert resume(run.folder, ["training.iterations=+1"]).n_steps == 4


def test_trainings_with_labels_in_another_order_are_compared_by_their_names(
    config: StudyConfig, tmp_path: Path
) -> None:
    first = medhybrid.train(config).folder
    medhybrid.preprocess(in_other_order(config))
    second = medhybrid.train(in_other_order(config)).folder
    case = next(iter(judged(second).dice))
    own = judged(second).draw(case)
    assert own is not None

    turned = judged(second).in_order_of(judged(first))

    view = turned.draw(case)
    assert view is not None
    assert view.reference is not None
    assert turned.labels == judged(first).labels == {"left": 1, "right": 2}
    mask = np.asanyarray(nib.load(tmp_path / "data" / "labelsTr" / f"{case}.nii.gz").dataobj)
    n_left, n_right = (int((mask == v).sum()) for v in (1, 4))
    assert [int((view.reference == v).sum()) for v in (1, 2)] == [n_left, n_right]
    assert [int((own.reference == v).sum()) for v in (1, 2)] == [n_right, n_left]
    assert compare(first, second, out=tmp_path / "two").cases
    assert compare_runs([first, second, first], out=tmp_path / "three").cases
    assert judged(first).draw(case) is None, "its prepared cases have the other order now"


@pytest.mark.parametrize("length", ["training.iterations=1", "training.iterations=2"])
def test_a_length_that_a_run_already_has_is_refused_on_resume(length: str, config: StudyConfig) -> None:
    run = medhybrid.train(config)
    before = (run.folder / "config.yaml").read_bytes()

    with pytest.raises(ConfigError, match="has made 3 steps"):
        resume(run.folder, [length])

    assert (run.folder / "config.yaml").read_bytes() == before


def test_scores_are_added_to_the_run_only_whose_model_made_the_masks(
    config: StudyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_seed = config.model_copy(update={"training": config.training.model_copy(update={"seed": 1})})
    run, other = medhybrid.train(config).folder, medhybrid.train(of_seed).folder
    write_study(tmp_path / "new", n_cases=8)
    for kind in ("imagesTr", "labelsTr"):
        for i in range(6):
            (tmp_path / "new" / kind / f"case_{i:02d}.nii.gz").unlink()
    (tmp_path / "new" / "dataset.json").unlink()
    scans, references = tmp_path / "new" / "imagesTr", tmp_path / "new" / "labelsTr"
    predict(scans, model=run, out=tmp_path / "out")
    predict(scans, model=[run, other], out=tmp_path / "joint")
    call = ["evaluate", "--quiet", str(references)]

    codes = [main([*call, str(tmp_path / "out"), "--run", str(r)]) for r in (run, other)]
    of_ensemble = [main([*call, str(tmp_path / "joint" / "masks"), "--run", str(r)]) for r in (run, other)]

    assert codes == [0, 2]
    assert "not of the model of" in capsys.readouterr().err
    assert of_ensemble == [0, 0]
    assert (other / "log.jsonl").read_text().count("evaluation/n_cases") == 1


@pytest.fixture
def predicted(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return folders of two scans, their references, and their masks."""
    scans, out, references = tmp_path / "scans", tmp_path / "out", tmp_path / "references"
    array, _ = with_box(SHAPE)
    for n, name in enumerate(("a", "b")):
        image = np.roll(array, n, axis=0)
        save_nifti(scans / f"{name}.nii.gz", image)
        save_nifti(references / f"{name}.nii.gz", np.where(image > 500, 255, 0).astype(np.uint8))
    predict(scans, model=model(), out=out)
    return scans, references, out


def test_the_mask_of_a_scan_that_was_exchanged_is_not_scored(predicted: tuple[Path, Path, Path]) -> None:
    scans, references, out = predicted
    (scans / "a.nii.gz").rename(scans / "old")
    shutil.copy(scans / "b.nii.gz", scans / "a.nii.gz")
    (scans / "old").unlink()

    result = evaluate(references, out, labels=LABELS)

    assert {s.case for s in result.scores} == {"b"}
    assert "the scan of a has changed since its mask was predicted" in result.problems["a"]
    predict(scans, model=model(), out=out)
    assert not evaluate(references, out, labels=LABELS).problems


def test_a_file_of_the_same_name_in_another_working_directory_is_not_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array, _ = with_box(SHAPE)
    for place, shift in (("one", 0), ("two", 2)):
        save_nifti(tmp_path / place / "scans" / "a.nii.gz", np.roll(array, shift, axis=0))
    save_nifti(tmp_path / "references" / "a.nii.gz", np.where(array > 500, 255, 0).astype(np.uint8))
    monkeypatch.chdir(tmp_path / "one")
    predict("scans", model=model(), out=tmp_path / "out")
    monkeypatch.chdir(tmp_path / "two")

    assert not evaluate(tmp_path / "references", tmp_path / "out", labels=LABELS).problems

    shutil.copy(tmp_path / "two" / "scans" / "a.nii.gz", tmp_path / "one" / "scans" / "a.nii.gz")
    with pytest.raises(DataError, match="the scan of a has changed"):
        evaluate(tmp_path / "references", tmp_path / "out", labels=LABELS)


def test_masks_are_scored_whose_scans_were_only_copied_moved_or_removed(predicted: tuple[Path, Path, Path]) -> None:
    scans, references, out = predicted
    shutil.copy(scans / "a.nii.gz", scans / "copy")
    (scans / "copy").replace(scans / "a.nii.gz")
    (scans / "b.nii.gz").unlink()

    assert not evaluate(references, out, labels=LABELS).problems


def test_a_second_scan_of_the_same_name_is_named_beside_the_first(
    predicted: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    scans, references, out = predicted
    (tmp_path / "more").mkdir()
    shutil.copy(scans / "b.nii.gz", tmp_path / "more" / "a.nii.gz")
    predict(tmp_path / "more", model=model(), out=out)
    messages = Messages()

    evaluate(references, out, labels=LABELS, reporter=messages)

    assert any("a_2 is another scan named a: check which of them the reference is of" in m for m in messages.texts)


def test_a_folder_in_which_predict_did_not_finish_is_named_as_such(
    predicted: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, references, out = predicted
    (out / "run.json").unlink()

    assert main(["evaluate", "--quiet", str(references), str(out)]) == 2
    assert "predict did not finish" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"predict did not finish in .* Call predict again"):
        report(out)


def test_prepared_cases_are_those_of_the_present_order(config: StudyConfig) -> None:
    """The premise of these tests: another order is another numbering."""
    medhybrid.preprocess(in_other_order(config))

    assert list(Plan.load(prepared_folder(config) / "plan.json").labels) == ["right", "left"]


def test_references_that_fit_no_scan_are_named(predicted: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, references, out = predicted
    (tmp_path / "empty").mkdir()
    (references / "a.nii.gz").rename(references / "other.nii.gz")
    texts = []
    for folder in (tmp_path / "empty", references):
        messages = Messages()
        report(out, references=folder, reporter=messages)
        texts.append(" ".join(messages.texts))
    (references / "b.nii.gz").unlink()
    messages = Messages()
    report(out, references=references, reporter=messages)

    assert "no reference is used" in texts[0]
    assert "has no mask, and none of the name of a scan, such as a" in texts[0]
    assert "references of no scan in the report: other" in texts[1]
    assert any("has 1 masks, such as other, and none of the name of a scan" in m for m in messages.texts)
