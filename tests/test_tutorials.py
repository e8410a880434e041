"""The tutorials run as they stand, in one shell, on small data."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medhybrid.scans.dicom.write import write_mr_series
from tests.synthetic import AFFINE, blob_case, save_nifti

PAGE = Path(__file__).parents[1] / "docs" / "tutorials.md"


@pytest.mark.slow
def test_every_command_of_the_tutorials_runs(tmp_path: Path) -> None:
    for n in range(6):
        image, mask = blob_case(n)
        save_nifti(tmp_path / "data" / "imagesTr" / f"case_{n}_0000.nii.gz", image)
        save_nifti(tmp_path / "data" / "labelsTr" / f"case_{n}.nii.gz", mask // 2 + (mask == 1))  # 1 and 2
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    listed = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 6, "file_ending": ".nii.gz"}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(listed))
    write_mr_series(tmp_path / "scans" / "a", blob_case(20)[0], AFFINE, description="T1", study="s", case="x")
    save_nifti(tmp_path / "scans" / "b.nii.gz", blob_case(21)[0])
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))
    environment = os.environ | {
        "DATA": str(tmp_path / "data"),
        "SCANS": str(tmp_path / "scans"),
        "MINUTES": "0.05",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for path in (
        "results/report.html",
        "results/masks/b.nii.gz",
        "comparison/comparison.html",
        "by-champion/results.csv",
    ):
        assert (tmp_path / path).is_file(), path
    assert len(list((tmp_path / "runs" / "hippocampus").glob("2*/report.html"))) == 2
