"""Dataset layouts: assignment of files to cases, without opening the images.

A layout lists the cases of a folder as a `Listing`. To add a layout, write a function `(DataConfig, Path) -> Listing` in a
module of this package and add it to `LAYOUTS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from medhybrid.config import DataConfig
from medhybrid.data.channels import TABLE as CHANNEL_TABLE
from medhybrid.data.layouts.case import Case, Files, Listing, NoMaskError, Note, subject_of
from medhybrid.data.layouts.datalist import find_datalist, find_datalists, json_files, list_datalist, only_datalist
from medhybrid.data.layouts.dataset_names import refuse_contradictions, refuse_exchanged
from medhybrid.data.layouts.nnunet import is_nnunet, list_nnunet, tests_in_folder
from medhybrid.data.layouts.nnunet_folders import is_product, refuse_products
from medhybrid.data.layouts.parts import keep_tests_out
from medhybrid.data.layouts.studies import list_scans, list_studies
from medhybrid.data.layouts.table import find_tables, has_table, list_table
from medhybrid.data.subjects import unify_subjects
from medhybrid.errors import DataError
from medhybrid.names import make_unique, printable_path
from medhybrid.remote import local_copy
from medhybrid.scans.context import TABLE as CONTEXT_TABLE
from medhybrid.scans.context import remarks_on_context

LAYOUTS: dict[str, Callable[[DataConfig, Path], Listing]] = {
    "decathlon": list_datalist,
    "nnunet": list_nnunet,
    "csv": list_table,
    "studies": list_studies,
}

UNLABELLED: dict[str, Callable[[DataConfig, Path], Listing]] = {"studies": list_scans}
"""Functions that list cases without masks, for layouts that differ from `LAYOUTS` in this."""


def list_dataset(config: DataConfig) -> Listing:
    """List the cases of a dataset, sorted by name, with notes on files that are not used.

    Raises
    ------
    DataError
        If the folder does not have the layout, or contains no case.
    """
    if config.root is None:
        raise DataError("data.root is not set", remedy="set it to the dataset's folder: data.root=/path/to/dataset")
    root = local_copy(config.root)
    if not root.is_dir():
        raise DataError(f"dataset folder {printable_path(root)} does not exist", remedy="check data.root")
    refuse_products(root)
    layout = layout_of(config, root)
    if config.layout == "auto" and layout == "studies":
        _refuse_folder_of_datasets(root)
    refuse_contradictions(_list_of_names(root, layout), config)
    lister = LAYOUTS[layout] if config.labelled else UNLABELLED.get(layout, LAYOUTS[layout])
    listing = lister(config, root)
    cases = listing.cases if layout == "studies" else refuse_exchanged(listing.cases, config)
    cases = cases if config.labelled else tuple(replace(c, mask=None) for c in cases)
    kept_for_testing = (*listing.testing, *(tests_in_folder(config, root) if layout == "nnunet" else ()))
    unified, on_subjects = unify_subjects((*cases, *kept_for_testing))
    listed, testing = unified[: len(cases)], unified[len(cases) :]
    listed, on_images = _with_shared_images(listed)
    cases, on_tests = keep_tests_out(listed, testing)
    kept = {id(c) for c in cases}
    testing = (*testing, *(c for c in listed if id(c) not in kept))
    if not cases:
        raise DataError(
            f"{printable_path(root)} contains no case in the {layout} layout",
            found="; ".join(f"{n.message}: {n.where}" for n in on_tests)
            or (f"JSON files without a list of cases: {', '.join(lists)}" if (lists := json_files(root)) else ""),
            remedy="see docs/reference/data.md for the layouts",
        )
    notes = (
        *listing.notes,
        *on_tests,
        *on_subjects,
        *on_images,
        *_shared_masks(cases),
        *(_notes_on_context(cases, root, config) if config.context else ()),
    )
    return Listing(_with_unique_names(cases), notes, testing)


def _notes_on_context(cases: tuple[Case, ...], root: Path, config: DataConfig) -> list[Note]:
    """Return notes on entries of metadata tables that are not used, which would otherwise be missing unnoticed."""
    scans = [(c.name, [p for files in c.images if files for p in files.paths]) for c in cases]
    return [
        Note(
            printable_path(os.path.relpath(r.table, root.absolute())),
            r.message,
            ", ".join(r.names[:5]) + (f" and {len(r.names) - 5} more" if len(r.names) > 5 else ""),
            r.remedy,
        )
        for r in remarks_on_context(scans, config.context, root)
    ]


def datasets_below(root: Path) -> list[Path]:
    """Return the folders of a folder that are datasets of the Decathlon or nnU-Net, as in `nnUNet_raw`."""
    found = (p for p in root.iterdir() if (p / "dataset.json").is_file() or (p / "imagesTr").is_dir())
    return sorted(p for p in found if not is_product(p))


def folder_of_datasets(root: Path, below: Sequence[Path], remedy: str) -> DataError:
    """Return the error for a folder of several datasets."""
    names = ", ".join(printable_path(p.name) for p in below[:5])
    return DataError(
        f"{printable_path(root)} contains datasets and is not a dataset itself",
        expected="the folder of one dataset",
        found=names + (f" and {len(below) - 5} more" if len(below) > 5 else ""),
        remedy=remedy,
    )


def _refuse_folder_of_datasets(root: Path) -> None:
    """Raise `DataError` for a folder of several datasets, which has the layout of studies."""
    if below := datasets_below(root):
        remedy = f"set data.root={printable_path(below[0])}, or data.layout=studies to use its folders as studies"
        raise folder_of_datasets(root, below, remedy)


def layout_of(config: DataConfig, root: Path) -> str:
    """Return the layout of the config, or detect that of the folder if it is `auto`."""
    return recognise(root, config) if config.layout == "auto" else config.layout


def list_files(config: DataConfig, root: Path) -> list[Path]:
    """Return the tables and lists of a dataset that assign files to cases, channels, subjects and folds."""
    layout = layout_of(config, root)
    found = [root / CHANNEL_TABLE, root / CONTEXT_TABLE]
    if layout == "csv":
        found += find_tables(root)
    if layout in ("decathlon", "nnunet"):
        found.append(find_datalist(root) or root / "dataset.json")
    return [p for p in found if p.is_file()]


def _list_of_names(root: Path, layout: str) -> Path:
    """Return the path of the file that may contain the names of the dataset's labels and channels."""
    found = find_datalist(root) if layout == "decathlon" else None
    return found or root / "dataset.json"


def _shared_masks(cases: tuple[Case, ...]) -> list[Note]:
    """Return notes on masks that are used for several cases, for example by copied rows of a table."""
    by_mask: dict[tuple[Path, ...], list[str]] = {}
    for case in cases:
        if case.mask is not None:
            by_mask.setdefault(case.mask.paths, []).append(case.name)
    return [
        Note(names[0], f"{len(names)} cases have the same mask file", ", ".join(names[:5]), "check the list of cases")
        for names in by_mask.values()
        if len(names) > 1
    ]


def _with_shared_images(cases: tuple[Case, ...]) -> tuple[tuple[Case, ...], list[Note]]:
    """Give cases with the same image file one subject, so that none of them validates what another trains; with a note."""
    first: dict[tuple[object, ...], str] = {}
    changed: dict[str, str] = {}
    for case in cases:
        files = next((f for f in case.images if f is not None), None)
        if files is None:
            continue
        subject = first.setdefault((files.paths, files.part), case.subject)
        if subject != case.subject == case.name:  # the dataset gives no subjects
            changed[case.name] = subject
    if not changed:
        return cases, []
    message = f"{len(changed)} cases have the image file of another case: they are of its subject"
    remedy = "if they have masks of several structures, join these to one mask"
    note = Note("subjects", message, ", ".join(list(changed)[:5]), remedy)
    return tuple(replace(c, subject=changed.get(c.name, c.subject)) for c in cases), [note]


def list_cases(config: DataConfig) -> list[Case]:
    """Return the cases of a dataset, sorted by name; raise the errors of `list_dataset`."""
    return list(list_dataset(config).cases)


def _with_unique_names(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Make the names of cases unique, and add a problem to cases that would be stored under the same name."""
    sources = [f"{i} {c.name}" for i, c in enumerate(cases)]
    names = make_unique([c.name for c in cases], [str(i) for i in range(1, len(cases) + 1)], sources)
    unique = [
        case
        if case.name == name
        else replace(
            case,
            name=name,
            problem=DataError(
                f"case {case.name}: another case has the same name, or one that differs only in upper and lower case",
                expected="a unique name for each case",
                remedy="rename one of them",
            ),
        )
        for case, name in zip(cases, names, strict=True)
    ]
    return tuple(sorted(unique, key=lambda c: c.name))


def recognise(root: Path, config: DataConfig) -> str:
    """Detect the layout of a dataset's folder."""
    if (root / "dataset.json").is_file() and is_nnunet(root):
        return "nnunet"
    if find_datalist(root) is not None:
        return "decathlon"
    if has_table(root, config):
        return "csv"
    if is_nnunet(root) or (root / "dataset.json").is_file():
        return "nnunet"
    if find_datalists(root):
        only_datalist(root)  # raises, because the folder has several data lists
    has_folders = any(p.is_dir() and not p.name.startswith(".") for p in root.iterdir())
    return "csv" if find_tables(root) and not has_folders else "studies"


__all__ = [
    "LAYOUTS",
    "Case",
    "Files",
    "Listing",
    "NoMaskError",
    "Note",
    "datasets_below",
    "folder_of_datasets",
    "layout_of",
    "list_cases",
    "list_dataset",
    "list_files",
    "recognise",
    "subject_of",
]
