"""Names of scans in an output folder that is used several times: a scan keeps its name in all calls.

A scan has the name of its file or folder. If the record of that name belongs to another scan, the new scan gets a name with a
number. A record belongs to a scan if the paths of their files are equal, even if the content has changed. Otherwise the
contents are compared, since files may have been moved.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path

from medhybrid.data.channels import channel_assignment_of
from medhybrid.data.store import hash_files, stamp_files
from medhybrid.inference.outputs import OF_MAP, files_of
from medhybrid.inference.records import Prediction, Records
from medhybrid.inference.worklist import WorkItem, WorkList
from medhybrid.names import printable_path, same_file_name, shorten_name
from medhybrid.scans.context import context_files
from medhybrid.scans.dicom.deidentify import Deidentifier

logger = logging.getLogger(__name__)

SHOWN = 5

_Test = Callable[[Prediction, WorkItem], bool]


def places_of(item: WorkItem, deidentifier: Deidentifier | None) -> list[str]:
    """Return the places of a scan's files, as keyed hashes if names are replaced."""
    return [s if deidentifier is None else deidentifier.name(s) for e in item.entries if e for s in e.places]


def with_source(made: Prediction, item: WorkItem, deidentifier: Deidentifier | None) -> Prediction:
    """Return a record with the places, stamps and hash of its scan's files, by which later calls find its name."""
    stamps, input_hash = made.stamps, made.input_hash
    with suppress(OSError):
        if not input_hash:  # the scan failed before its files were read
            stamps, input_hash = stamp_files(item.files), hash_files(item.files)
    if deidentifier is not None:
        stamps = [(item.case, *s[1:]) for s in stamps]
    elif made.status == "failed":
        stamps = [(os.path.abspath(s[0]), *s[1:]) for s in stamps]
    changes = {"places": places_of(item, deidentifier), "channel_assignment": channel_assignment_of(item.entries)}
    return made.model_copy(update=changes | {"stamps": stamps, "input_hash": input_hash})


def keep_names(
    work: WorkList, records: Records, deidentifier: Deidentifier | None = None, *, with_new: bool = True
) -> WorkList:
    """Return the scans with the names of earlier calls. A new scan never gets the name of another scan.

    Parameters
    ----------
    with_new : bool
        Find a free name for scans without a record. Otherwise they keep their own name, unless a scan of this list has it.
    """
    kept = _Kept(work.items, records, deidentifier)
    kept.assign(with_new=with_new)
    items = [kept.named(i) for i in work.items]
    return replace(work, items=tuple(sorted(items, key=lambda i: i.case)))


def tell_renamed(work: WorkList, out: Path) -> None:
    """Warn of scans that were renamed because the folder has other scans of the same names."""
    notes = [i.note for i in work.items if i.name_taken]
    if notes:
        more = f"; and {len(notes) - SHOWN} more" if len(notes) > SHOWN else ""
        logger.warning(
            "%s holds other scans of the same names: %s%s", printable_path(out), "; ".join(notes[:SHOWN]), more
        )


def tell_other_models(out: Path, cases: Sequence[str]) -> None:
    """Warn of masks of earlier calls that another model predicted: results.csv has the results of one model only."""
    if cases:
        shown = ", ".join(cases[:SHOWN]) + (f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else "")
        logger.warning("%s: masks of another model are not in results.csv: %s", printable_path(out), shown)


def others_on_record(work: WorkList, records: Records, deidentifier: Deidentifier | None) -> list[Prediction]:
    """Return the records of scans that are not in a work list: those with a mask, and failures that can be repeated.

    A failure can be repeated if one of its files exists and no scan of the list uses it.
    """
    listed = {i.case for i in work.items}
    here = {p for i in work.items for p in places_of(i, deidentifier)}
    found = records.all(sorted(n for n in records.names() if n not in listed))
    return [p for p in found if _has_mask(records.out, p) or _may_be_mended(p, here)]


def _has_mask(out: Path, prediction: Prediction) -> bool:
    return prediction.status == "done" and (out / files_of(prediction.case)[0]).exists()


def _may_be_mended(prediction: Prediction, here: set[str]) -> bool:
    if prediction.status == "done" or not here.isdisjoint(prediction.places):
        return False
    return any(os.path.isabs(path) and os.path.exists(path) for path, *_ in prediction.stamps)


class _Kept:
    """Assignment of names to the scans of a work list: from the name of an item to its name in the output folder."""

    def __init__(self, items: Sequence[WorkItem], records: Records, deidentifier: Deidentifier | None) -> None:
        self.items, self.records, self.deidentifier = items, records, deidentifier
        self.recorded = {same_file_name(n): n for n in records.names()}
        self.names: dict[str, str] = {}
        self.claimed: set[str] = set()
        self._read: dict[str, Prediction | None] = {}
        self._places = {i.case: set(places_of(i, deidentifier)) for i in items}
        self._sizes: dict[str, list[tuple[tuple[Path, ...], list[int]]]] = {}
        self._hashes: dict[tuple[Path, ...], str] = {}

    def assign(self, *, with_new: bool) -> None:
        """Assign a name to every scan: by its place under its own name, then under other names, then by its content."""
        for item in self.items:
            own = self._record(item.own_name)
            is_ours = own is not None and self._lies_there(own, item)
            is_damaged = own is None and same_file_name(item.own_name) in self.recorded.keys() - self.claimed
            if is_ours or is_damaged:  # `refuse_foreign_files` reports a damaged record
                self._take(item, item.own_name)
        left = [i for i in self.items if i.case not in self.names]
        if left and self.recorded:
            by_base: dict[str, list[str]] = {}
            for name in sorted(self.recorded.values()):
                by_base.setdefault(_base(name), []).append(name)
            for test in (self._is_same_place, self._is_same_content):
                for item in left:
                    own_name = item.own_name
                    others = [own_name, *by_base.get(_base(own_name), ()), *self._numbered(own_name)]
                    if item.case not in self.names and (name := self._first(others, item, test)):
                        self._take(item, name)
        wanted = {same_file_name(i.own_name) for i in self.items}
        for item in self.items:
            if item.case not in self.names:
                is_own = not with_new and same_file_name(item.own_name) not in self.claimed
                self._take(item, item.own_name if is_own else self._free(item.own_name, wanted))

    def named(self, item: WorkItem) -> WorkItem:
        """Return an item with its assigned name, and a note if that differs from its own name."""
        name, own_name = self.names[item.case], item.own_name
        if name == own_name:
            return replace(item, case=name)
        is_same = same_file_name(own_name) in self.recorded.keys() | self.claimed
        why = f"another scan named {own_name}" if is_same else "another scan with the name of its uncertainty map"
        note = f"named {name}: the output folder has {why}"
        return replace(item, case=name, note="; ".join(filter(None, [item.note, note])), name_taken=True)

    def _take(self, item: WorkItem, name: str) -> None:
        self.names[item.case] = name
        self.claimed.add(same_file_name(name))

    def _first(self, names: Iterable[str], item: WorkItem, test: _Test) -> str:
        for name in names:
            found = None if same_file_name(name) in self.claimed else self._record(name)
            if found is not None and test(found, item):
                return name
        return ""

    def _free(self, case: str, wanted: set[str]) -> str:
        """Return the name itself if no other scan has it, else the first numbered name that no scan has or would get."""
        own = self._record(case)
        is_unused = own is None or (own.status == "failed" and not own.places and not own.stamps)
        is_unused = is_unused and same_file_name(case) not in self.claimed
        if is_unused and not _shares_a_map(case, self.recorded.keys() | self.claimed):
            return case
        others = self.recorded.keys() | self.claimed | wanted
        numbered = (_with_number(case, k) for k in count(2))
        return next(n for n in numbered if same_file_name(n) not in others and not _shares_a_map(n, others))

    def _record(self, name: str) -> Prediction | None:
        name = self.recorded.get(same_file_name(name), "")
        if name and name not in self._read:
            found = self.records.all([name])
            is_readable = bool(found) and not self.records.damaged(name)
            self._read[name] = found[0] if is_readable else None
        return self._read.get(name)

    def _numbered(self, case: str) -> Iterator[str]:
        """Yield the numbered names of a case that have a record. `_base` does not find them for long, shortened names."""
        names = (_with_number(case, n) for n in count(2))
        return takewhile(lambda n: same_file_name(n) in self.recorded, names)

    def _is_same_place(self, made: Prediction, item: WorkItem) -> bool:
        return made.channel_assignment == channel_assignment_of(item.entries) and self._lies_there(made, item)

    def _lies_there(self, made: Prediction, item: WorkItem) -> bool:
        """Return whether the files of a record were at the places of a scan."""
        if made.places:
            return not self._places[item.case].isdisjoint(made.places)
        paths = {path for path, *_ in made.stamps}  # records of earlier versions have no places
        if paths == {
            made.case
        }:  # de-identified: names of series are hashes of their UIDs, so an equal name means an equal series
            return any(e is not None and e.uid for e in item.entries)
        known = {f(p) for p in item.files for f in (printable_path, _real_path)}
        return any(os.path.isabs(p) and p in known for p in paths)

    def _is_same_content(self, made: Prediction, item: WorkItem) -> bool:
        """Return whether the files of a record had the content of a scan's files; these are read only if the sizes agree."""
        if not made.input_hash or made.channel_assignment != channel_assignment_of(item.entries):
            return False
        sizes = [s[1] for s in made.stamps]
        return any(n == sizes and self._hash(files) == made.input_hash for files, n in self._sizes_of(item))

    def _sizes_of(self, item: WorkItem) -> list[tuple[tuple[Path, ...], list[int]]]:
        """Return the files of a scan and their sizes, without and with the files that hold its context values."""
        if item.case not in self._sizes:
            found = self._sizes[item.case] = []
            for files in (item.files, item.files + context_files(item.files)):
                with suppress(OSError):
                    found.append((files, [size for _, size, *_ in stamp_files(files)]))
        return self._sizes[item.case]

    def _hash(self, files: tuple[Path, ...]) -> str:
        if files not in self._hashes:
            try:
                self._hashes[files] = hash_files(files)
            except OSError:
                self._hashes[files] = ""
        return self._hashes[files]


def _with_number(case: str, number: int) -> str:
    return shorten_name(f"{case}_{number}")


def _shares_a_map(name: str, others: Collection[str]) -> bool:
    """Return whether the uncertainty map of a scan would have the name of another scan's probabilities, or the reverse."""
    name = same_file_name(name)
    return f"{name}{OF_MAP}" in others or (name.endswith(OF_MAP) and name.removesuffix(OF_MAP) in others)


def _base(name: str) -> str:
    return same_file_name(re.sub(r"_\d+$", "", name))


def _real_path(path: Path) -> str:
    return printable_path(os.path.join(os.path.realpath(path.parent), path.name))
