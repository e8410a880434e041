"""A scan unlike the training scans needs review, with the reason; labels of ensembles are matched by name."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medhybrid.data.fingerprint import CaseFingerprint, SeenRange, range_of
from medhybrid.data.plan import Normalisation
from medhybrid.errors import ModelError, SeriesError
from medhybrid.geometry import Affine
from medhybrid.inference.ensemble import Ensemble
from medhybrid.inference.model import Model
from medhybrid.inference.precision import Precision
from medhybrid.inference.scan_checks import empty_labels, reasons_to_review, refuse_single_slice
from medhybrid.networks import Logits
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from medhybrid.scans.scan import Scan, Source
from medhybrid.steps.predict import predict
from tests.synthetic import AFFINE, SHAPE, blob_case, make_test_plan, make_test_record

SEEN = SeenRange(
    n_cases=5,
    spacing_mm=((1.4, 1.4, 2.8), (1.6, 1.6, 3.2)),
    extent_mm=((50, 55, 55), (60, 65, 65)),
    label_share={"lesion": 1.0},
)


def scan(array: np.ndarray | None = None, affine: Affine = AFFINE) -> Scan:
    values = blob_case(0)[0] if array is None else array
    return Scan(values[None], affine, Source("nifti", ()), "x", ("",))


def test_a_scan_like_the_training_scans_has_no_reason_for_review() -> None:
    assert reasons_to_review(scan(), make_test_plan(), SEEN) == ()
    assert reasons_to_review(scan(), make_test_plan(), None) == ()


def test_a_single_dicom_slice_is_refused_by_a_model_of_volumes_and_taken_by_one_of_slices(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.uint16).reshape(4, 5, 1)
    write_mr_series(tmp_path, values, AFFINE, description="T1", study="s", case="c")
    slice_ = read_scan(tmp_path)

    with pytest.raises(SeriesError, match="a single slice") as caught:
        refuse_single_slice(slice_, make_test_plan())
    refuse_single_slice(slice_, make_test_plan().model_copy(update={"patch_size": (16, 16, 1)}))
    refuse_single_slice(scan(values), make_test_plan())

    assert caught.value.code == "single_slice"


@pytest.mark.parametrize("seen", [SEEN, None])
@pytest.mark.parametrize("factor", [0.001, 0.1, 10, 1000])
def test_another_unit_of_length_is_a_reason(seen: SeenRange | None, factor: float) -> None:
    affine = AFFINE.copy()
    affine[:3] *= factor
    reasons = reasons_to_review(scan(affine=affine), make_test_plan(), seen)
    assert "spacing" in reasons[0]
    assert "unlike the training scans'" in reasons[0]


@pytest.mark.parametrize("seen", [SEEN, None])
def test_a_constant_channel_is_a_reason(seen: SeenRange | None) -> None:
    reasons = reasons_to_review(scan(np.full(SHAPE, 7, np.int16)), make_test_plan(), seen)
    assert reasons[0] == "channel T1 is constant (7 everywhere)"


def test_another_part_of_the_body_is_a_reason() -> None:
    reasons = reasons_to_review(scan(np.tile(blob_case(0)[0], (1, 1, 4))), make_test_plan(), SEEN)
    assert "size" in reasons[0]


def test_ct_values_in_another_unit_are_a_reason() -> None:
    rng = np.random.default_rng(0)
    ct = rng.integers(-1000, 300, SHAPE)
    fingerprint = CaseFingerprint(
        shape=SHAPE,
        spacing_mm=(1.5, 1.5, 3.0),
        foreground_ml={},
        samples={"CT": [0.0]},
        percentiles={"CT": (-990.0, -350.0, 290.0)},
    )
    plan = make_test_plan(normalisation=(Normalisation(channel="CT", rule="clip_and_scale"),))
    seen = range_of([fingerprint])
    assert reasons_to_review(scan(ct), plan, seen) == ()
    assert "percentile" in reasons_to_review(scan(ct + 1024), plan, seen)[0]


def test_a_label_that_all_training_cases_have_is_expected() -> None:
    plan = make_test_plan()
    empty, full = np.zeros((3, 3, 3), np.uint8), np.ones((3, 3, 3), np.uint8)
    assert "lesion is empty" in empty_labels(empty, plan, SEEN)[0]
    assert empty_labels(full, plan, SEEN) == ()
    assert empty_labels(empty, plan, SEEN.model_copy(update={"label_share": {"lesion": 0.5}})) == ()
    assert empty_labels(empty, plan, None) == ()


class Constant(nn.Module):
    """Network that returns the same logits everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: Tensor) -> Logits:
        full = torch.cat([torch.full_like(image[:, :1], v) for v in self.logits], 1)
        return Logits(full, full)


def constant_model(labels: dict[str, int], *logits: float) -> Model:
    model = Model(Constant(*logits), make_test_record(make_test_plan(labels=labels)), torch.device("cpu"))  # type: ignore[arg-type]
    model.precision = Precision.FLOAT32
    return model


def test_labels_of_an_ensemble_are_matched_by_name() -> None:
    first = constant_model({"x": 1, "y": 2}, 0.0, 2.0, 1.0)
    second = constant_model({"y": 2, "x": 1}, 0.0, 1.0, 2.0)  # the same probabilities by name

    alone = first.segment(scan(), with_probabilities=True)
    joined = Ensemble([first, second]).segment(scan(), with_probabilities=True)

    assert alone.probabilities is not None
    assert joined.probabilities is not None
    np.testing.assert_allclose(joined.probabilities, alone.probabilities, atol=1e-5)
    np.testing.assert_array_equal(joined.mask, alone.mask)


@pytest.mark.parametrize("changes", [{"keep_largest": ("x",)}, {"min_component_ml": 1.0}])
def test_models_with_other_component_rules_are_not_averaged(changes: dict[str, object]) -> None:
    first, second = (constant_model({"x": 1}, 0.0, 1.0) for _ in range(2))
    second.record = second.record.model_copy(update={"plan": second.plan.model_copy(update=changes)})

    for members in ([first, second], [second, first]):
        with pytest.raises(ModelError, match="component rules differ"):
            Ensemble(members)


def test_an_ensemble_has_the_range_of_training_scans_of_all_its_models() -> None:
    near, far = (
        SeenRange(
            n_cases=n,
            spacing_mm=((n, n, n), (n, n, n)),
            extent_mm=((9, 9, 9), (9 * n, 9, 9)),
            percentiles={"T1": ((0, n), (n, n), (5, 9))},
            label_share={"x": 1 / n},
        )
        for n in (1, 4)
    )
    members = [constant_model({"x": 1}, 0.0, 1.0) for _ in range(2)]
    for member, seen in zip(members, (near, far), strict=True):
        member.record = member.record.model_copy(update={"seen": seen})

    joined = Ensemble(members).record.seen

    assert joined == SeenRange(
        n_cases=4,
        spacing_mm=((1, 1, 1), (4, 4, 4)),
        extent_mm=((9, 9, 9), (36, 9, 9)),
        percentiles={"T1": ((0, 4), (1, 4), (5, 9))},
        label_share={"x": 0.25},
    )


def test_two_required_channels_that_are_one_image_need_review() -> None:
    plan = make_test_plan(labels={"x": 1})
    rule = plan.normalisation[0]
    rules = tuple(rule.model_copy(update={"channel": n, "optional": n == "opt"}) for n in ("a", "b", "opt"))
    plan = plan.model_copy(update={"normalisation": rules})
    values = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)

    copied = Scan(np.stack([values] * 3), AFFINE, Source("nifti", ()), "x", ("a", "b", "opt"))

    reasons = reasons_to_review(copied, plan, None)

    assert [r for r in reasons if "same image" in r] == ["channels a and b are the same image"]


def test_the_results_have_the_reasons_for_review(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full(SHAPE, 7, np.int16), AFFINE), tmp_path / "blank.nii.gz")
    model = constant_model({"lesion": 255}, 20.0, -20.0)

    (prediction,) = predict(tmp_path, model=model, out=tmp_path / "out").predictions

    assert (prediction.status, prediction.verdict) == ("done", "needs review")
    assert "channel T1 is constant" in prediction.message


def test_the_score_of_an_empty_mask_is_the_lowest_background_probability() -> None:
    def score(background: float) -> float:
        return constant_model({"lesion": 255}, background, 0.0).segment(scan()).score

    assert score(30.0) == pytest.approx(1.0, abs=1e-6)
    assert 0.9 < score(12.0) < 1.0
