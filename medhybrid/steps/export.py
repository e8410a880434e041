"""`medhybrid export`: export of a model's network for other software, with its pre- and post-processing.

OUT/network.pt2 | network.onnx | network.xml, network.bin; or a MONAI Bundle (inference/bundle/write.py)
OUT/description.json      every step and parameter from a scan to its mask
OUT/card.md               model card
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from medhybrid.errors import ConfigError, DataError
from medhybrid.inference.description import describe
from medhybrid.inference.model_folder import model_card
from medhybrid.inference.program import FILES, FORMATS, check_program, write_program
from medhybrid.runs.models import load_model
from medhybrid.version import __version__

BUNDLE = "bundle"
"""Format of a MONAI Bundle, with a network in `pt2`."""


def export(model: str | Path, *, out: str | Path, format_: str = "onnx", tracking_uri: str | None = None) -> Path:
    """Export the network and its description, after comparing its outputs with the model's.

    Parameters
    ----------
    model : str or Path
        As for `medhybrid.load_model`.

    Returns
    -------
    Path
        The exported network, or the folder of the bundle.

    Raises
    ------
    ConfigError
        If the format is unknown or its libraries are not installed.
    DataError
        If `out` is not empty.
    ModelError
        If the model cannot be exported, or the outputs differ. Then nothing is written.
    """
    chosen = next((f for f in FORMATS if f == format_), None)
    if chosen is None and format_ != BUNDLE:
        raise ConfigError(f"unknown format {format_}", expected=", ".join((*FORMATS, BUNDLE)))
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not an empty folder", remedy="give a new folder")
    loaded = load_model(model, device="cpu", tracking_uri=tracking_uri)
    with tempfile.TemporaryDirectory(dir=_parent(out)) as pending:
        place = Path(pending)
        if chosen is None:
            from medhybrid.inference.bundle.write import write_bundle

            difference = write_bundle(loaded, place)
            path = place / "models" / FILES["pt2"]
        else:
            path = write_program(loaded, place, chosen)
            difference = check_program(loaded, path)
        description = {
            "medhybrid": __version__,
            "format": format_,
            "program": path.relative_to(place).as_posix(),
            "weights_sha256": loaded.record.weights_sha256,
            "largest_difference": difference,
            **describe(loaded),
        }
        (place / "description.json").write_text(json.dumps(description, indent=1) + "\n")
        (place / "card.md").write_text(model_card(loaded.record, f"{loaded.plan.study}, as {format_}"))
        out.mkdir(parents=True, exist_ok=True)
        for file in place.iterdir():
            shutil.move(str(file), out / file.name)
    return out if chosen is None else out / path.name


def _parent(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent
