"""Comparison of a config with its dataset before anything is prepared: channels, files of each case, and labels.

In nnU-Net's folders and in data lists, files are channels by position and values are labels. A config with other channels or
labels would train on a part of the data, or on values that it calls by a wrong name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from medhybrid.config import DataConfig
from medhybrid.data.json_names import JsonNames, read_names
from medhybrid.data.layouts import Case, Note, layout_of
from medhybrid.data.layouts.case import read_json
from medhybrid.data.layouts.datalist import image_counts
from medhybrid.data.layouts.nnunet import file_counts
from medhybrid.errors import DataError, MedHybridError
from medhybrid.names import printable_path
from medhybrid.remote import local_copy
from medhybrid.scans import discover
from medhybrid.two_columns import two_columns

COMPARED = ("nnunet", "decathlon")
"""Layouts in which files are assigned to channels by their position."""

N_OPENED = 3
"""Number of cases whose header is read, if one file has all channels."""

SHOWN = 12
"""Number of labels in a message."""

CT_NAMES = ("ct",)
MR_NAMES = ("mr", "mri", "mrt")
"""Names of a channel that state its modality, in lower case."""


@dataclass(slots=True)
class _Difference:
    """Rows of the table, the lines to change, and notes on what does not contradict the config."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def refuse_other_dataset(config: DataConfig, cases: Sequence[Case]) -> list[Note]:
    """Raise `DataError` if the channels or labels of a config are not those of its dataset; return notes.

    Parameters
    ----------
    cases : sequence of Case
        Cases of the dataset.

    Raises
    ------
    DataError
        With the difference in two columns, and the lines to change.
    """
    root = local_copy(config.root or "")
    layout = layout_of(config, root)
    if layout not in COMPARED:
        return []
    names: JsonNames | None = None
    with suppress(DataError):  # labels without usable values cannot be compared
        names = read_names(root)
    found = _Difference()
    _compare_channels(config, names, _counts(root, layout, cases), layout, found)
    if config.labelled and names is not None and not config.segments:
        _compare_labels(config, names, found)
    if found.rows:
        raise DataError(
            f"the config contradicts the dataset {printable_path(root.name)}",
            table=two_columns(found.rows, "dataset", "config"),
            remedy=_remedy(found, root),
        )
    _note_number_of_cases(root, names, cases, found)
    return found.notes


def _remedy(found: _Difference, root: Path) -> str:
    lines = "\n".join(f"  {line}" for line in found.lines)
    change = f"in the config, section data, change\n{lines}\nor w" if found.lines else "w"
    return f"{change}rite a config for this dataset: medhybrid init {quote(printable_path(root))}"


def _counts(root: Path, layout: str, cases: Sequence[Case]) -> list[int]:
    """Return the number of channels of each case, by its files or by the headers of some files; empty if unknown."""
    by_case = list(file_counts(root).values()) if layout == "nnunet" else image_counts(root)
    if any(n > 1 for n in by_case) or (layout == "nnunet" and any(by_case)):
        return [n for n in by_case if n]
    return _counts_in_headers(cases)


def _counts_in_headers(cases: Sequence[Case]) -> list[int]:
    """Return the number of volumes in the image file of some cases."""
    usable = [c for c in cases if c.problem is None and len(c.images) == 1 and c.images[0] is not None]
    step = max(1, len(usable) // N_OPENED)
    counts = []
    for case in usable[::step][:N_OPENED]:
        assert case.images[0] is not None
        with suppress(MedHybridError, OSError, ValueError):
            entries = discover(case.images[0].paths[0]).entries
            # the number of colours of a picture depends on its use
            if len(entries) == 1 and not (entries[0].problem or entries[0].skip_reason or entries[0].kind == "raster"):
                counts.append(entries[0].n_channels)
    return counts


def _compare_channels(
    config: DataConfig, names: JsonNames | None, counts: Sequence[int], layout: str, found: _Difference
) -> None:
    ours = [c.name for c in config.channels]
    named = names.channels if names else ()
    is_numbered = layout == "nnunet"
    needed = max(i for i, c in enumerate(config.channels, start=1) if not c.optional) if is_numbered else len(ours)
    odd = [n for n in counts if not needed <= n <= len(ours)]
    has_other_files = 2 * len(odd) > len(counts)
    has_other_names = bool(named) and not needed <= len(named) <= len(ours)
    source = printable_path(names.path.name) if names else ""
    if has_other_names and counts and not has_other_files:
        message = f"it names {len(named)} channels, but the files and the config have {_most(counts)}"
        found.notes.append(Note(source, message, ", ".join(named)[:200], f"correct {source}"))
    elif has_other_names or has_other_files:
        if named:
            found.rows.append((f"channels in {source}", ", ".join(named)[:300], ", ".join(ours)[:300]))
        if counts:
            found.rows.append(("channels in the files", str(_most(counts)), str(len(ours))))
        n = _most(counts) if counts else len(named)
        wanted = [named[i] if i < len(named) else ours[i] if i < len(ours) else f"channel_{i}" for i in range(n)]
        found.lines.append(f"channels: [{', '.join(_channel_line(w, config) for w in wanted)}]")
    elif other := [
        (c.name, c.modality, name)
        for c, name in zip(config.channels, named, strict=False)
        if c.modality != "other" and (m := _modality_of(name)) is not None and m != c.modality
    ]:
        found.rows.append(
            ("modality", ", ".join(name for *_, name in other), ", ".join(f"{m} ({name})" for name, m, _ in other))
        )
        lines = [_channel_line(c.name, config, _modality_of(n)) for c, n in zip(config.channels, named, strict=False)]
        found.lines.append(f"channels: [{', '.join(lines)}]")


def _most(counts: Sequence[int]) -> int:
    return max(set(counts), key=lambda n: (counts.count(n), n))


def _modality_of(name: str) -> str | None:
    plain = name.strip().casefold()
    return "CT" if plain in CT_NAMES else "MR" if plain in MR_NAMES else None


def _channel_line(name: str, config: DataConfig, modality: str | None = None) -> str:
    known = {c.name: c for c in config.channels}
    chosen = modality or _modality_of(name) or (known[name] if name in known else config.channels[0]).modality
    optional = ", optional: true" if name in known and known[name].optional else ""
    text = name if re.fullmatch(r"[A-Za-z_][\w+.-]*", name) else '"' + name.replace('"', "'") + '"'
    return f"{{name: {text}, modality: {chosen}{optional}}}"


def _compare_labels(config: DataConfig, names: JsonNames, found: _Difference) -> None:
    """Compare values of labels. The masks decide about values of the config that the dataset does not name."""
    theirs = names.values
    ours = set(config.labels.values())
    if not theirs or theirs - ours <= {config.ignore_value}:
        if names.ignore_value is not None and names.ignore_value not in (config.ignore_value, *ours):
            found.rows.append(("value of unknown label", str(names.ignore_value), str(config.ignore_value or "none")))
            found.lines.append(f"ignore_value: {names.ignore_value}")
        return
    found.rows.append((f"labels in {printable_path(names.path.name)}", _listed(names.labels), _listed(config.labels)))
    pairs = ", ".join(f"{_label_text(n)}: {list(v) if isinstance(v, tuple) else v}" for n, v in names.labels.items())
    found.lines.append(f"labels: {{{pairs}}}")


def _label_text(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w-]*", name) else '"' + name.replace('"', "'") + '"'


def _listed(labels: object) -> str:
    assert isinstance(labels, dict)
    shown = [f"{'+'.join(map(str, v)) if isinstance(v, tuple) else v} {n}" for n, v in labels.items()]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")


def _note_number_of_cases(root: Path, names: JsonNames | None, cases: Sequence[Case], found: _Difference) -> None:
    """Add a note if `numTraining` of the dataset's file is not the number of its cases with masks."""
    if names is None:
        return
    values = read_json(names.path)
    listed = values.get("numTraining") if isinstance(values, dict) else None
    n = sum(c.is_labelled for c in cases)
    if isinstance(listed, int) and not isinstance(listed, bool) and listed != n:
        message = f"numTraining is {listed}, but the dataset has {n} cases with masks"
        found.notes.append(Note(printable_path(names.path.name), message, remedy="check that all files were copied"))


def absent_labels_error(names: Sequence[str], config: DataConfig) -> DataError | None:
    """Return the error for labels that no mask has and the dataset's file does not name; None if its file names them.

    Parameters
    ----------
    names : sequence of str
        Labels of the config that no mask has.
    """
    root = local_copy(config.root or "")
    if not names or layout_of(config, root) not in COMPARED:
        return None
    theirs: JsonNames | None = None
    with suppress(DataError):
        theirs = read_names(root)
    if theirs is None or not theirs.labels:
        return None
    known = theirs.values
    other = [n for n in names if config.labels[n] not in known]
    if not other:
        return None
    source = printable_path(theirs.path.name)
    kept = ", ".join(f"{_label_text(n)}: {v}" for n, v in config.labels.items() if n not in other)
    return DataError(
        f"the config has labels that the dataset {printable_path(root.name)} does not have: {', '.join(other)}",
        table=two_columns(
            [(f"labels in {source}", _listed(theirs.labels), _listed(config.labels))], "dataset", "config"
        ),
        remedy=f"in the config, section data, change\n  labels: {{{kept}}}"
        if kept
        else f"write a config for this dataset: medhybrid init {quote(printable_path(root))}",
    )
