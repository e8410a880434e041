"""`description.json` of an export has the replacement of outliers, which precedes resampling and normalisation."""

from __future__ import annotations

import pytest
import torch

from medhybrid.config import NetworkConfig
from medhybrid.data.outliers import MIN_GAP_ABOVE, MIN_GAP_BELOW
from medhybrid.data.plan import Normalisation
from medhybrid.inference.description import describe
from medhybrid.inference.model import Model
from medhybrid.inference.network import network_for
from tests.synthetic import make_test_plan, make_test_record

CT = Normalisation(channel="CT", rule="clip_and_scale", low=-100, high=300)
T1 = Normalisation(channel="T1", rule="zscore_foreground")
FLAIR = Normalisation(channel="FLAIR", rule="zscore")


@pytest.mark.parametrize(
    ("channels", "expected"), [((T1,), ["T1"]), ((T1, FLAIR), ["T1", "FLAIR"]), ((CT, FLAIR), ["FLAIR"]), ((CT,), [])]
)
def test_the_description_has_the_channels_whose_outliers_are_replaced(
    channels: tuple[Normalisation, ...], expected: list[str]
) -> None:
    network = NetworkConfig(widths=(8, 16), blocks=(1, 1), token_width=24, depth=1, heads=2)
    plan = make_test_plan(normalisation=channels)
    model = Model(network_for(network, plan), make_test_record(plan, network), torch.device("cpu"))

    steps = describe(model)["before"]

    assert [s["channels"] for s in steps if s["step"] == "outliers"] == ([expected] if expected else [])
    names = [s["step"] for s in steps]
    if expected:
        assert names.index("orient") < names.index("outliers") < names.index("resample") < names.index("normalise")
        (text,) = (s["how"] for s in steps if s["step"] == "outliers")
        assert f"{MIN_GAP_BELOW:g} (low end" in text
        assert f"{MIN_GAP_ABOVE:g} (high end" in text
