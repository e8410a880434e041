"""Labels that the mask of a case has, as a table or list of cases gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medhybrid.config import DataConfig
from medhybrid.data.layouts.dataset_names import joined_words
from medhybrid.errors import DataError

EVERY_LABEL = "all"
"""Word for a case that has all labels."""

SEPARATORS = re.compile(r"[;,|]")

SHOWN = 8


class CaseLabelsError(DataError):
    """A case whose list of labels cannot be used."""


def read_annotated(value: object, config: DataConfig, *, where: str) -> tuple[str, ...] | None:
    """Parse the labels of a case in a table or list; return None for all labels.

    Parameters
    ----------
    value : str or list of str
        Names, in a text separated by `;`, `,` or `|`; or the word `all`.
    where : str
        Case and position in the file, for the message.

    Raises
    ------
    CaseLabelsError
        If a name is not a label or region of the config, or no name is given.
    """
    known = list(config.regions or config.labels)
    if isinstance(value, str):
        listed = [value] if _label_of(value, known) else SEPARATORS.split(value)
    else:
        listed = list(value) if isinstance(value, Sequence) else [value]
    names = [str(n).strip() for n in listed if str(n).strip()]
    if [n.casefold() for n in names] == [EVERY_LABEL] and _label_of(EVERY_LABEL, known) is None:
        return None
    found = [_label_of(n, known) for n in names]
    if not names or None in found:
        unknown = [ascii(n)[1:-1] for n, label in zip(names, found, strict=True) if label is None]
        raise CaseLabelsError(
            f"{where}: {'unknown labels' if unknown else 'no label'} in the list of its labels",
            expected=f"names among {', '.join(known[:SHOWN])}{' and more' if len(known) > SHOWN else ''}, or `{EVERY_LABEL}`",
            found=", ".join(unknown[:SHOWN]) or "an empty list",
            remedy="correct the names; a case without any label is left out of the list of cases",
        )
    annotated = tuple(n for n in known if n in found)
    return None if len(annotated) == len(known) else annotated


def _label_of(name: str, known: Sequence[str]) -> str | None:
    """Return the label of a name, compared by its words if none is the same; None without a match, or with several."""
    if name.strip() in known:
        return name.strip()
    alike = [k for k in known if joined_words(k) == joined_words(name)]
    return alike[0] if len(alike) == 1 else None
