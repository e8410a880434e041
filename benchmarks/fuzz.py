"""Fuzz the readers of files, guided by code coverage: each input must give a valid result or a `MedHybridError`.

    pip install atheris
    python benchmarks/fuzz.py --seconds 120                     # every target in turn
    python benchmarks/fuzz.py --seconds 3600 --only dicom,nifti

tests/test_fuzz.py damages valid files in every run of the tests. This search starts from valid files and mutates them further.
A finding is any other exception, a file that takes more than 20 seconds or 2 GiB, or an invalid volume. The input of a finding
is stored in FOLDER/<target>. Counts go to results/fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SEARCHED = ["medhybrid", "nibabel", "pydicom"]
"""Packages whose code coverage guides the search; ITK is compiled, so its coverage is not measured."""

NAMES = {
    "nifti": "x.nii",
    "nrrd": "x.nrrd",
    "metaimage": "x.mha",
    "dicom": "x.dcm",
    "config": "study.yaml",
    "plan": "plan.json",
    "record": "done/c.json",
    "marks": "review.json",
}
"""File name of each target."""


def example(target: str, path: Path) -> None:
    """Write a valid file, from which the search starts."""
    import nibabel as nib
    import numpy as np
    import SimpleITK as sitk
    import yaml

    from medhybrid.inference.records import Prediction
    from medhybrid.review.marks import Mark, Marks
    from tests.synthetic import make_test_plan, small_values

    values = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    if target == "nifti":
        nib.save(nib.Nifti1Image(values, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    elif target == "dicom":
        from tests.scans.dicom.enhanced import write_enhanced

        with tempfile.TemporaryDirectory() as folder:
            frames = write_enhanced(Path(folder) / "x.dcm", [values], np.diag([-1.0, -2.0, 3.0, 1.0]))
            path.write_bytes(frames.read_bytes())
    elif target in ("nrrd", "metaimage"):
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    elif target == "config":
        path.write_text(yaml.safe_dump(small_values(path.parent)))
    elif target == "plan":
        path.write_text(make_test_plan().model_dump_json())
    elif target == "record":
        path.write_text(Prediction(case="c", status="done").model_dump_json())
    else:
        path.write_text(Marks(marks={"c": Mark(decision="accepted")}).model_dump_json())


def reader(target: str) -> Callable[[Path], None]:
    """Return the reader of a target, which raises `AssertionError` for an invalid result."""
    import numpy as np

    from medhybrid.config import load_config
    from medhybrid.data.plan import Plan
    from medhybrid.inference.records import Records
    from medhybrid.review.marks import read_marks
    from medhybrid.scans.reader import read_scan

    def scan(path: Path) -> None:
        found = read_scan(path)
        assert found.array.ndim == 4
        assert found.array.size < 10_000_000
        assert np.isfinite(found.affine).all()
        assert abs(np.linalg.det(found.affine[:3, :3])) > 0

    def record(path: Path) -> None:
        Records(path.parents[1]).all(["c"])

    readers: dict[str, Callable[[Path], Any]] = {"config": load_config, "plan": Plan.load, "record": record}
    readers["marks"] = lambda path: read_marks(path.parent)
    return readers.get(target, scan)


def search(target: str, corpus: Path, seconds: int) -> None:
    """Search for some seconds and exit the process, with an exit code other than 0 after a finding."""
    import atheris

    with atheris.instrument_imports(include=SEARCHED, enable_loader_override=False):
        from medhybrid.errors import MedHybridError

        read = reader(target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NAMES[target]
        path.parent.mkdir(exist_ok=True)

        def one(content: bytes) -> None:
            path.write_bytes(content)
            with suppress(MedHybridError):
                read(path)

        found = f"-artifact_prefix={corpus.parent}/finding-"
        atheris.Setup(
            ["fuzz", f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048", found, str(corpus)], one
        )
        atheris.Fuzz()


def main(arguments: Sequence[str] | None = None) -> None:
    """Search each target in a separate process, because a search exits its process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--seconds", type=int, default=120, help="time for each target")
    parser.add_argument("--folder", type=Path, default=Path("fuzz"), help="inputs that reached new lines, and findings")
    parser.add_argument("--target", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if chosen.target:
        search(chosen.target, chosen.folder / chosen.target / "corpus", chosen.seconds)
    record_file = RESULTS / "fuzz.json"
    counts = json.loads(record_file.read_text()) if record_file.is_file() else {}
    for target in chosen.only.split(","):
        corpus = chosen.folder.resolve() / target / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        example(target, corpus / f"right{Path(NAMES[target]).suffix}")
        command = [sys.executable, __file__, "--target", target, "--seconds", str(chosen.seconds)]
        ended = subprocess.run([*command, "--folder", str(chosen.folder.resolve())], capture_output=True, text=True)
        done = re.findall(r"^#(\d+)\s", ended.stderr, re.MULTILINE)
        findings = sorted(p.name for p in (chosen.folder / target).glob("finding-*"))
        counts[target] = {"seconds": chosen.seconds, "inputs": int(done[-1]) if done else 0, "findings": len(findings)}
        print(target, counts[target], *findings, flush=True)
        if ended.returncode:
            print(ended.stderr[-3000:], flush=True)
        record_file.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
