"""Train on scribbles with the config that `medhybrid init` writes, and score the masks against full references.

    OMP_NUM_THREADS=2 python benchmarks/scribbles.py acdc=/data/acdc --scribbles scribblesTr --minutes 30 --work scribbles-work

The dataset has the Decathlon layout, and a folder of scribbles with the names of the masks. A linked dataset has them in
place of the masks, so that training does not see them. The validation cases of fold 0 are predicted as scans, and scored by
`medhybrid evaluate` against the masks. Records are added to results/scribbles.jsonl. Use an idle machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.layouts import list_cases
from medhybrid.steps.init import init_study

RESULTS = Path(__file__).parent / "results" / "scribbles.jsonl"


def link_dataset(root: Path, scribbles: str, out: Path) -> None:
    """Write the dataset with scribbles in place of the masks, as links."""
    out.mkdir(parents=True, exist_ok=True)
    for path in root.iterdir():
        if path.is_file():
            shutil.copy(path, out / path.name)
        elif path.name != "labelsTr":
            name = "labelsTr" if path.name == scribbles else path.name
            (out / name).unlink(missing_ok=True)
            (out / name).symlink_to(path.resolve())


def train_and_score(
    name: str, root: Path, scribbles: str, minutes: float, seed: int, work: Path, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Train on scribbles and return the record, with the Dice of each label against the masks."""
    link_dataset(root, scribbles, work / "dataset")
    study = work / f"{name}-{minutes:g}.yaml"
    if not study.exists():
        init_study(work / "dataset", study, name=name, minutes=minutes)
    places = [f"prepare.folder={work}/prepared", f"runs={work}/runs", "tracking.kind=none", f"training.seed={seed}"]
    config = medhybrid.load_config(str(study), [*places, *overrides])
    plan = medhybrid.preprocess(config).plan
    run = medhybrid.train(config)
    cases = PreparedDataset(Path(config.prepare.folder) / config.name).fold_for(config).validation
    images = {c.name: c.images for c in list_cases(config.data)}
    scans, references = work / f"scans-{seed}", work / f"references-{seed}"
    for folder in (scans, references):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for case in cases:
        for files in filter(None, images[case]):
            (scans / files.paths[0].name).symlink_to(files.paths[0].resolve())
            (references / files.paths[0].name).symlink_to((root / "labelsTr" / files.paths[0].name).resolve())
    medhybrid.predict(scans, model=run.folder, out=work / f"masks-{seed}")
    scores = medhybrid.evaluate(references, work / f"masks-{seed}", labels=dict(config.data.labels)).summary
    return {
        "dataset": name,
        "minutes": minutes,
        "seed": seed,
        "ignore_value": config.data.ignore_value,
        "beyond_scribbles": config.data.beyond_scribbles,
        "spacing_mm": plan.spacing_mm,
        "patch_size": plan.patch_size,
        "cases": len(cases),
        "scores": {k: round(float(v), 4) for k, v in scores.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="NAME=FOLDER")
    parser.add_argument("overrides", nargs="*", help="settings that differ from those of init")
    parser.add_argument("--scribbles", default="scribblesTr", help="folder of scribbles in the dataset's folder")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--work", type=Path, default=Path("scribbles-work"))
    chosen = parser.parse_intermixed_args(arguments)
    name, _, root = chosen.dataset.partition("=")
    for seed in map(int, chosen.seeds.split(",")):
        record = train_and_score(
            name, Path(root), chosen.scribbles, chosen.minutes, seed, chosen.work, chosen.overrides
        )
        with RESULTS.open("a") as out:
            out.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


if __name__ == "__main__":  # workers import this file
    main()
