"""Measure the listing of many DICOM files and the reading of a series, compared with other readers in alternation.

python benchmarks/dicom.py --out benchmarks/results/dicom.json
python benchmarks/dicom.py --quick      # a small series and one round, to check the script
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medhybrid.scans.dicom.write import write_mr_series


@dataclass(frozen=True, slots=True)
class Size:
    """Size of the measurements: voxels of the series that is read and its rounds, and the series, slices and rounds listed."""

    shape: tuple[int, int, int]
    rounds: int
    series: int
    slices: int
    listings: int


FULL = Size((512, 512, 200), rounds=7, series=100, slices=100, listings=3)
QUICK = Size((24, 20, 3), rounds=1, series=2, slices=2, listings=1)


def read_with_simpleitk(folder: Path) -> Any:
    """Return the voxel values read by SimpleITK."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def read_with_highdicom(folder: Path) -> Any:
    """Return the voxel values read by highdicom."""
    import highdicom as hd
    import pydicom

    return hd.get_volume_from_series([pydicom.dcmread(p) for p in folder.iterdir()], dtype=np.float32).array


def read_with_medhybrid(folder: Path) -> Any:
    """Return the voxel values read by medhybrid."""
    from medhybrid.scans.reader import read_scan

    return read_scan(folder).array


def convert_with_dcm2niix(folder: Path) -> None:
    """Convert a series to a NIfTI file with dcm2niix."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(["dcm2niix", "-z", "n", "-b", "n", "-o", out, str(folder)], check=True, capture_output=True)


def write_with_medhybrid(folder: Path) -> None:
    """Convert a series to a NIfTI file with medhybrid."""
    from medhybrid.scans import write_nifti
    from medhybrid.scans.reader import read_scan

    scan = read_scan(folder)
    with tempfile.TemporaryDirectory() as out:
        write_nifti(Path(out) / "ct.nii", scan.array[0], scan.affine)


def time_in_turn(jobs: Mapping[str, Callable[[Path], Any]], folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Measure the seconds of each job, in alternation, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job(folder)  # loads modules and fills the disk cache
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job(folder)
            seconds[name].append(time.perf_counter() - start)
    return {n: {"median_s": statistics.median(s), "least_s": min(s), "most_s": max(s)} for n, s in seconds.items()}


LISTING = """
import json, resource, sys, time
from pathlib import Path
from medhybrid.scans import discover
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
found = discover(Path(sys.argv[1]))
seconds = time.perf_counter() - start
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "series": len(found.entries), "more_memory_mib": (after - before) / 1024}))
"""


def list_many(folder: Path, n_series: int, n_slices: int, rounds: int) -> dict[str, float]:
    """Measure seconds and memory of listing generated series, in a separate process."""
    for i in range(n_series):
        array = np.zeros((64, 64, n_slices))
        write_mr_series(folder / f"{i:03d}", array, np.eye(4), description=f"T{i}", study=f"s{i}", case="c")
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", LISTING, str(folder)], check=True, capture_output=True).stdout)
        for _ in range(rounds)
    ]
    median = sorted(runs, key=lambda r: r["seconds"])[len(runs) // 2]
    return {**median, "files": n_series * n_slices, "least_s": min(r["seconds"] for r in runs)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="a small series and one round, to check the script")
    chosen = parser.parse_args(arguments)
    size = QUICK if chosen.quick else FULL
    x, y, z = size.shape
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ct = rng.integers(0, 4000, size.shape).astype(np.uint16)
        write_mr_series(folder / "ct", ct, np.diag([0.7, 0.7, 1.5, 1]), description="CT", study="s", case="c")
        readers = {
            "medhybrid": read_with_medhybrid,
            "SimpleITK": read_with_simpleitk,
            "highdicom": read_with_highdicom,
        }
        result: dict[str, Any] = {f"read {z} x {x} x {y}": time_in_turn(readers, folder / "ct", size.rounds)}
        if shutil.which("dcm2niix"):
            converters = {"medhybrid": write_with_medhybrid, "dcm2niix": convert_with_dcm2niix}
            result["to an uncompressed NIfTI file"] = time_in_turn(converters, folder / "ct", size.rounds)
        result["list"] = list_many(folder / "many", size.series, size.slices, size.listings)
    result["machine"] = {"processor": platform.processor(), "python": platform.python_version()}
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    text = json.dumps(result, indent=1)
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
