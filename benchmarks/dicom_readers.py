"""Compare DICOM readers on folders of DICOM files: right, refused or wrong, checked by the header of each frame.

    python benchmarks/dicom_readers.py /data/dicom --out docs/lab-notes/dicom_readers.md

Every folder with DICOM files is a row. A reader is right if each rescaled pixel of each frame is at its position in one of the
volumes that it returns, and these have no other voxels. The column of dcm2niix needs the program on the PATH.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).parents[1]))  # the check is shared with the tests

from medhybrid.geometry import LPS_FROM_RAS
from medhybrid.scans import Scan
from medhybrid.scans.scan import Source
from tests.scans.dicom.truth import is_right

Reader = Callable[[Path], list[Scan]]


def _scan(array: Any, affine: Any) -> Scan:
    return Scan(np.asarray(array, np.float64)[None], np.asarray(affine, np.float64), Source("dicom", ()), "x", ("",))


def _from_nifti(folder: Path) -> list[Scan]:
    scans = []
    for path in sorted(folder.glob("*.nii*")):
        image: Any = nib.load(path)
        values = image.get_fdata()
        volumes = [values] if values.ndim == 3 else [values[..., t] for t in range(values.shape[3])]
        scans += [_scan(v, image.affine) for v in volumes]
    return scans


def with_medhybrid(folder: Path) -> list[Scan]:
    """Read by `medhybrid convert`."""
    import medhybrid

    with tempfile.TemporaryDirectory() as out:
        rows = medhybrid.convert(folder, out=out)
        scans = _from_nifti(Path(out))
    if not scans:
        raise ValueError(next((r.code for r in rows if r.code), "") or f"skipped: {rows[0].reason}")
    return scans


def with_simpleitk(folder: Path) -> list[Scan]:
    """Read by GDCM's series reader, a volume for each series identifier."""
    import SimpleITK as sitk

    scans = []
    reader = sitk.ImageSeriesReader()
    for uid in reader.GetGDCMSeriesIDs(str(folder)):
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), uid))
        image = reader.Execute()
        if image.GetDimension() == 4 and image.GetSize()[3] == 1:
            image = image[:, :, :, 0]
        array = sitk.GetArrayFromImage(image)
        n = array.ndim - (image.GetNumberOfComponentsPerPixel() > 1)
        if n != 3 or n != array.ndim or image.GetDimension() != 3:
            raise AssertionError("no three axes")
        lps = np.eye(4)
        lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        lps[:3, 3] = image.GetOrigin()
        scans.append(_scan(array.transpose(2, 1, 0), LPS_FROM_RAS @ lps))
    if not scans:
        raise ValueError("no series")
    return scans


def with_monai(folder: Path) -> list[Scan]:
    """Read by MONAI's PydicomReader, which returns LPS coordinates."""
    from monai.data import PydicomReader

    reader = PydicomReader()
    array, meta = reader.get_data(reader.read(str(folder)))
    array = array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array
    if array.ndim != 3:
        raise AssertionError(f"shape {array.shape}")
    affine = np.asarray(meta["affine"], float)
    return [_scan(array, LPS_FROM_RAS @ affine if meta.get("space") != "RAS" else affine)]


def with_highdicom(folder: Path) -> list[Scan]:
    """Read by highdicom's volume functions."""
    import highdicom as hd

    files = [pydicom.dcmread(p) for p in sorted(folder.iterdir())]
    if len(files) == 1 and "PerFrameFunctionalGroupsSequence" in files[0]:
        volume = hd.imread(next(folder.iterdir())).get_volume(apply_real_world_transform=False)
    else:
        volume = hd.get_volume_from_series(files)
    affine = LPS_FROM_RAS @ volume.affine[:, [2, 1, 0, 3]]
    return [_scan(volume.array.transpose(2, 1, 0), affine)]


def with_dcm2niix(folder: Path) -> list[Scan]:
    """Read every file that dcm2niix writes."""
    with tempfile.TemporaryDirectory() as out:
        command = ["dcm2niix", "-z", "n", "-b", "n", "-o", out, str(folder)]
        subprocess.run(command, check=False, capture_output=True, timeout=300)
        scans = _from_nifti(Path(out))
    if not scans:
        raise ValueError("nothing written")
    return scans


READERS: dict[str, Reader] = {
    "medhybrid": with_medhybrid,
    "SimpleITK": with_simpleitk,
    "MONAI PydicomReader": with_monai,
    "highdicom": with_highdicom,
    "dcm2niix": with_dcm2niix,
}
PACKAGES = {"SimpleITK": "SimpleITK", "MONAI PydicomReader": "monai", "highdicom": "highdicom", "dcm2niix": "dcm2niix"}


PAGE = """# DICOM readers, series by series

Written by `python benchmarks/dicom_readers.py FOLDER` for {n_rows} folders of public series with real headers, both ordinary
and unusual ones. {versions}.

A reader is **right** if each rescaled pixel of each frame is at the position in the header of the frame (within 0.02 voxels) in
one of the volumes that the reader returns, and these have no other voxels. Tiled slices (MOSAIC, VFRAME) are not judged if a
reader unpacks them. All files that dcm2niix writes are checked. For a tilted or uneven series it also writes a resampled copy,
whose voxels are not at the positions of the frames.

{rows}
"""


def judge(reader: Reader, folder: Path) -> str:
    """Return `right`, `refused` or `skipped` with the reason, or **wrong**."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scans = reader(folder)
    except AssertionError as error:
        return f"**wrong**: {error}"
    except Exception as error:
        text = str(error).splitlines()[0] if reader is with_medhybrid and str(error) else type(error).__name__
        return text if text.startswith("skipped") else f"refused: {text}"
    files = sorted(p for p in folder.iterdir() if p.is_file())
    headers = [pydicom.dcmread(p) for p in files]
    if any({"MOSAIC", "VFRAME"} & set(h.get("ImageType", [])) for h in headers):
        is_sheet = any(s.array.shape[1] == headers[0].Columns for s in scans)
        return "**wrong**: the tiles as one slice" if is_sheet else "unpacked (not judged here)"
    if headers[0].get("Modality") in ("SEG", "RTSTRUCT") or headers[0].get("SamplesPerPixel", 1) != 1:
        return "read as an image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "right" if is_right(files, scans) else "**wrong**"
    except (ValueError, AttributeError, KeyError) as error:
        return f"not judged: {type(error).__name__}"


def installed_readers() -> dict[str, Reader]:
    """Return the readers; dcm2niix only if its program is on the PATH."""
    return {n: r for n, r in READERS.items() if n != "dcm2niix" or shutil.which("dcm2niix")}


def table(root: Path) -> str:
    """Return the Markdown table of all folders."""
    readers = installed_readers()
    folders = sorted({p.parent for p in root.rglob("*") if p.is_file() and p.suffix not in (".csv", ".md")})
    lines = [f"| series | {' | '.join(readers)} |", "| --- |" + " --- |" * len(readers)]
    counts: dict[str, dict[str, int]] = {n: {} for n in readers}
    for folder in folders:
        cells = []
        for name, reader in readers.items():
            cell = judge(reader, folder)
            kind = cell.split(":")[0].strip("*")
            counts[name][kind] = counts[name].get(kind, 0) + 1
            cells.append(cell)
        lines.append(f"| {folder.relative_to(root)} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    kinds = sorted({k for c in counts.values() for k in c})
    lines += ["", "| count | " + " | ".join(readers) + " |", "| --- |" + " --- |" * len(readers)]
    lines += [f"| {k} | " + " | ".join(str(counts[n].get(k, 0)) for n in readers) + " |" for k in kinds]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the readers and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    rows = table(chosen.root)
    versions = ", ".join(f"{n} {version(PACKAGES[n])}" for n in installed_readers() if n in PACKAGES)
    n_rows = sum(row.startswith("| ") for row in rows.split("\n\n")[0].splitlines()) - 2
    page = PAGE.format(n_rows=n_rows, versions=versions, rows=rows)
    if chosen.out:
        chosen.out.write_text(page)


if __name__ == "__main__":
    main()
