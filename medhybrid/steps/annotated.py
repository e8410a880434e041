"""Labels of partly labelled references, by the dataset's table or list."""

from __future__ import annotations

from medhybrid.config import DataConfig
from medhybrid.data.layouts import layout_of, list_cases
from medhybrid.data.layouts.case import strip_suffix
from medhybrid.errors import MedHybridError
from medhybrid.names import printable_path
from medhybrid.progress import Reporter
from medhybrid.remote import place_of_copy


def annotated_labels(data: DataConfig, reporter: Reporter | None = None) -> dict[str, tuple[str, ...]]:
    """Return the annotated labels of the partly labelled cases of a dataset, by case and by the name of its mask file.

    Only the dataset's table or list is read. If it is absent or cannot be read, the result is empty.
    """
    root = None if data.root is None else place_of_copy(data.root)
    if root is None:
        return {}
    if not root.is_dir():
        if reporter is not None:
            reporter.message(
                f"every label counts as annotated in every reference, since data.root {printable_path(root)} does not exist"
            )
        return {}
    try:
        if layout_of(data, root) == "studies":
            return {}
        cases = [c for c in list_cases(data.model_copy(update={"root": str(root)})) if c.annotated is not None]
    except MedHybridError as error:
        if reporter is not None:
            reporter.message(
                f"every label counts as annotated in every reference, since data.root is not read: {error}"
            )
        return {}
    of_files = {strip_suffix(c.mask.paths[0].name): c.annotated for c in cases if c.mask and c.annotated}
    return of_files | {c.name: c.annotated for c in cases if c.annotated}
