"""Commands that open a mask and its scan in an editor, as a copy in the folder of corrected masks."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from medhybrid.inference.corrected import FOLDER


def correction_commands(mask: str, scan: str) -> dict[str, str]:
    """Return shell commands by the name of the editor, to be run in the folder of masks.

    Each copies the mask into `corrected/`, unless a corrected mask is already there, and opens the copy over the scan.

    Parameters
    ----------
    mask : str
        Path of the mask, relative to the folder of masks.
    scan : str
        Path of the scan, relative to the same folder; empty if it must not be shown.
    """
    copy = corrected_path(mask)
    source, target = shlex.quote(mask), shlex.quote(copy)
    prepare = f"mkdir -p {FOLDER} && {{ test -e {target} || cp {source} {target}; }}"
    image = scan or "SCAN"
    load = f"slicer.util.loadVolume({image!r}); slicer.util.loadSegmentation({copy!r})"
    return {
        "ITK-SNAP": f"{prepare} && itksnap -g {shlex.quote(image)} -s {target}",
        "3D Slicer": f"{prepare} && Slicer --python-code {shlex.quote(load)}",
    }


def corrected_path(mask: str) -> str:
    """Return the path of the corrected mask, relative to the folder of masks."""
    return f"{FOLDER}/{Path(mask).name}"


def path_from(folder: Path, file: Path) -> str:
    """Return the path of a file, relative to a folder if both are on one drive; neither needs to be readable."""
    real = os.path.realpath(file)
    try:
        return os.path.relpath(real, os.path.realpath(folder))
    except ValueError:
        return real
