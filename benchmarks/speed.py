"""Compare seconds and memory with other programs for the same work: median, range and ratio.

    python -m venv nnunet; nnunet/bin/pip install nnunetv2     # nnU-Net needs a separate environment
    python benchmarks/speed.py --hippocampus /data/hippocampus --glioma /data/glioma --nnunet nnunet/bin --work /tmp/speed

The rows are those of `ROWS`; --only start,windows chooses some. Programs that do the same work run in alternation (`race.py`).
Their code is in `speed_parts/` and below. `limits` measures the peak rates of the machine, and the share of them that the
forward pass of the network reaches. Results are added to results/speed.json with the machine, versions and revision;
results/speed.md is the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
from nnunet import DATASET_ID, convert_dataset
from race import Contender, median, race

import medhybrid
from medhybrid.data.layouts import list_cases
from medhybrid.data.splits import load_folds
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.version import code_revision

HERE = Path(__file__).parent

RESULTS = HERE / "results"

N_STEPS = 300
"""Training steps of our model: masks of an untrained network have hundreds of components per scan, which take time."""

MEDHYBRID = [sys.executable, "-m", "medhybrid"]


class Bench:
    """Data, folders, and the environment of nnU-Net."""

    def __init__(self, roots: dict[str, Path], work: Path, commands: Path, n_scans: int | None) -> None:
        self.n_scans = n_scans
        self.roots, self.work, self.commands = roots, work.resolve(), commands.resolve()
        asked = (
            "import sysconfig, importlib.metadata as m; print(sysconfig.get_paths()['purelib'], m.version('nnunetv2'), "
        )
        python: list[str | Path] = [commands / "python", "-c", asked + "m.version('torch'))"]
        told = subprocess.run(python, capture_output=True, text=True, check=True).stdout.split()
        self.packages, *versions = told
        self.theirs = dict(zip(("nnunetv2", "torch of its commands"), versions, strict=True))
        here = [str(Path(medhybrid.__file__).parents[1]), *(p for p in sys.path if p.endswith("site-packages"))]
        # Our libraries come first, so that all programs use the same torch.
        self.beside = {"PYTHONPATH": os.pathsep.join([*here, self.packages])}

    def part(self, program: str, who: str, *arguments: object, name: str = "") -> Contender:
        """Return a contender that runs a program of speed_parts."""
        command: list[str | Path] = [
            sys.executable,
            HERE / "speed_parts" / f"{program}.py",
            who,
            *(str(a) for a in arguments),
        ]
        return Contender(name or who, command, self.beside)

    def overrides(self, study: str) -> list[str]:
        """Return the overrides of a study in this benchmark."""
        places = f"prepare.folder={self.work / 'prepared'}", f"runs={self.work / 'runs'}", "tracking.kind=none"
        return [f"data.root={self.roots[study].resolve()}", *places]

    def config(self, study: str, *more: str) -> medhybrid.StudyConfig:
        """Load a packaged study config with the folders of this benchmark."""
        return medhybrid.load_config(f"{study}.yaml", [*self.overrides(study), *more])

    def nnunet(self, study: str) -> tuple[Path, dict[str, str]]:
        """Convert the data of a study for nnU-Net; return its folder and environment variables."""
        config = self.config(study)
        place = self.work / f"nnunet-{study}"
        folders = {key: place / key for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        cases = sorted(p.name.removesuffix(".nii.gz") for p in (self.roots[study] / "imagesTr").glob("*.nii.gz"))
        channels = [c.name for c in config.data.channels]
        raw = folders["nnUNet_raw"] / f"Dataset{DATASET_ID}_{study}"
        convert_dataset(self.roots[study], raw, channels, config.data.labels, cases)
        return place, {key: str(folder) for key, folder in folders.items()}

    def prepare_nnunet(self, study: str) -> tuple[Path, dict[str, str]]:
        """Plan and prepare the data of a study with nnU-Net, and save an untrained model; return folder and environment."""
        place, environment = self.nnunet(study)
        prepared = place / "nnUNet_preprocessed" / f"Dataset{DATASET_ID}_{study}"
        if not (prepared / "nnUNetPlans_3d_fullres").is_dir():
            subprocess.run(self.plan(), env=os.environ | environment, check=True, capture_output=True)
        if not any((place / "nnUNet_results").rglob("checkpoint_final.pth")):
            command = [self.commands / "python", HERE / "speed_parts" / "untrained_nnunet.py"]
            subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)
        return place, environment

    def plan(self) -> list[str | Path]:
        """Return the command for nnU-Net's preparation."""
        dataset = ["-d", str(DATASET_ID), "-c", "3d_fullres", "-np", str(os.cpu_count()), "-npfp", str(os.cpu_count())]
        return [self.commands / "nnUNetv2_plan_and_preprocess", *dataset]

    def model(self, study: str) -> Path:
        """Return a run that is long enough for masks like those of a fully trained model; train it if needed."""
        note = self.work / f"{study}-{N_STEPS}-steps.txt"
        if not note.is_file():
            config = self.config(study, f"training.iterations={N_STEPS}", "training.n_validations=1")
            medhybrid.preprocess(config)
            note.write_text(str(medhybrid.train(config).folder))
        return Path(note.read_text())

    def scans(self, study: str) -> Path:
        """Return a folder with the validation images of fold 0, with nnU-Net's file names."""
        folder = self.work / (f"scans-{study}" + (f"-{self.n_scans}" if self.n_scans else ""))
        if not folder.is_dir():
            place, _ = self.nnunet(study)
            config = self.config(study)
            names = sorted(load_folds(config.data, list_cases(config.data))[0][0].validation)[: self.n_scans]
            folder.mkdir(parents=True)
            for path in (place / "nnUNet_raw" / f"Dataset{DATASET_ID}_{study}" / "imagesTr").glob("*.nii.gz"):
                if path.name[:-12] in names:
                    shutil.copy(path, folder)
        return folder


# --- rows of contenders, ours first -----------------------------------------------------------------------------------


def start(bench: Bench) -> dict[str, list[Contender]]:
    """Return contenders for the start of the command line, and for the prediction of one small scan."""
    scan = sorted(bench.scans("hippocampus").glob("*.nii.gz"))[0]
    out = bench.work / "out-start"
    one: list[str | Path] = [*MEDHYBRID, "predict", scan, "--model", bench.model("hippocampus"), "--out", out]
    return {
        "medhybrid --help": [Contender("ours", [*MEDHYBRID, "--help"])],
        "predict one small scan": [Contender("ours", one, before=_removes(out))],
    }


def preprocess(bench: Bench) -> dict[str, list[Contender]]:
    """Return contenders for the preparation of 220 hippocampus scans, and for a second call without changes."""
    place, environment = bench.nnunet("hippocampus")
    ours = [*MEDHYBRID, "preprocess", "--config", "hippocampus.yaml", *bench.overrides("hippocampus"), "name=cold"]
    again = [*ours[:-1], "name=warm"]
    subprocess.run([str(x) for x in again], check=True, capture_output=True)
    prepared = bench.work / "prepared" / "cold"
    theirs = Contender("nnU-Net", bench.plan(), environment, _removes(place / "nnUNet_preprocessed"))
    return {
        "preprocess, cold": [Contender("ours", ours, before=_removes(prepared)), theirs],
        "preprocess, nothing changed": [Contender("ours", again)],
    }


def training(bench: Bench) -> dict[str, list[Contender]]:
    """Return contenders for training steps with data loading."""
    place, _ = bench.prepare_nnunet("hippocampus")
    config = bench.config("hippocampus", "name=nine", "prepare.batch_size=9")
    folder = medhybrid.preprocess(config).folder
    return {
        "training, a sample": [
            bench.part("training", "ours", folder, 15),
            bench.part("training", "ours_float32", folder, 15, name="ours, float32"),
            bench.part("training", "monai", bench.roots["hippocampus"], 15, name="MONAI"),
            bench.part("training", "monai_bf16", bench.roots["hippocampus"], 15, name="MONAI, bf16"),
            bench.part("training", "nnunet", place, 15, name="nnU-Net"),
        ]
    }


def windows(bench: Bench) -> dict[str, list[Contender]]:
    """Return contenders for sliding-window prediction of one volume, with the same network and windows."""
    names = {
        "ours": "ours",
        "openvino": "ours, OpenVINO",
        "plain": "ours, plain",
        "monai": "MONAI",
        "monai_bf16": "MONAI, bf16",
        "nnunet": "nnU-Net",
    }
    return {
        f"windows, {study}, {kind}": [bench.part("windows", who, study, kind, name=name) for who, name in names.items()]
        for study, kind in (("hippocampus", "tissue"), ("brain", "tissue"), ("brain", "head"))
    }


def folder(bench: Bench, study: str = "hippocampus") -> dict[str, list[Contender]]:
    """Return contenders for the prediction of the validation scans of fold 0, from files to files, with start-up."""
    place, environment = bench.prepare_nnunet(study)
    scans, model, out, theirs = bench.scans(study), bench.model(study), bench.work / "out", place / "out"
    ours: list[str | Path] = [*MEDHYBRID, "predict", scans, "--model", model, "--out", out]
    call: list[str | Path] = [
        bench.commands / "nnUNetv2_predict",
        "-i",
        scans,
        "-o",
        theirs,
        "-d",
        str(DATASET_ID),
        "-c",
        "3d_fullres",
    ]
    call += ["-f", "0", "-device", "cpu"]

    def nnunet(name: str, *more: str) -> Contender:
        return Contender(name, [*call, *more], environment, _removes(theirs), theirs)

    n_scans = len({p.name[:-12] for p in scans.iterdir()})
    contenders = [
        Contender("ours", ours, before=_removes(out), until_first=out / "masks"),
        Contender("ours, no mirroring", [*ours, "--no-mirror"], before=_removes(out), until_first=out / "masks"),
        Contender("ours, OpenVINO", [*ours, "--device", "openvino"], before=_removes(out), until_first=out / "masks"),
        nnunet("nnU-Net, no mirroring", "--disable_tta"),
    ]
    return {f"folder, {study}, {n_scans} scans": contenders}


def folder_glioma(bench: Bench) -> dict[str, list[Contender]]:
    """Return the contenders of `folder` for glioma, where nnU-Net takes a minute per scan."""
    return folder(bench, "brain")


def folder_mirrored(bench: Bench) -> dict[str, list[Contender]]:
    """Return the contenders of `folder` with nnU-Net's default, test-time mirroring along every axis."""
    (row, (ours, *_, theirs)), *_ = folder(bench).items()
    theirs.command.remove("--disable_tta")  # type: ignore[attr-defined]
    return {f"{row}, mirrored": [ours, replace(theirs, name="nnU-Net, mirroring")]}


def to_scan(bench: Bench) -> dict[str, list[Contender]]:
    """Return contenders for the resampling of logits of five labels to a scan of 512 x 512 x 400 voxels."""
    size = (512, 512, 400, 5)
    return {
        f"logits to scan, {kind}": [
            bench.part("to_scan", "ours", kind, *size),
            bench.part("to_scan", "plain", kind, *size, name="ours, plain"),
            bench.part("to_scan", "nnunet", kind, *size, name="nnU-Net"),
        ]
        for kind in ("everywhere", "lesion")
    }


def reading(bench: Bench) -> dict[str, list[Contender]]:
    """Return contenders for reading a DICOM series of 200 slices of 512 x 512, and its NIfTI file."""
    series, file = bench.work / "series", bench.work / "series.nii.gz"
    if not file.is_file():
        array = np.random.default_rng(0).normal(1000, 50, (512, 512, 200)).astype(np.int16)
        affine = np.diag([0.8, 0.8, 1.0, 1.0])
        write_mr_series(series, array, affine, description="MR", study="s", case="c")
        nib.save(nib.Nifti1Image(array, affine), file)
    both = {"ours": "ours", "simpleitk": "SimpleITK"}
    return {
        "read a DICOM series": [bench.part("reading", who, series, name=name) for who, name in both.items()],
        "read a NIfTI file": [
            bench.part("reading", who, file, name=name) for who, name in (both | {"nibabel": "nibabel"}).items()
        ],
    }


def limits(bench: Bench) -> dict[str, list[Contender]]:
    """Return the measurement of the machine's peak rates."""
    return {"limits": [bench.part("limits", "", name="machine")]}


ROWS: dict[str, Callable[[Bench], dict[str, list[Contender]]]] = {
    "start": start,
    "reading": reading,
    "preprocess": preprocess,
    "training": training,
    "windows": windows,
    "to_scan": to_scan,
    "folder": folder,
    "folder_mirrored": folder_mirrored,
    "folder_glioma": folder_glioma,
    "limits": limits,
}


def _removes(folder: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(folder, ignore_errors=True)


# --- records ----------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return the hardware and software versions of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    packages = ("torch", "monai", "nibabel", "SimpleITK", "numpy")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "revision": code_revision(),
        **{p: version(p) for p in packages},
    }


def table(records: dict[str, Any]) -> str:
    """Return a Markdown table with a row for each contender and its ratio to ours."""
    lines = ["| task | program | seconds (range) | ratio to ours | peak MiB | first mask s |", "| --- " * 6 + "|"]
    for row, record in records.items():
        if row == "limits":
            continue
        contenders = record["told"]
        ours = median(contenders["ours"])[0]
        for name, told in contenders.items():
            middle, least, most = median(told)
            first = f"{median(told, 'first_s')[0]:.1f}" if all("first_s" in t for t in told) else ""
            digits = 4 if middle < 0.1 else 2
            lines.append(
                f"| {row} | {name} | {middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f}) | {middle / ours:.2f} | "
                f"{median(told, 'peak_mib')[0]:.0f} | {first} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hippocampus", type=Path, required=True)
    parser.add_argument("--glioma", type=Path, required=True)
    parser.add_argument("--nnunet", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--work", type=Path, required=True, help="working folder, used again by later calls")
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--scans", type=int, help="maximum number of scans in a folder; nnU-Net takes a minute per glioma scan"
    )
    chosen = parser.parse_args(arguments)
    bench = Bench({"hippocampus": chosen.hippocampus, "brain": chosen.glioma}, chosen.work, chosen.nnunet, chosen.scans)
    path = RESULTS / "speed.json"
    records: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in chosen.only.split(","):
        for row, contenders in ROWS[name](bench).items():
            print(row, flush=True)
            records[row] = {
                "machine": machine() | bench.theirs,
                "told": race(contenders, 1 if name == "limits" else chosen.rounds),
            }
            path.write_text(json.dumps(records, indent=1) + "\n")
            (RESULTS / "speed.md").write_text(table(records))
    print(table(records))


if __name__ == "__main__":
    main()
