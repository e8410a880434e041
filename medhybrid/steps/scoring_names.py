"""Names of references and predictions that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medhybrid.draft.words import DERIVED_WORDS, name_without_kind, names_mask

RESULT_WORDS = DERIVED_WORDS | {"desc"}
"""Words in names of predictions, as `pred` in `c1_pred` and in `sub-01_desc-pred_dseg`."""


def by_predictions(known: Mapping[str, Path], predicted: Mapping[str, Path]) -> dict[str, Path]:
    """Return the references by the names of their predictions, where these differ only in words for image, mask and result.

    It is empty if names are equal, or if it is not clear which belong together. A folder of references may hold the images,
    too.
    """
    named = {name_without_kind(n) for n in known if names_mask(n)}
    has_images = any(name_without_kind(n) in named for n in known if not names_mask(n))
    masks = {n: p for n, p in known.items() if names_mask(n) or not has_images}
    of_masks = {name_without_kind(n).casefold(): n for n in masks}
    of_predictions = {name_without_kind(n, RESULT_WORDS).casefold(): n for n in predicted}
    is_clear = len(of_masks) == len(masks) and len(of_predictions) == len(predicted)
    common = of_masks.keys() & of_predictions.keys()
    if not is_clear or not common:
        return {}
    renamed = {of_predictions.get(name, masks_name): masks[masks_name] for name, masks_name in of_masks.items()}
    return {} if renamed == dict(known) else renamed
