"""Names of label values in files beside the masks: label descriptions of ITK-SNAP, JSON objects, and tables (BIDS).

1  255 0 0  1 1 1  "left kidney"      ITK-SNAP: index, colour, opacity, visibility (twice), name
{"left kidney": 1}, {"1": "left kidney"}
index,name                            CSV or TSV, with columns for a number and a name
1 left kidney, left kidney: 1         text with a label in each line, also with colours as in a lookup table of FreeSurfer
background, left kidney               text with a name in each line, from the background on
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.data.json_names import BACKGROUND, UNLABELLED, plain_name
from medhybrid.draft.words import words_of
from medhybrid.errors import DataError, MedHybridError
from medhybrid.names import printable_path
from medhybrid.tables import decode_text, read_table

ITK_SNAP = re.compile(r'^\s*(\d+)(?:\s+\d+){3}\s+[\d.]+\s+[01]\s+[01]\s+"(.+)"\s*$', re.MULTILINE)

SEPARATOR = r"(?:\s+|\s*(?:[:=,;.)|–-]|->|=>)\s*)"
NUMBERED = re.compile(rf"(\d+){SEPARATOR}[\"']?([^\W\d].*?)[\"']?(?:[\s,;]+\d+){{0,4}}")
NUMBER_LAST = re.compile(rf"[\"']?([^\W\d].*?)[\"']?{SEPARATOR}(\d+)")
"""Lines with a value and a name, with up to four numbers of a colour, and with a name and a value."""

NUMBER_COLUMNS = (
    "index",
    "value",
    "id",
    "label_id",
    "class_id",
    "labelid",
    "number",
    "intensity",
    "label_value",
    "label",
    "class",
    *("wert", "nummer", "klasse", "valeur", "numero", "numéro", "valor", "número", "valore", "classe", "clase"),
)
NAME_COLUMNS = (
    *("name", "label_name", "class_name", "labelname", "structure", "label", "class", "description"),
    *("bezeichnung", "struktur", "klasse", "nom", "étiquette", "nombre", "etiqueta", "estructura", "nome", "etichetta"),
    *("struttura", "classe", "clase"),
)

LABEL_WORDS = frozenset(
    {
        *("label", "labels", "class", "classes", "structure", "structures", "lookup", "lut", "dseg", "legend"),
        *("klassen", "strukturen", "legende", "étiquettes", "etiquettes", "légende", "etiquetas", "clases"),
        *("estructuras", "leyenda", "etichette", "classi", "strutture", "legenda"),
    }
)
"""Words in the names of such files."""

MAX_FILES, MAX_BYTES = 40, 1_000_000

MAX_ASKED = 8
"""Number of names that are compared with those of files."""

MAX_LINE = 200
"""Longest line of a list of labels, in characters."""


def label_names(root: Path, values: Collection[int]) -> tuple[dict[str, int], str]:
    """Return the names of label values in the first file below a folder that names all of them, and the file's name.

    Both are empty without such a file. `DataError` is raised if the only such file gives the background another value than 0.

    Parameters
    ----------
    values : collection of int
        Values of the masks, without background.
    """
    wrong: DataError | None = None
    for path in _files(root):
        with suppress(MedHybridError, OSError, UnicodeError, ValueError, TypeError, RecursionError):
            whole = {n: v for v, n in _read(path).items() if v and n}
            named = {n: v for n, v in whole.items() if not _is_background(n)}
            if _are_cases(named, root):
                continue
            if named and set(values) <= set(named.values()) and len(set(named.values())) == len(named):
                return {n: v for n, v in named.items() if v in values}, path.name
            if named and set(values) <= set(whole.values()):
                wrong = wrong or _wrong_background(path, whole)
    if wrong is not None:
        raise wrong
    return {}, ""


def _wrong_background(path: Path, named: Mapping[str, int]) -> DataError:
    """Return the error for a list in which the background has another value than 0, which the masks have."""
    return DataError(
        f"{printable_path(path.name)}: the background has another value than 0",
        expected="0 for the background",
        found=", ".join(f"{v}: {ascii(n)[1:-1]}" for n, v in list(named.items())[:5]),
        remedy="save the masks with 0 for the background, and correct the list",
    )


def _is_background(name: str) -> bool:
    """Return whether a value other than 0 has a name of the background; `unlabelled` may be that of other voxels."""
    return plain_name(name) in BACKGROUND and plain_name(name) not in UNLABELLED


def _are_cases(names: Collection[str], root: Path) -> bool:
    """Return whether most names begin those of image files or folders: a table of cases, with a number for each."""
    found = {p.name.casefold() for level in ("*", "*/*", "*/*/*") for p in root.glob(level)}
    of_images = [n for n in found if IMAGE_SUFFIX.search(n) or "." not in n]
    n_cases = sum(any(f.startswith(n.casefold()) for f in of_images) for n in list(names)[:MAX_ASKED])
    return 2 * n_cases > min(len(names), MAX_ASKED)


def _files(root: Path) -> list[Path]:
    """Return the files of a folder and of two levels below that may name labels, the upper ones first."""
    found = [p for level in ("*", "*/*", "*/*/*") for p in sorted(root.glob(level)) if p.is_file()]
    kinds = (".txt", ".label", ".json", ".csv", ".tsv")
    named = [p for p in found if p.suffix.lower() in kinds and not p.name.startswith(".")]
    of_labels = [p for p in named if LABEL_WORDS & set(words_of(p.stem)) or p.suffix.lower() == ".label"]
    return [p for p in of_labels[:MAX_FILES] if p.stat().st_size <= MAX_BYTES]


def _read(path: Path) -> dict[int, str]:
    """Return value to name; empty for a file of another kind."""
    if path.suffix.lower() in (".csv", ".tsv"):
        table = read_table(path)
        cells = {c: [row[c] for _, row in table.rows] for c in table.columns if c}
        numbers = [c for n in NUMBER_COLUMNS if (c := table.column(n)) and all(v.isdecimal() for v in cells[c])]
        number = next(iter(numbers), None)
        names = [c for n in NAME_COLUMNS if (c := table.column(n)) and not any(v.isdecimal() for v in cells[c])]
        name = next(iter(names), None)
        if number is None or name is None:
            return _read_lines(decode_text(path.read_bytes()))
        return {int(row[number]): row[name] for _, row in table.rows}
    text = decode_text(path.read_bytes())
    if path.suffix.lower() != ".json":
        return {int(number): name.strip() for number, name in ITK_SNAP.findall(text)} or _read_lines(text)
    content = json.loads(text)
    content = content.get("labels", content) if isinstance(content, dict) else content
    if isinstance(content, dict) and all(str(k).isdecimal() and isinstance(v, str) for k, v in content.items()):
        return {int(k): v for k, v in content.items()}
    are_numbers = isinstance(content, dict) and all(isinstance(v, int) for v in content.values())
    if are_numbers and len(set(content.values())) == len(content):
        return {v: str(k) for k, v in content.items()}
    return {}


def _read_lines(text: str) -> dict[int, str]:
    """Return value to name of a text in which each line has a label; empty for another text."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", "//"))]
    if max(map(len, lines), default=0) > MAX_LINE:
        return {}
    if lines and lines[0].casefold() in BACKGROUND and not any(map(NUMBERED.fullmatch, lines[1:])):
        return dict(enumerate(lines)) if not any(map(NUMBER_LAST.fullmatch, lines)) else {}
    for pattern, value, name in ((NUMBERED, 1, 2), (NUMBER_LAST, 2, 1)):
        found = [m for line in lines if (m := pattern.fullmatch(line))]
        if any("/" in m[name] or "\\" in m[name] or IMAGE_SUFFIX.search(m[name]) for m in found):  # a list of files
            return {}
        if found and len(found) == len(lines) == len({m[value] for m in found}):
            return {int(m[value]): m[name] for m in found}
    return {}
