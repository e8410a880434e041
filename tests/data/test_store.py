"""A prepared case is read by boxes, and is complete or absent."""

import json
from pathlib import Path

import blosc2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medhybrid.data.store import CaseRecord, PreparedCase, foreground_index, hash_files, save_case
from medhybrid.errors import DataError

SHAPE = (20, 17, 9)


def save(folder: Path, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, *SHAPE)).astype(np.float16).astype(np.float32)
    labels = rng.integers(0, 3, SHAPE).astype(np.uint8)
    record = CaseRecord(
        case=folder.name,
        subject=folder.name,
        sources_hash="0",
        preparation_hash="0",
        source_shape=SHAPE,
        source_affine=np.eye(4).tolist(),
        affine=np.eye(4).tolist(),
        axes=(0, 1, 2),
        flips=(False, False, False),
        reference_ml={"a": 1.0, "b": 1.0},
        pictures=(),
    )
    save_case(folder, record, image, labels, source_mask=labels, n_labels=2)
    return image, labels


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedCase, np.ndarray, np.ndarray]:
    folder = tmp_path_factory.mktemp("store") / "a"
    image, labels = save(folder)
    return PreparedCase(folder), image, labels


@settings(deadline=None)
@given(
    start=st.tuples(*(st.integers(-12, 24) for _ in range(3))),
    size=st.tuples(*(st.integers(1, 26) for _ in range(3))),
)
def test_a_box_reads_as_a_crop_of_the_volume_with_zeros_outside(
    case: tuple[PreparedCase, np.ndarray, np.ndarray], start: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    opened, image, labels = case
    pad = 64
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad), (pad, pad)))
    box = tuple(slice(pad + b, pad + b + n) for b, n in zip(start, size, strict=True))

    got_image, got_labels = opened.read_box(start, size)

    np.testing.assert_array_equal(got_image, padded[(slice(None), *box)])
    np.testing.assert_array_equal(got_labels, np.pad(labels, pad)[box])


def test_writing_again_replaces_a_case_without_leftover_files(tmp_path: Path) -> None:
    save(tmp_path / "a", seed=0)
    image, _ = save(tmp_path / "a", seed=1)

    np.testing.assert_array_equal(PreparedCase(tmp_path / "a").image(), image)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["case.json", "image.b2nd", "foreground.npy"])
def test_a_damaged_case_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a")
    (tmp_path / "a" / name).write_bytes(b"x")

    with pytest.raises(DataError, match="prepared case a is damaged"):
        PreparedCase(tmp_path / "a")


@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd", "mask.b2nd"])
def test_an_expression_instead_of_an_array_is_not_evaluated(tmp_path: Path, name: str) -> None:
    """blosc2 stores expressions over other files, and evaluates their text when it opens them."""
    folder = tmp_path / "a"
    save(folder)
    record = json.loads((folder / "case.json").read_text())
    (folder / "case.json").write_text(json.dumps({k: v for k, v in record.items() if k != "checksums"}))
    numbers = blosc2.asarray(np.arange(10.0), urlpath=str(tmp_path / "numbers.b2nd"), mode="w")
    (folder / name).unlink()
    blosc2.lazyexpr("a + 1", {"a": numbers}).save(urlpath=str(folder / name))

    with pytest.raises(DataError, match=rf"prepared case a is damaged.*{name}"):
        read_all(folder)


def test_the_foreground_index_contains_voxels_of_every_label() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (40, 40, 40)).astype(np.uint8)

    index = foreground_index(labels, 2)

    np.testing.assert_array_equal(labels[tuple(index[:, :3].T)], index[:, 3])
    assert set(index[:, 3]) == {1, 2}
    assert len(index) <= 8_000


def test_a_hash_changes_with_any_byte_also_in_folders(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_bytes(b"abc")
    before = hash_files([tmp_path / "d"])

    (tmp_path / "d" / "x").write_bytes(b"abd")

    assert hash_files([tmp_path / "d"]) != before


def read_all(folder: Path) -> None:
    case = PreparedCase(folder)
    case.read_box((0, 0, 0), SHAPE)
    case.source_mask()


@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd", "mask.b2nd", "foreground.npy", "case.json"])
def test_a_changed_byte_at_any_position_is_detected_on_reading(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a"
    save(folder)
    read_all(folder)
    content = bytearray((folder / name).read_bytes())
    place = (
        content.index(b"9")
        if name == "case.json"
        else len(content) - 30
        if name == "foreground.npy"
        else len(content) // 2
    )
    content[place] ^= 1

    (folder / name).write_bytes(bytes(content))

    with pytest.raises(DataError, match=r"prepared case a is damaged.*run medhybrid preprocess"):
        read_all(folder)


def test_a_case_without_checksums_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    save(tmp_path / "a")
    record = json.loads((tmp_path / "a" / "case.json").read_text())
    del record["checksums"]
    (tmp_path / "a" / "case.json").write_text(json.dumps(record))

    read_all(tmp_path / "a")
