"""Run one fold of a study as a user would: prepare, train, predict the validation scans from their files, and score them.

    python benchmarks/fold.py hippocampus.yaml /data/hippocampus training.max_minutes=10
    python benchmarks/fold.py brain.yaml /data/glioma training.max_minutes=45
    python benchmarks/fold.py brain.yaml /data/glioma --run runs/brain/<run>     # score an existing run

Writes results/<study>.json and the scores of each case beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import medhybrid

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--run", type=Path, help="score this run instead of training one")
    chosen = parser.parse_intermixed_args(arguments)
    config = medhybrid.load_config(chosen.config, [f"data.root={chosen.root}", *chosen.overrides])

    preparation = medhybrid.preprocess(config)
    folder = chosen.run or medhybrid.train(config).folder
    fold = json.loads((preparation.folder / "folds.json").read_text())[config.training.fold]

    predictions = Path(tempfile.mkdtemp())
    scans = predictions / "scans"
    scans.mkdir()
    for case in fold["validation"]:
        (scans / f"{case}.nii.gz").symlink_to((chosen.root / "imagesTr" / f"{case}.nii.gz").resolve())
    medhybrid.predict(scans, model=folder, out=predictions)
    scores = medhybrid.evaluate(
        chosen.root / "labelsTr", predictions, labels=config.data.labels, cases=fold["validation"], out=predictions
    )

    RESULTS.mkdir(exist_ok=True)
    shutil.copy(predictions / "scores.csv", RESULTS / f"{config.name}_scores.csv")
    record = {
        "study": config.name,
        "run": folder.name,
        "minutes": config.training.max_minutes,
        "steps": _last_step(folder),
        "fold": config.training.fold,
        "seed": config.training.seed,
        "machine": _machine(),
        "medhybrid": medhybrid.__version__,
        "torch": torch.__version__,
        "summary": {k: round(v, 4) for k, v in scores.summary.items()},
    }
    (RESULTS / f"{config.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    print(f"masks: {predictions / 'masks'}")


def _last_step(folder: Path) -> int:
    events: list[dict[str, Any]] = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return max(int(e["step"]) for e in events if "step" in e)


def _machine() -> str:
    n_cores = len(os.sched_getaffinity(0))
    return f"{platform.system()} {platform.machine()}, {n_cores} CPU cores, CUDA {torch.cuda.is_available()}"


if __name__ == "__main__":  # workers import this file
    main()
