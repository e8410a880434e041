"""Every case or label name is encoded as a unique name that MLflow accepts."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medhybrid.tracking.names import MAX_IMAGE_NAME, MAX_METRIC_NAME, image_name, metric_name

# Names of metrics and keys of images that MLflow accepts, from its documentation and `mlflow.utils.validation`.
METRIC = re.compile(r"[/\w.\- :]+")
IMAGE = re.compile(r"[a-zA-Z0-9_\-./ ]+")

names = st.text(min_size=1, max_size=12) | st.text(alphabet="_x25FB+#ä/. ", min_size=1, max_size=12)


def is_plain_path(name: str) -> bool:
    return all(part not in ("", ".", "..") for part in name.split("/"))


def decode(encoded: str) -> str:
    """Decode a name by the documented rule, independently of the encoder."""
    return re.sub(r"_x([0-9A-F]*)_", lambda m: chr(int(m[1], 16)) if m[1] else "", encoded)


@given(names)
@example("_x2+")
@example("\x02x2B_")
@example("a//b")
@example("..")
@example("\ud800")
def test_every_name_is_accepted_and_can_be_decoded(name: str) -> None:
    for encode, accepted in ((metric_name, METRIC), (image_name, IMAGE)):
        encoded = encode(name)

        assert accepted.fullmatch(encoded)
        assert is_plain_path(encoded)
        assert decode(encoded) == name, "decodable, so names stay unique"


@given(st.text(min_size=100, max_size=400))
def test_a_long_name_is_shortened_to_the_limit_of_a_store(name: str) -> None:
    assert len(metric_name(name)) <= MAX_METRIC_NAME
    assert len(image_name(name)) <= MAX_IMAGE_NAME
    assert is_plain_path(image_name(name))
    assert image_name(name) != image_name(name + "x")
    assert metric_name(name) != metric_name(name + "x")


@pytest.mark.parametrize("name", ["val/dice", "val_case/case_07/dice", "case 1", "system/gpu_0.memory", "max_x", "A-1"])
def test_a_name_that_mlflow_accepts_is_not_changed(name: str) -> None:
    assert metric_name(name) == image_name(name) == name


@pytest.mark.parametrize(
    ("one", "other"), [("a+b", "a(b"), ("a b", "a_b"), ("a#b", "a/b"), ("ü", "u\u0308"), ("a,b", "a'b"), ("a/", "a")]
)
def test_names_that_differ_in_one_character_stay_different(one: str, other: str) -> None:
    assert metric_name(one) != metric_name(other)
    assert image_name(one) != image_name(other)
