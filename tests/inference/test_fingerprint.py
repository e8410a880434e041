"""Fingerprint of a model: it changes with everything that decides a mask or its verdict. Ensembles have one, too."""

import torch

from medhybrid.config import NetworkConfig
from medhybrid.inference.confidence import Calibration
from medhybrid.inference.ensemble import Ensemble
from medhybrid.inference.folder_job import fingerprint_of
from medhybrid.inference.model import Model, Segmenter
from medhybrid.inference.network import network_for
from tests.synthetic import make_test_plan, make_test_record


def model(calibration: Calibration) -> Model:
    plan, config = make_test_plan(), NetworkConfig(widths=(8, 16), blocks=(1, 1), token_width=24, depth=1, heads=2)
    record = make_test_record(plan, config).model_copy(update={"calibration": calibration})
    return Model(network_for(config, plan), record, torch.device("cpu"))


def test_another_calibration_gives_another_fingerprint() -> None:
    plain, warmer = Calibration(), Calibration(temperature=1.5)

    assert fingerprint_of(model(plain)) == fingerprint_of(model(plain))
    assert fingerprint_of(model(plain)) != fingerprint_of(model(warmer))
    joined = [Ensemble([model(plain), model(c)]) for c in (plain, warmer)]
    assert fingerprint_of(joined[0]) != fingerprint_of(joined[1])


def test_an_ensemble_predicts_as_a_model_without_being_one() -> None:
    members = [model(Calibration()), model(Calibration())]
    plan = members[0].plan

    joined = Ensemble(members)

    assert isinstance(joined, Segmenter)
    assert isinstance(members[0], Segmenter)
    assert not isinstance(joined, Model)
    image = torch.rand(len(plan.channels), *plan.patch_size)
    mean = torch.stack([m.logits(image).softmax(0) for m in members]).mean(0)
    torch.testing.assert_close(joined.logits(image).softmax(0), mean, atol=1e-5, rtol=0)
