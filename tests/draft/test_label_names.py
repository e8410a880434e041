"""Names of label values are read from files beside the masks, and unnamed sides are not mirrored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medhybrid.config import load_config
from medhybrid.draft.label_names import label_names
from medhybrid.steps.init import Initialised, init_study
from tests.synthetic import AFFINE, save_nifti

NAMES = {"left kidney": 1, "right kidney": 2, "spine": 3}
SNAP = "\n".join(
    ["#" * 40, "# ITK-SnAP Label Description File", '    0     0    0    0        0  0  0    "Clear Label"']
    + [f'    {v}   255    {v}    0        1  1  1    "{n}"' for n, v in NAMES.items()]
)


def write_study(root: Path, *, n: int = 5, size: int = 3) -> None:
    """Write masks with 1 on one side, 2 on the other (of `size` voxels), and 3 in the middle."""
    rng = np.random.default_rng(0)
    for i in range(n):
        mask = np.zeros((24, 16, 10), np.uint8)
        y = int(rng.integers(5, 8))
        mask[3:6, y : y + 3, 3:6], mask[18 : 18 + size, y : y + size, 3 : 3 + size], mask[11:13, 8:10, 2:8] = 1, 2, 3
        save_nifti(root / f"images/c{i}.nii.gz", rng.normal(size=mask.shape).astype(np.float32) + mask)
        save_nifti(root / f"masks/c{i}.nii.gz", mask)


def drafted(root: Path) -> Initialised:
    return init_study(root, root.parent / "study.yaml")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("label.txt", SNAP),
        ("labels.json", json.dumps(NAMES)),
        ("info/labels.json", json.dumps({str(v): n for n, v in NAMES.items()})),
        ("labels.json", json.dumps({"labels": {"background": 0, **NAMES}})),
        ("masks/desc-manual_dseg.tsv", "index\tname\n" + "\n".join(f"{v}\t{n}" for n, v in NAMES.items())),
        ("labels.csv", "label,name\n0,background\n" + "\n".join(f"{v},{n}" for n, v in NAMES.items())),
        ("Klassen.csv", "Wert;Name\n" + "\n".join(f"{v};{n}" for n, v in NAMES.items())),
        ("etiquettes.csv", "numéro,étiquette\n" + "\n".join(f"{v},{n}" for n, v in NAMES.items())),
        ("labels.csv", "\n".join(f"{v},{n}" for n, v in NAMES.items())),
        ("labels.txt", "\n".join(f"{v} {n}" for n, v in NAMES.items())),
        ("labels.txt", "# of the masks\n0: background\n" + "\n".join(f"{v}: {n}" for n, v in NAMES.items())),
        ("labels.txt", "\n".join(f"{v}. {n}" for v, n in enumerate(["background", *NAMES]))),
        ("labels.txt", "\n".join(f"{v} - {n}" for n, v in NAMES.items())),
        ("labels.txt", "\n".join(f"{v} => {n}" for n, v in NAMES.items())),
        ("labels.txt", "\n".join(f"{n} -> {v}" for n, v in NAMES.items())),
        ("classes.txt", "\n".join(f"{n}: {v}" for n, v in NAMES.items())),
        ("classes.txt", "\n".join(f"{n}\t{v}" for n, v in NAMES.items())),
        ("LUT.txt", "#No. Name\n0 Unknown 0 0 0 0\n" + "\n".join(f"{v}  {n}  20 {v} 7 0" for n, v in NAMES.items())),
        ("classes.txt", "\n".join(["background", *NAMES])),
    ],
)
def test_values_have_the_names_of_a_file_in_the_dataset(name: str, content: str, tmp_path: Path) -> None:
    write_study(tmp_path / "d")
    (tmp_path / "d" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "d" / name).write_text(content)

    made = drafted(tmp_path / "d")

    assert dict(made.config.data.labels) == NAMES
    assert [r for r in made.draft.remarks if Path(name).name in r] == [
        f"the names of the labels are those of {Path(name).name}"
    ]
    assert made.config.prepare.mirror_axes is None, "the names tell the sides, which are exchanged"


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


@pytest.mark.parametrize(
    "make",
    [
        write("labels.json", '{"left kidney": 1}'),
        write("labels.json", '{"a": 1, "b": 1, "c": 2, "d": 3}'),
        write("labels.json", "[1, 2"),
        write("label.txt", "no label description"),
        write("labels.txt", "Drawn by 3 readers in 2019\n1 is a\n2 is b\n3 is c"),
        write("labels.txt", "1 a\n2 b\n3 c\n1 d"),
        write("classes.txt", "a\nb\nc"),
        write("labels.txt", "1 a\n2 b\n3 c" + " " * 900_000 + "d"),
        write("labels.txt", "1 a.nii.gz\n2 b.nii.gz\n3 c.nii.gz"),
        write("labels.txt", "masks/a 1\nmasks/b 2\nmasks/c 3"),
        write("labels.txt", "1 2\n2 3\n3 1"),
        write("labels.txt", "img_1 1\nimg_2 1\nimg_3 2\nimg_4 3"),
        write("labels.csv", "case,grade\n1,2\n"),
        write("other.json", json.dumps(NAMES)),
    ],
)
def test_other_files_give_no_names(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)

    assert label_names(tmp_path, {1, 2, 3}) == ({}, "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "c1,1\nc2,2\nc3,3"),
        ("labels.csv", "name,label\nc1,1\nc2,2\nc3,3"),
        ("labels.txt", "1 c1\n2 c2\n3 c3"),
        ("labels.json", json.dumps({"c1": 1, "c2": 2, "c3": 3})),
    ],
)
def test_a_number_for_each_case_is_no_label(name: str, content: str, tmp_path: Path) -> None:
    write_study(tmp_path / "d")
    (tmp_path / "d" / name).write_text(content)

    assert list(drafted(tmp_path / "d").config.data.labels) == ["label_1", "label_2", "label_3"]


def test_unnamed_labels_on_opposite_sides_are_not_mirrored(tmp_path: Path) -> None:
    write_study(tmp_path / "d")

    made = drafted(tmp_path / "d")

    assert load_config(made.path).prepare.mirror_axes == ()
    right, left = (2, 1) if AFFINE[0, 0] > 0 else (1, 2)  # RAS
    assert [r for r in made.draft.remarks if f"label_{right} and label_{left} always lie on opposite sides" in r]


@pytest.mark.parametrize(("n", "size"), [(2, 3), (5, 5)], ids=["few cases", "of other sizes"])
def test_other_labels_are_mirrored(n: int, size: int, tmp_path: Path) -> None:
    write_study(tmp_path / "d", n=n, size=size)

    assert drafted(tmp_path / "d").config.prepare.mirror_axes is None
