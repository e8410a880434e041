"""Job of a folder: model, output folder and options, which are the same for every scan."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medhybrid.errors import OutputError
from medhybrid.inference.model import Segmenter
from medhybrid.inference.records import STARTED, Prediction, Records
from medhybrid.scans.context import CONTEXT_VERSION
from medhybrid.scans.dicom.deidentify import Deidentifier

ScanOutcome = tuple[Prediction, bool]
"""The result of a scan, and whether the scan was skipped because its earlier result still holds."""


class FolderJob:
    """Model, output folder and options of a prediction, which are the same for every scan.

    Parameters
    ----------
    deidentifier : Deidentifier, optional
        Removes patient data from DICOM output and messages. The names in the work list are already replaced.
    with_probabilities : bool
        Write the probabilities of the labels beside the masks.
    max_memory : int, optional
        Bytes that a scan may need; a scan that needs more is refused. Default: the memory that is available to the process.

    Raises
    ------
    OutputError
        If `out` cannot be written to.
    """

    def __init__(
        self,
        model: Segmenter,
        out: Path,
        *,
        deidentifier: Deidentifier | None = None,
        with_probabilities: bool = False,
        max_memory: int | None = None,
    ) -> None:
        self.model, self.out, self.records = model, out, Records(out)
        self.deidentifier, self.with_probabilities, self.max_memory = deidentifier, with_probabilities, max_memory
        self.made_by = fingerprint_of(model)
        try:
            for name in ("masks", "done", "failed", STARTED):
                (out / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(out, error) from error


def unwritable(out: Path, error: OSError) -> OutputError:
    """Return the error for a folder that cannot be written to."""
    return OutputError(
        f"{out} cannot be written to",
        found=error.strerror or str(error),
        remedy="free disk space or choose another folder, and run again: finished scans are kept",
    )


def fingerprint_of(model: Segmenter) -> str:
    """Return a hash of all that decides a mask and its verdict, except the scan: weights, plan, windows, calibration, rules."""
    r = model.record
    text = r.weights_sha256 + r.plan.text_for_hash() + r.inference.text_for_hash() + r.scans.text_for_hash()
    text += r.model_dump_json(include={"channel_map", "calibration"})
    text += CONTEXT_VERSION if r.plan.context else ""
    text += r.model_dump_json(include={"nnunet", "network"}) if r.nnunet else ""  # of an imported model
    text += (
        "thin" * r.plan.is_thin
    )  # now computed in float32: masks of earlier versions may be wrong, so they get another hash
    return hashlib.sha256(text.encode()).hexdigest()
