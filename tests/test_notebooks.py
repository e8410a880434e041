"""The notebooks of the documentation run, one after the other, and are stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def run_cells(notebook: Path) -> dict[str, Any]:
    """Run the code of a notebook in one namespace, and return it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for n, cell in enumerate(code_cells(notebook), start=1):
        exec(compile("".join(cell["source"]), f"{notebook.name}, cell {n}", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(notebook: Path) -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells(notebook))


def test_the_page_of_the_notebooks_lists_each() -> None:
    page = (FOLDER / "index.md").read_text()

    assert NOTEBOOKS
    assert all(f"({path.name})" in page for path in NOTEBOOKS)


@pytest.mark.slow
def test_the_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plt.close("all")

    training = run_cells(FOLDER / "train.ipynb")
    prediction = run_cells(FOLDER / "predict_dicom.ipynb")

    assert training["run"].n_steps == training["config"].training.iterations
    assert training["dice"] > 0.2
    assert np.array_equal(training["mask"], prediction["result"].mask > 0), "one model, one scan"
    written = nib.load("notebook/mask.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), prediction["result"].mask)  # type: ignore[attr-defined]
    assert np.allclose(written.affine, prediction["scan"].affine)  # type: ignore[attr-defined]
    assert [path.suffix for path in Path("notebook/results/seg").iterdir()] == [".dcm"]
    assert len(plt.get_fignums()) == 3
    plt.close("all")
