"""`medhybrid report --unlabelled`: unlabelled scans in the order in which a reference mask would teach a model most.

OUT/label_next.csv    rank, case, score (the Dice that the model expects), distance to the scans ranked before
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medhybrid.data.mask_files import list_masks
from medhybrid.errors import DataError, OutputError, item_error
from medhybrid.inference.corrected import hash_corrections
from medhybrid.inference.features import scan_features
from medhybrid.inference.folder_record import FolderRecord, read_folder_record
from medhybrid.inference.folder_scans import FolderScans, is_unchanged
from medhybrid.inference.model import Model
from medhybrid.inference.records import Prediction, Records
from medhybrid.kept_tables import write_kept_table
from medhybrid.progress import Reporter, Silent
from medhybrid.review.label_order import label_order
from medhybrid.runs.models import load_model

TABLE = "label_next.csv"


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """Scan without a reference mask.

    Attributes
    ----------
    score : float
        Dice that the model expects for its mask.
    distance : float
        Distance of its features to the nearest scan ranked before it, in standard deviations; NaN for the first one.
    """

    case: str
    score: float
    distance: float


def label_next(
    folder: str | Path,
    model: str | Path,
    *,
    scans: str | Path | None = None,
    references: str | Path | None = None,
    deidentify: str | Path | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> list[Unlabelled]:
    """Rank the scans of a folder of masks by what a reference mask would teach, and write `label_next.csv` into it.

    Scans that trained the model, have a reference or were corrected are left out.

    Parameters
    ----------
    folder : str or Path
        Output folder of `predict`.
    model : str or Path
        The model that `predict` used.
    scans, references, deidentify
        As for `report`.

    Raises
    ------
    DataError
        If the folder is not an output of this model, or no unlabelled scan can be read.
    OutputError
        If the table cannot be written.
    """
    folder, reporter = Path(folder), reporter or Silent()
    record = read_folder_record(folder)
    loaded = load_model(model, device=device)
    if loaded.record.weights_sha256 != record.model_weights_sha256:
        raise DataError(
            f"{folder} was not predicted by this model",
            expected=f"weights {record.model_weights_sha256[:12]}",
            found=loaded.record.weights_sha256[:12],
            remedy="give the model of the predict call, or predict again",
        )
    found = FolderScans.find(
        folder,
        record,
        scans=None if scans is None else Path(scans),
        deidentify=None if deidentify is None else Path(deidentify),
    )
    chosen = _unlabelled(folder, record, None if references is None else Path(references))
    features = []
    ranked: list[Prediction] = []
    reporter.begin("comparing scans", len(chosen))
    for n, prediction in enumerate(chosen, start=1):
        try:
            features.append(_features_of(folder, loaded, prediction.case, record, found))
            ranked.append(prediction)
        except Exception as error:
            reporter.message(str(item_error(error, f"{prediction.case} is not ranked", DataError)))
        reporter.advance(n, prediction.case)
    reporter.end()
    if not ranked:
        raise DataError(
            f"{folder} has no unlabelled scan that can be ranked",
            expected="scans with a mask of this model, without a reference, that can be read",
            found=f"{len(chosen)} such scans in its record, of which none can be read"
            if chosen
            else "none in its record",
            remedy="predict new scans, or give --scans with their folder",
        )
    is_comparable = len({f.shape for f in features}) == 1
    values = np.stack(features) if is_comparable else np.zeros((len(features), 0))
    if not values.size:
        reporter.message("the scans are ranked by their scores alone: the network has no features to compare them")
    order, distances = label_order(np.array([1 - (p.score or 0.0) for p in ranked]), values.astype(np.float64))
    rows = [Unlabelled(ranked[i].case, ranked[i].score or 0.0, d) for i, d in zip(order, distances, strict=True)]
    _write(folder, rows)
    return rows


def _unlabelled(folder: Path, record: FolderRecord, references: Path | None) -> list[Prediction]:
    names = sorted(p.stem for p in (folder / "done").glob("[!.]*.json"))
    made = [p for p in Records(folder).all(names) if p.made_by == record.made_by and p.status == "done"]
    known = set() if references is None else set(list_masks(references, labels=record.labels)[0])
    return [
        p
        for p in made
        if not p.is_training_scan
        and unicodedata.normalize("NFC", p.case) not in known
        and not hash_corrections(folder, p.case)
    ]


def _features_of(folder: Path, model: Model, case: str, record: FolderRecord, found: FolderScans) -> np.ndarray:
    item = found.items.get(case)
    if item is None or item.problem or not is_unchanged(folder, item):
        raise DataError(
            f"the scan of {case} was not found as it was predicted",
            found="" if item is None else item.problem,
            remedy="give --scans with the folder that predict read, or predict again",
        )
    features = scan_features(model, item.read([n for n, _ in record.model_channels], record.scan_options))
    return np.zeros(0, np.float32) if features is None else features


def _write(folder: Path, rows: Sequence[Unlabelled]) -> None:
    cells = [
        [rank, r.case, f"{r.score:.4f}", "" if np.isnan(r.distance) else f"{r.distance:.3f}"]
        for rank, r in enumerate(rows, start=1)
    ]
    try:
        write_kept_table(folder / TABLE, [["rank", "case", "score", "distance"], *cells])
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written to", found=error.strerror or str(error), remedy="copy it to another folder"
        ) from error
