"""`medhybrid init`: a study's config from the files of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from medhybrid.config import StudyConfig, load_config
from medhybrid.data.layouts import list_dataset
from medhybrid.data.splits import load_folds
from medhybrid.draft import Draft, config_text, draft_study
from medhybrid.draft.subjects import SUBJECT_PATTERN
from medhybrid.errors import ConfigError, DataError, OutputError
from medhybrid.files import write_atomically, write_csv
from medhybrid.names import printable_path
from medhybrid.progress import Reporter, Silent
from medhybrid.tables import read_table

DEFAULT_MINUTES = 30.0

TABLE = "cases.csv"


@dataclass(frozen=True, slots=True)
class Initialised:
    """Config that was written, with the draft it came from."""

    path: Path
    config: StudyConfig
    draft: Draft


def init_study(
    data: Path,
    out: Path | None = None,
    *,
    name: str = "",
    minutes: float = DEFAULT_MINUTES,
    reporter: Reporter | None = None,
) -> Initialised:
    """Write the config of a study from a dataset's folder. The dataset itself is not changed.

    Parameters
    ----------
    out : Path, optional
        File for the config; by default `NAME.yaml` in the working directory. If the dataset has no list of cases, a table is
        written to the folder `NAME-cases` beside it.
    minutes : float
        Length of the training, which the plan uses.

    Raises
    ------
    DataError
        If the folder has no scans with masks in a known arrangement.
    OutputError
        If the file exists.
    """
    reporter = reporter or Silent()
    draft = draft_study(data, name=name)
    path = out or Path(f"{draft.name}.yaml")
    if path.exists():
        raise OutputError(
            f"{printable_path(path)} exists",
            expected="a new file for the config",
            remedy=f"train with it: medhybrid train --config {quote(printable_path(path))}; "
            "or write another one: medhybrid init DATA --out FILE",
        )
    root = draft.root
    if draft.table:
        root = (path.parent / f"{path.stem}-cases").resolve()
        _write_table(root, draft)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, config_text(draft, root, minutes=minutes))
    try:
        config = load_config(path)
    except ConfigError as error:  # names or values of the dataset that no config may have
        path.unlink(missing_ok=True)
        raise DataError(
            f"{printable_path(data)} gives no valid config",
            found=str(error),
            remedy="correct the names and values in the dataset's own list, or write the config yourself",
        ) from error
    for remark in draft.remarks:
        reporter.message(remark)
    if SUBJECT_PATTERN in draft.subject_reason:
        reporter.message(draft.subject_reason)
    if problem := _problem_of_folds(config):
        reporter.message(f"correct before medhybrid preprocess: {problem}")
    return Initialised(path, config, draft)


def _problem_of_folds(config: StudyConfig) -> str:
    """Return why `preprocess` would refuse the folds of the dataset, or an empty text.

    Studies are not listed again, which takes long; they have no list with folds.
    """
    if config.data.layout == "studies":
        return ""
    try:
        load_folds(config.data, list_dataset(config.data).cases)
    except DataError as error:
        return str(error)
    return ""


def config_for_data(
    data: Path, overrides: list[str], *, minutes: float | None = None, reporter: Reporter | None = None
) -> StudyConfig:
    """Return the config for a dataset's folder: the existing `NAME.yaml` if it has this folder, otherwise a new one.

    Raises the errors of `init_study`.
    """
    reporter = reporter or Silent()
    draft = draft_study(data)
    path = Path(f"{draft.name}.yaml")
    length = [] if minutes is None else [f"training.max_minutes={minutes:g}"]
    if path.is_file():
        config = load_config(path, [*overrides, *length])
        root = None if config.data.root is None else Path(config.data.root).resolve()
        listed = _listed_masks(root) if root == Path(f"{path.stem}-cases").resolve() else {}
        found = {row[draft.table[0].index("mask")]: row[0] for row in draft.table[1:]}
        if root == draft.root or listed.keys() & found.keys():  # another dataset may have the same name
            reporter.message(f"using {path}")
            for remark in _changes_since(listed, found):
                reporter.message(remark)
            return config
    made = init_study(data, minutes=minutes or DEFAULT_MINUTES, reporter=reporter)
    reporter.message(f"wrote {made.path}: {describe(made.draft)}")
    return load_config(made.path, [*overrides, *length])


def _listed_masks(folder: Path) -> dict[str, str]:
    """Return mask to case of a table that `init_study` wrote; empty if it does not exist."""
    if not (folder / TABLE).is_file():
        return {}
    return {row.get("mask", ""): row.get("case", "") for _, row in read_table(folder / TABLE).rows}


def _changes_since(listed: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return remarks on masks that came to a dataset, or left it, since its table of cases was written."""
    remedy = f"correct {TABLE} in the folder of data.root, or remove the folder and the config to draft them again"
    return [
        f"{len(names)} cases {what}, such as {printable_path(names[0])}: {remedy}"
        for names, what in (
            (sorted(case for mask, case in found.items() if mask not in listed), f"of the dataset are not in {TABLE}"),
            (sorted(case for mask, case in listed.items() if mask not in found), f"of {TABLE} are no longer found"),
        )
        if listed and names
    ]


def describe(draft: Draft) -> str:
    """Return one line on a draft: cases, channels, labels."""
    channels = ", ".join(f"{c.name} ({c.modality})" for c in draft.channels)
    labels = [label.name for label in draft.labels]
    shown = ", ".join(labels[:6]) + (f" and {len(labels) - 6} more" if len(labels) > 6 else "")
    return f"{draft.n_cases} cases; channels {channels}; labels {shown}"


def _write_table(folder: Path, draft: Draft) -> None:
    """Write the table of cases into a new folder; raise `OutputError` if it has other files."""
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(
            f"{printable_path(folder)} is not empty",
            expected="a new folder for the table of cases",
            remedy="write the config elsewhere: medhybrid init DATA --out FILE",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / TABLE, draft.table)
