"""Display window of an image: the grey values shown as black and as white."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medhybrid.review.figures import CONTENT_SHARE
from medhybrid.review.report.views import VolumeView

Window = tuple[float, float]

RANGE_PERCENTILES = (1.0, 99.5)
TISSUE_PERCENTILE = 99.5
MASK_PERCENTILE = 99.0

MAX_WIDENING = 2.0
"""A mask may widen the window by at most this factor: beyond, the tissue around it would be dark."""

CT_WINDOWS: dict[str, Window] = {
    "brain": (0, 80),
    "lung": (-1350, 150),
    "bone": (-500, 1300),
    "liver": (-20, 140),
    "mediastinum": (-160, 240),
}
"""Usual windows of CT, in HU."""

LUNG_HU, BONE_HU = -400, 300
"""A structure with a median below the first is shown in the lung window, one above the second in the bone window."""

AIR_HU, FAT_HU, MIN_FAT_SHARE = -500, (-500, -20), 0.005
"""A CT has values of air or padding, and at least this share of values between air and water."""


def grey_range(image: NDArray[np.generic]) -> Window:
    """Return a low and a high percentile of all grey values, air included."""
    low, high = np.percentile(_sample(image), RANGE_PERCENTILES)
    return float(low), float(max(high, low + 1e-6))


def display_window(volume: VolumeView) -> Window:
    """Return the window in which a scan is shown first, so that neither tissue nor masked structures are white.

    Of CT, it is the window of lung, bone or soft tissue, by the median in the reference, or else in the prediction.
    Otherwise it ends at a high percentile of the tissue, without air, or of reference or prediction if theirs is higher.
    """
    image = np.asarray(volume.image)
    structures = [image[m != 0] for m in (volume.reference, volume.prediction) if m is not None and m.any()]
    if is_ct(image):
        return CT_WINDOWS[_ct_window(float(np.median(structures[0])) if structures else 0.0)]
    values = _sample(image)
    low, high = grey_range(image)
    if low < 0 and low == values.min() and (values > low).any():  # a value that fills what was not scanned
        low = min(0.0, float(np.percentile(values[values > low], RANGE_PERCENTILES[0])))
    tissue = values[values > low + CONTENT_SHARE * (high - low)]
    if len(tissue):
        high = max(float(np.percentile(tissue, TISSUE_PERCENTILE)), low + 1e-6)
    brightest = max((float(np.percentile(values, MASK_PERCENTILE)) for values in structures), default=high)
    return low, max(high, min(brightest, low + MAX_WIDENING * (high - low)))


def is_ct(image: NDArray[np.generic]) -> bool:
    """Return whether the values look like HU: air, and fat or partly filled voxels between air and water.

    An MR image that is filled with -1024 around the patient has no values between.
    """
    values = _sample(image)
    low, high = FAT_HU
    return bool(values.min() <= AIR_HU and np.mean((values > low) & (values < high)) >= MIN_FAT_SHARE)


def _ct_window(hu: float) -> str:
    return "lung" if hu < LUNG_HU else "bone" if hu > BONE_HU else "mediastinum"


def _sample(image: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(image)[::2, ::2].astype(np.float32))
