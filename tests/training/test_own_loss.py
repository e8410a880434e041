"""A loss of the user is a function that is given with the call; no record can name code."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.errors import ConfigError, TrainingError
from medhybrid.networks.regions import RegionScores
from medhybrid.training.own_loss import LossFunction, OwnLoss, OwnLossRecord, load_own_loss

SOURCE = """
def squares(logits, target, known):
    return (logits.square() * known[:, None]).mean()
"""


def cross_entropy(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the mean cross entropy of the known voxels."""
    return (F.cross_entropy(logits, target, reduction="none") * known).sum() / known.sum()


def test_the_function_gets_logits_classes_and_known_voxels() -> None:
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 4, 4))
    target[0] = UNKNOWN

    terms = OwnLoss.of(cross_entropy).terms(logits, target)

    expected = F.cross_entropy(logits[1:], target[1:])
    assert terms["own_loss"].item() == pytest.approx(expected.item())


def test_with_regions_the_target_has_a_channel_for_each() -> None:
    regions = RegionScores([(1, 2), (2,)], 2)
    seen = []

    def watch(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
        seen.append((target, known))
        return logits.mean()

    classes = torch.tensor([0, 1, 2, UNKNOWN]).reshape(1, 4, 1, 1)
    OwnLoss.of(watch).terms(torch.zeros(1, 2, 4, 1, 1, requires_grad=True), classes, regions=regions)

    ((target, known),) = seen
    assert target[0, :, :, 0, 0].tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    assert known.ravel().tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("value", "found"),
    [(lambda x: 1.0, "float"), (lambda x: x, "shape"), (lambda x: x.detach().mean(), "without a gradient")],
)
def test_a_result_that_cannot_be_minimised_is_refused(value, found: str) -> None:  # type: ignore[no-untyped-def]
    logits = torch.zeros(1, 2, 2, 2, 2, requires_grad=True)

    with pytest.raises(TrainingError, match=found):
        OwnLoss.of(lambda x, *_: value(x)).terms(logits, torch.zeros(1, 2, 2, 2, dtype=torch.long))


@pytest.mark.parametrize(
    ("function", "found"),
    [(lambda logits: logits.mean(), "TypeError"), (lambda logits, target, known: logits.no_such(), "AttributeError")],
)
def test_a_function_that_fails_is_named_with_its_error(function: LossFunction, found: str) -> None:
    with pytest.raises(TrainingError, match=rf"the loss .*lambda.* fails.*{found}"):
        OwnLoss.of(function).terms(
            torch.zeros(1, 2, 2, 2, 2, requires_grad=True), torch.zeros(1, 2, 2, 2, dtype=torch.int64)
        )


def test_a_file_is_loaded_by_path_and_recorded_by_name_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "losses.py"
    path.write_text(SOURCE)

    own = load_own_loss(f"{path}:squares")

    assert float(own.function(torch.full((1, 2, 2, 2, 2), 2.0), None, torch.ones(1, 2, 2, 2))) == 4  # type: ignore[arg-type]
    assert own.record == OwnLossRecord(name="losses.py:squares", sha256=hashlib.sha256(SOURCE.encode()).hexdigest())
    assert str(tmp_path) not in own.record.model_dump_json()


@pytest.mark.parametrize(
    ("text", "source", "message"),
    [
        ("losses", SOURCE, "does not name a loss"),
        ("os:system", SOURCE, "does not name a loss"),
        ("other.py:squares", SOURCE, "does not exist"),
        ("losses.py:cubes", SOURCE, "has no function cubes.*squares"),
        ("losses.py:squares", "import nowhere_to_be_found", "cannot be imported.*ModuleNotFoundError"),
        ("losses.py:squares", "squares = 2", "has no function squares"),
    ],
)
def test_a_file_that_has_no_such_function_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("losses.py").write_text(source)

    with pytest.raises(ConfigError, match=message):
        load_own_loss(text)


def test_a_run_is_continued_only_with_its_own_loss(tmp_path: Path) -> None:
    own, other = OwnLoss.of(cross_entropy).record, OwnLossRecord(name="other.py:f", sha256="0")
    own.save(tmp_path)

    own.check(tmp_path)
    with pytest.raises(ConfigError, match="trained with another loss"):
        other.check(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        own.check(tmp_path / "absent")
