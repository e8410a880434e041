"""Print the plan's choices for several machines and budgets: the table of docs/explanation/planning-rules.md.

    python benchmarks/plan_choices.py hippocampus=/data/hippocampus acdc=/data/acdc

The datasets are checked with the config that `medhybrid init` writes; two CT datasets are described by sizes only. Nothing is
trained: `MACHINES` has the speed of each machine. Writes results/plan_choices.md.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.fingerprint import Fingerprint
from medhybrid.data.plan import Plan
from medhybrid.data.workers import Processes
from medhybrid.inference.network import config_of_network
from medhybrid.planning import Budget, Rates, make_plan
from medhybrid.planning.cost import cost_of
from medhybrid.progress import Silent
from medhybrid.steps.init import init_study
from medhybrid.steps.survey import survey_dataset

RESULTS = Path(__file__).parent / "results" / "plan_choices.md"
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """Machine with its budget and speed."""

    name: str
    minutes: float
    memory: float
    rates: Rates


MACHINES = (
    Machine("2 cores, 15 minutes", 15, 8, Rates(device="two CPU cores", fixed_s=0.02, voxel_ns=150, gflop_s=0.011)),
    Machine(
        "laptop GPU of 8 GiB, 2 hours",
        120,
        8 * 0.85,
        Rates(device="laptop GPU", fixed_s=0.01, voxel_ns=10, gflop_s=3e-4),
    ),
    Machine("H200, 12 hours", 720, 141 * 0.85, Rates(device="H200", fixed_s=0.004, voxel_ns=2, gflop_s=2e-5)),
)
"""The CPU's rates were measured on two cores of a server processor with bf16 arithmetic. Those of the GPUs are assumed: a third
of the bf16 arithmetic that 45 and 600 TFLOP/s of convolutions allow, since the backward pass costs two forward passes."""


@dataclass(frozen=True, slots=True)
class Described:
    """Dataset described by its sizes in mm."""

    name: str
    labels: tuple[str, ...]
    spacing: tuple[float, float, float]
    extent: tuple[float, float, float]
    labels_mm: tuple[float, float, float]
    thickness: dict[str, tuple[float, float, float]]


LIVER = {"liver": (90.0, 80.0, 90.0), "tumour": (15.0, 15.0, 15.0)}
ORGANS = {f"organ{i}": (20.0 + i / 2, 20.0, 25.0) for i in range(104)}
DESCRIBED = (
    Described("liver CT, 512 x 512 x 500", tuple(LIVER), (0.8, 0.8, 1.0), (410, 410, 500), (220, 180, 180), LIVER),
    Described(
        "whole-body CT, 512 x 512 x 1,000", tuple(ORGANS), (0.9, 0.9, 1.0), (460, 460, 1000), (400, 300, 950), ORGANS
    ),
)


def described(sizes: Described) -> tuple[StudyConfig, Fingerprint]:
    """Return config and fingerprint of a dataset that is described by its sizes."""
    values = {
        "name": "described",
        "data": {
            "root": "/nowhere",
            "channels": [{"name": "CT", "modality": "CT"}],
            "labels": {name: i + 1 for i, name in enumerate(sizes.labels)},
        },
    }
    fingerprint = Fingerprint(
        n_cases=100,
        median_spacing_mm=sizes.spacing,
        median_extent_mm=sizes.extent,
        median_foreground_ml={},
        intensities={"CT": {"mean": 60, "deviation": 60, "low": -100, "high": 200}},
        median_labels_mm=sizes.labels_mm,
        thickness_mm=sizes.thickness,
    )
    return StudyConfig.model_validate(values), fingerprint


def surveyed(root: Path, work: Path) -> tuple[StudyConfig, Fingerprint]:
    """Return the drafted config and the fingerprint of a dataset."""
    path = work / "study.yaml"
    init_study(root, path, name="study", minutes=15)
    config = medhybrid.load_config(str(path), [f"prepare.folder={work}/prepared", "tracking.kind=none"])
    folder = work / "checks"
    folder.mkdir()
    with Processes(1) as processes:
        return config, survey_dataset(config, folder, processes, Silent()).fingerprint


def row_of(name: str, machine: Machine, config: StudyConfig, plan: Plan) -> str:
    """Return a row of the table."""
    network = config_of_network(config.network, plan)
    cost = cost_of(network, len(plan.channels), plan.n_labels, plan.patch_size, plan.strides)
    assert plan.prediction is not None
    cells = [
        name,
        machine.name,
        " x ".join(f"{s:g}" for s in plan.spacing_mm),
        " x ".join(str(n) for n in plan.patch_size),
        str(len(plan.strides)),
        f"{plan.preset}, {cost.parameters / 1e6:.0f} million",
        f"{plan.prediction.steps:,}",
        f"{plan.prediction.memory_bytes / GIB:.1f} GiB",
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", help="NAME=FOLDER")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    made = {}
    for argument in chosen.datasets:
        name, _, root = argument.partition("=")
        with tempfile.TemporaryDirectory() as work:
            made[name] = surveyed(Path(root), Path(work))
    made |= {sizes.name: described(sizes) for sizes in DESCRIBED}
    lines = ["| dataset | machine | spacing mm | patch | levels | network | steps | memory |", "| --- " * 8 + "|"]
    for name, (config, fingerprint) in made.items():
        for machine in MACHINES:
            budget = Budget(machine.minutes, None, int(machine.memory * GIB))
            lines.append(row_of(name, machine, config, make_plan(config, fingerprint, budget, rates=machine.rates)))
    chosen.out.write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
