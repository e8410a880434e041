"""Write output folders with the present version, for the tests of later versions.

Run it with the package of that version on the path, in a folder with its `medhybrid` and `tests`:

    python -m tests.earlier.make_earlier tests/earlier/0.1.0.tar.xz

The archive has a project folder: a dataset, its prepared cases, an interrupted run, a finished run with its model, the
outputs of `predict`, the spool of a listener, unsent tracking events and an MLflow store. `expected.json` has the losses and
masks that this version computes from them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import medhybrid
from medhybrid.config import ListenConfig, load_config
from medhybrid.config.listen import SenderConfig
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.steps.listen import Listener
from medhybrid.steps.train import resume
from tests.synthetic import AFFINE, blob_case, save_nifti, small_values, write_study

ITERATIONS = 40
STOPPED_AT_VALIDATION = 1


def make_project(folder: Path) -> None:
    """Create the project in `folder`, which becomes the working directory."""
    import yaml

    os.chdir(folder)
    here = Path()
    write_study(here / "data", 5)
    values = small_values(here)
    values["training"] |= {"iterations": ITERATIONS, "n_validations": 2, "validation_cases": 1}
    values["network"] |= {"widths": [8, 8], "token_width": 16}
    values["tracking"] = {"log_report": False}
    (here / "study.yaml").write_text(yaml.safe_dump(values))
    config = load_config(here / "study.yaml")
    medhybrid.preprocess(config)
    finished = medhybrid.train(config)
    stopped = medhybrid.train(config, watch=lambda number, _dice: number >= STOPPED_AT_VALIDATION)
    assert stopped.is_interrupted
    finished.folder.rename(finished.folder.with_name("finished"))
    stopped.folder.rename(stopped.folder.with_name("stopped"))
    leave_out_large_files(here / "runs")
    events = [{"call": "metrics", "values": {"late": 1.0}, "step": 1, "time": 1}]
    (here / "unsent.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))

    image, _ = blob_case(90)
    save_nifti(here / "scans" / "new.nii.gz", image)
    write_mr_series(here / "series" / "patient", image[:, :, ::4], AFFINE, description="T1", study="s", case="p")
    model = here / "runs" / "blobs" / "finished"
    medhybrid.predict("scans", model=model, out="out")
    medhybrid.predict("series", model=model, out="out_dicom")
    listener = Listener(listen_config(here), medhybrid.load_model(model))
    shutil.copytree(here / "series" / "patient", here / "spool" / "incoming" / ("0" * 32))
    os.utime(here / "spool" / "incoming" / ("0" * 32), (1, 1))
    listener.queue_complete()
    assert (here / "spool" / "queued" / ("0" * 32)).is_dir()


def leave_out_large_files(runs: Path) -> None:
    """Remove figures and examples, which no later command reads: the archive is part of the repository."""
    for pattern in ("*.png", "*input_example.json", "report.html"):
        for path in runs.rglob(pattern):
            path.unlink()


def listen_config(folder: Path) -> ListenConfig:
    """Return a listener that does not wait for further instances, and whose destination never responds."""
    senders = (SenderConfig(ae_title="PACS"),)
    return ListenConfig(senders=senders, send_to="dimse://PACS@127.0.0.1:1", spool=str(folder / "spool"), wait_s=0.01)


def measure(project: Path) -> dict[str, Any]:
    """Return the results of the present version for a project: losses of the resumed run, and masks. Changes the project."""
    os.chdir(project)
    run = resume(Path("runs") / "blobs" / "stopped")
    masks = {name: mask_hash(Path(name)) for name in ("out/masks/new.nii.gz", "out_dicom/masks/patient.nii.gz")}
    return {
        "losses": losses_of(run.folder),
        "dice": run.metrics["val/dice"],
        "masks": masks,
        "version": medhybrid.__version__,
    }


def losses_of(run: Path) -> list[float]:
    """Return the recorded losses, one for each logged step."""
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [e["values"]["train/loss"] for e in events if "train/loss" in e.get("values", {})]


def mask_hash(path: Path) -> str:
    """Return a hash of the shape and labels of a mask."""
    mask = np.asarray(nib.load(path).dataobj).astype(np.uint8)  # type: ignore[attr-defined]
    return hashlib.sha256(str(mask.shape).encode() + mask.tobytes()).hexdigest()


def main() -> None:
    """Write the archive given on the command line."""
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        project, copy = Path(folder) / "project", Path(folder) / "copy"
        project.mkdir()
        make_project(project)
        shutil.copytree(project, copy)
        (project / "expected.json").write_text(json.dumps(measure(copy), indent=1))
        os.chdir(folder)
        with tarfile.open(target, "w:xz") as archive:
            archive.add(project, "project")


if __name__ == "__main__":
    main()
