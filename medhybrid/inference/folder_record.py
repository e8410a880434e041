"""`run.json` of a folder of masks: the model, the scans and the settings of the prediction."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from medhybrid.config import ChannelRule, ScansConfig
from medhybrid.errors import DataError, reason_of
from medhybrid.inference.records import STARTED_NAMES, Prediction
from medhybrid.owned import FolderKind


class SkippedFile(BaseModel):
    """Series or file that was skipped because it is not a scan, with the reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reason: str


class FolderRecord(BaseModel):
    """Record of one call of `predict`; `records.Prediction` has the result of each scan.

    Attributes
    ----------
    scans : str
        Path of the scans. Empty for a de-identified output, since names of folders may contain patient data.
    more_scans : list of str
        Further paths, if several were given.
    member_weights_sha256 : list of str
        Hashes of the weights of each model of an ensemble; empty for a single model.
    is_calibrated : bool, optional
        Whether validation cases calibrated the confidence of the model; None in records of earlier versions.
    knows_training_scans : bool, optional
        Whether the model's record has the scans that trained it, so that `evaluate` recognises them; None in records of earlier
        versions.
    model_channels : list of (str, bool)
        Name of each channel, and whether it is optional.
    channels : dict
        For each case, the reasons of its channel assignments.
    labels : dict
        Names of the labels and their values in the masks.
    regions : dict
        Names of the regions and the values of all their voxels; empty for a model without regions.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    medhybrid: str
    python: str
    time: str
    device: str
    runtime: str
    precision: str
    mirror: bool | None = None
    model_weights_sha256: str
    member_weights_sha256: list[str] = []
    made_by: str
    n_done: int
    n_unchanged: int
    n_failed: int
    n_waiting: int
    skipped_files: list[SkippedFile] = Field(validation_alias=AliasChoices("skipped_files", "left_aside"))
    n_other_files: int
    channels: dict[str, tuple[str, ...]]
    labels: dict[str, int]
    regions: dict[str, tuple[int, ...]] = {}
    scans: str = ""
    more_scans: list[str] = []
    is_calibrated: bool | None = None
    knows_training_scans: bool | None = None
    model_channels: list[tuple[str, bool]] = []
    channel_map: dict[str, str | ChannelRule] = {}
    scan_options: ScansConfig = ScansConfig()

    @property
    def structures(self) -> dict[str, int | tuple[int, ...]]:
        """Return the scored structures: regions with the values of all their voxels, otherwise each label with its value."""
        return {**self.regions} if self.regions else {**self.labels}


def read_folder_record(folder: Path) -> FolderRecord:
    """Read the record of a folder of masks; raises `DataError` if it is missing or damaged."""
    path = folder / "run.json"
    try:
        return FolderRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        if not folder.is_dir():
            raise DataError(f"{folder} does not exist", remedy="check the path") from error
        if not path.exists() and any((folder / name).is_dir() for name in ("done", *STARTED_NAMES)):
            raise DataError(
                f"predict did not finish in {folder}",
                expected=f"{path}, which is written at its end",
                remedy="call predict again with the same --out: it continues",
            ) from error
        raise DataError(
            f"{folder} is not an output folder of medhybrid predict",
            expected=f"{path}",
            found=reason_of(error),
            remedy="give the folder that was the --out of medhybrid predict",
        ) from error


def _is_earlier_output(folder: Path) -> bool:
    """Return whether `predict` wrote a folder without marker, judged by the record of the run or the records of scans."""
    try:
        read_folder_record(folder)
    except DataError:
        records = [p for state in ("done", "failed") for p in (folder / state).glob("[!.]*.json")]
        has_tables = any((folder / n).exists() for n in ("results.csv", "work.csv", "run.json", "report.html"))
        if has_tables and not records:  # tables of another program
            return False
        started = [p for name in STARTED_NAMES for p in (folder / name).glob("[!.]*.json")]
        cases = {p.stem for p in [*records, *started]}
        masks = {p.name.removesuffix(".nii.gz") for p in (folder / "masks").glob("*")}
        return masks <= cases and all(_is_prediction(p) for p in records)
    return True


def _is_prediction(path: Path) -> bool:
    try:
        Prediction.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return False
    return True


OUTPUT = FolderKind(
    "predict",
    {
        "masks": ("*.nii.gz",),
        "label_images": ("*.png", "*.tif"),
        "probabilities": ("*.nii.gz", "*.dcm"),
        "seg": ("*.dcm",),
        "sr": ("*.dcm",),
        "done": ("*.json",),
        "failed": ("*.json",),
        **dict.fromkeys(STARTED_NAMES, ("*.json",)),
        "results.csv": (),
        "work.csv": (),
        "label_next.csv": (),
        "run.json": (),
        "report": ("*.html", "viewer.js"),
        "report.html": (),
        ".report-new": ("*.html", "viewer.js"),
        "predict*.sbatch": (),
        "corrected": ("*",),
        "fetched": ("*",),
    },
    _is_earlier_output,
)
"""Names of the files in an output folder of `predict`. `corrected` holds masks of a reviewer, which are not scans."""
