"""Dataset layouts: which files belong to which case. The images themselves are not opened here.

A layout turns a folder into a `Listing` of cases. To add one, write a function `(DataConfig, Path) -> Listing` in a module here
and add it to `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medhybrid.config import DataConfig
from medhybrid.data.layouts.case import Case, Files, Listing, Note, read_json, subject_of
from medhybrid.data.layouts.datalist import find_datalist, list_datalist
from medhybrid.data.layouts.nnunet import is_nnunet, list_nnunet
from medhybrid.data.layouts.studies import list_scans, list_studies
from medhybrid.data.layouts.table import find_tables, list_table
from medhybrid.errors import DataError
from medhybrid.names import make_unique, printable_path
from medhybrid.remote import local_copy

LAYOUTS: dict[str, Callable[[DataConfig, Path], Listing]] = {
    "decathlon": list_datalist,
    "nnunet": list_nnunet,
    "csv": list_table,
    "studies": list_studies,
}

UNLABELLED: dict[str, Callable[[DataConfig, Path], Listing]] = {"studies": list_scans}
"""How cases are listed where masks are not asked for, if not as above."""


def list_dataset(config: DataConfig) -> Listing:
    """List the cases of a dataset, sorted by name, and the files that belong to none.

    Raises
    ------
    DataError
        If the folder does not have the layout, or holds no case.
    """
    if config.root is None:
        raise DataError("data.root is not set", remedy="give the dataset's folder: data.root=/path/to/dataset")
    root = local_copy(config.root)
    if not root.is_dir():
        raise DataError(f"dataset folder {printable_path(root)} does not exist", remedy="check data.root")
    layout = recognise(root) if config.layout == "auto" else config.layout
    _refuse_ignored_label(root, config)
    lister = LAYOUTS[layout] if config.labelled else UNLABELLED.get(layout, LAYOUTS[layout])
    listing = lister(config, root)
    cases = listing.cases if config.labelled else tuple(replace(c, mask=None) for c in listing.cases)
    if not cases:
        raise DataError(
            f"{printable_path(root)} holds no case in the {layout} layout", remedy="see docs/data.md for the layouts"
        )
    return replace(listing, cases=_with_unique_names(cases))


def _refuse_ignored_label(root: Path, config: DataConfig) -> None:
    """Raise `DataError` where the dataset's own file says that a label of the config is to be ignored."""
    path = root / "dataset.json"
    values = read_json(path) if path.is_file() else {}
    labels = values.get("labels") if isinstance(values, dict) else None
    if not isinstance(labels, dict):
        return
    pairs = [*labels.items(), *((v, k) for k, v in labels.items())]  # version 1 maps values to names
    ignored = {str(value) for name, value in pairs if str(name).strip().lower() == "ignore"}
    if found := [f"{n}: {v}" for n, v in config.labels.items() if str(v) in ignored]:
        raise DataError(
            "a label of the config is one that the dataset ignores",
            expected="labels without the value that dataset.json names `ignore`",
            found=", ".join(found),
            remedy="take it out of data.labels; masks that hold the value cannot be used yet",
        )


def list_cases(config: DataConfig) -> list[Case]:
    """Return the cases of a dataset, sorted by name; errors as `list_dataset`."""
    return list(list_dataset(config).cases)


def _with_unique_names(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Give cases that would be stored under one name a problem, and names that differ."""
    sources = [f"{i} {c.name}" for i, c in enumerate(cases)]
    names = make_unique([c.name for c in cases], [str(i) for i in range(1, len(cases) + 1)], sources)
    unique = [
        case
        if case.name == name
        else replace(
            case,
            name=name,
            problem=DataError(
                f"case {case.name}: another case has this name, or one that differs in case only",
                expected="a name for each case",
                remedy="rename one of them",
            ),
        )
        for case, name in zip(cases, names, strict=True)
    ]
    return tuple(sorted(unique, key=lambda c: c.name))


def recognise(root: Path) -> str:
    """Return the layout of a dataset's folder."""
    if (root / "dataset.json").is_file() and is_nnunet(root):
        return "nnunet"
    if find_datalist(root) is not None:
        return "decathlon"
    if find_tables(root):
        return "csv"
    return "nnunet" if is_nnunet(root) or (root / "dataset.json").is_file() else "studies"


__all__ = ["LAYOUTS", "Case", "Files", "Listing", "Note", "list_cases", "list_dataset", "recognise", "subject_of"]
