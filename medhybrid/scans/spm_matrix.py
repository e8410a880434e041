"""Affine in the `.mat` file that SPM 99 and SPM 2 wrote beside an Analyze image, whose header stores no orientation.

References
----------
nibabel's `spm99analyze` reads the same file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medhybrid.geometry import Affine

FLIP_X = np.diag([-1.0, 1.0, 1.0, 1.0])

FROM_ZERO = np.array([[1.0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]])
"""Voxel index from 0 to voxel index from 1, as SPM counts."""


def matrix_file_of(values: Path) -> Path:
    """Return the path of the `.mat` file of an `.img` file, which may not exist."""
    return values.with_name(f"{values.name.removesuffix('.gz')[: -len('.img')]}.mat")


def spm_affine(values: Path) -> Affine | None:
    """Return the affine (4, 4) from voxel index to RAS mm in the `.mat` file of an image; None without a usable one.

    The matrix `mat` includes a flip of left and right; the older `M` does not, and is flipped as by SPM.

    Parameters
    ----------
    values : Path
        The `.img` file.
    """
    path = matrix_file_of(values)
    if not path.is_file():
        return None
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=("mat", "M"))
        matrix = np.asarray(found["mat"] if "mat" in found else FLIP_X @ found["M"], np.float64)
        affine = (matrix[:, :, 0] if matrix.ndim == 3 else matrix) @ FROM_ZERO
    except Exception:  # also of other programs, such as a text of FSL
        return None
    is_usable = affine.shape == (4, 4) and np.isfinite(affine).all() and np.array_equal(affine[3], (0, 0, 0, 1))
    return affine if is_usable else None
