"""Record of an output folder of `predict` whose masks are scored: labels, model, and masks that cannot be scored."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from medhybrid.data.store import hash_files, stamp_files
from medhybrid.errors import ConfigError, DataError
from medhybrid.inference.folder_record import read_folder_record
from medhybrid.inference.foreign_files import is_edited
from medhybrid.inference.model_record import read_record
from medhybrid.inference.records import Prediction, Records
from medhybrid.names import printable_path
from medhybrid.two_columns import two_columns

Structures = Mapping[str, int | Sequence[int]]
"""Label names with their values, or regions with the values of all their voxels."""


def output_folder_of(predictions: Path) -> Path:
    """Return the output folder of `predict` for its `masks` folder, else the folder itself."""
    return predictions.parent if predictions.name == "masks" and not (predictions / "masks").is_dir() else predictions


def labels_on_record(predictions: Path) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Return labels and regions in `run.json` of an output folder of `predict`; raise `ConfigError` without such a record."""
    if not predictions.is_dir():
        raise ConfigError(f"{printable_path(predictions)} does not exist or is not a folder", remedy="check the path")
    try:
        record = read_folder_record(output_folder_of(predictions))
    except DataError as error:
        is_unfinished = (output_folder_of(predictions) / "done").is_dir()
        raise ConfigError(
            "the labels of the masks are unknown",
            expected=f"--config with their labels, or {printable_path(output_folder_of(predictions) / 'run.json')}",
            found="a folder in which predict did not finish" if is_unfinished else error.found,
            remedy="call predict again with the same --out: it continues"
            if is_unfinished
            else "give --config, or the folder that was --out of medhybrid predict",
        ) from error
    return dict(record.labels), dict(record.regions)


def refuse_other_labels(folder: Path, labels: Structures, *, ignores: bool) -> None:
    """Raise `DataError` if labels differ from those in the record of an output folder of `predict`.

    A region may combine values of the record under a new name, unless the record has a region of this name.

    Parameters
    ----------
    ignores : bool
        Whether values without a label are ignored, so that some of the labels are enough.
    """
    try:
        record = read_folder_record(folder)
    except DataError:  # a folder of masks of other software
        return
    made: dict[str, int | Sequence[int]] = {**record.labels, **record.regions}
    known = set(record.labels.values())

    def has(name: str, value: int | Sequence[int]) -> bool:
        if name in made:
            return set(values_of(made[name])) == set(values_of(value))
        return isinstance(value, Sequence) and set(value) <= known

    has_all = all(has(name, value) for name, value in labels.items())
    is_part = not any(isinstance(v, Sequence) for v in labels.values()) and len(labels) < len(record.labels)
    if not has_all or (is_part and not ignores):
        raise DataError(
            f"the masks of {printable_path(folder)} have other labels",
            table=two_columns([("labels", listed(made), listed(labels))], "model", "asked for"),
            remedy="omit --config to score the labels of the model, or convert the values of the references to its labels"
            + ("; --other-values ignore scores some of them" if has_all else ""),
        )


def refuse_other_run(folder: Path, run: Path) -> None:
    """Raise `DataError` if the masks of an output folder of `predict` are of another model than that of a training run.

    The masks of an ensemble belong to the runs of all its members.
    """
    try:
        record = read_folder_record(folder)
    except DataError:  # a folder of masks of other software
        return
    weights = read_record(run)[1].weights_sha256
    if weights not in (record.model_weights_sha256, *record.member_weights_sha256):
        raise DataError(
            f"the masks of {printable_path(folder)} are not of the model of {printable_path(run.name)}",
            expected=f"weights {weights[:12]}",
            found=record.model_weights_sha256[:12],
            remedy="give --run the run whose model made the masks, or omit it",
        )


def _has_changed(done: Prediction) -> bool:
    """Return whether the files of a scan are not those that were predicted; False if they are not there."""
    files = [Path(str(stamp[0])) for stamp in done.stamps]
    if not all(f.is_absolute() and f.is_file() for f in files):  # moved, or of a de-identified output
        return False
    try:
        return bool(files) and stamp_files(files) != done.stamps and hash_files(files) != done.input_hash
    except OSError:
        return False


def problems_on_record(folder: Path) -> tuple[set[str], dict[str, DataError]]:
    """Return the failed scans of an output folder of `predict`, and errors for masks that cannot be scored."""
    try:
        made_by = read_folder_record(folder).made_by
    except DataError:  # a folder of masks of other software
        return set(), {}
    records = Records(folder)
    failed = {p.stem for p in (folder / "failed").glob("[!.]*.json")}
    foreign: dict[str, DataError] = {}
    for done in records.all([p.stem for p in (folder / "done").glob("[!.]*.json")]):
        if done.status == "done" and done.made_by != made_by:
            foreign[done.case] = DataError(
                f"the mask of {done.case} is of another model", remedy="finish predict, then evaluate"
            )
        elif done.status == "done" and done.is_training_scan:
            foreign[done.case] = DataError(
                f"data leakage: the model was trained on {done.case}",
                expected="a scan that it has not seen",
                remedy="score unseen scans, or cross-validate: there, each case is scored by a model that did not train on it",
            )
        elif done.status == "done" and _has_changed(done):
            foreign[done.case] = DataError(
                f"the scan of {done.case} has changed since its mask was predicted",
                remedy="predict again, then evaluate",
            )
        elif done.status == "done" and is_edited(folder, records, done.case):
            foreign[done.case] = DataError(
                f"the mask of {done.case} was edited after predict wrote it",
                remedy="move it into corrected/ and predict again, or copy all masks to another folder to score edited ones",
            )
    failed -= {p.stem for p in (folder / "done").glob("[!.]*.json")}
    return {nfc(case) for case in failed}, {nfc(case): error for case, error in foreign.items()}


def has_unknown_training(folder: Path) -> bool:
    """Return whether the masks of a folder are of a model whose training scans are not known."""
    try:
        return read_folder_record(folder).knows_training_scans is False
    except DataError:  # a folder of masks of other software
        return False


def nfc(case: str) -> str:
    """Return the name of a case in the Unicode form of `list_masks`."""
    return unicodedata.normalize("NFC", case)


def values_of(value: int | Sequence[int]) -> tuple[int, ...]:
    """Return the values of a label or of a region."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def listed(labels: Structures) -> str:
    """Return labels with their values as text."""
    return ", ".join(f"{'+'.join(map(str, values_of(v)))} ({n})" for n, v in labels.items())
