"""Initialise a training from the model of another task, and compare its Dice with a training from scratch of equal length.

    python pipelines/transfer.py hippocampus.yaml /data/hippocampus brain.yaml /data/glioma --minutes 5

The first model is trained on fold 0 of the first study, or is an existing run (--run). Its minutes are not counted, like those
of a downloaded model. Channels and labels may differ. The result is in RUNS/<second study>/transfer and in MLflow. After an
interruption, call it again to continue.
"""

import argparse
from pathlib import Path

import medhybrid


def main() -> None:
    """Train the source model, then the target with and without its weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("source_root", type=Path)
    parser.add_argument("target")
    parser.add_argument("target_root", type=Path)
    parser.add_argument("overrides", nargs="*", help="overrides of the target config")
    parser.add_argument("--source-minutes", type=float, default=15)
    parser.add_argument("--run", type=Path, help="existing run of the source study, instead of a new training")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--name", default="transfer")
    chosen = parser.parse_intermixed_args()

    common = [f"data.root={chosen.target_root}", f"training.max_minutes={chosen.minutes}", *chosen.overrides]
    scratch = medhybrid.load_config(chosen.target, common)
    remembered = Path(scratch.runs) / scratch.name / f"{chosen.name}-source.txt"
    if chosen.run is None and remembered.is_file():  # an earlier call has trained it
        chosen.run = Path(remembered.read_text())
    if chosen.run is None:
        length = f"training.max_minutes={chosen.source_minutes}"
        source = medhybrid.load_config(chosen.source, [f"data.root={chosen.source_root}", length])
        medhybrid.preprocess(source)
        run = medhybrid.train(source)
        if run.is_interrupted:
            raise SystemExit(
                f"interrupted; resume with: medhybrid train --resume --run {run.folder}; then call this again with "
                f"--run {run.folder}"
            )
        chosen.run = run.folder
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text(str(run.folder))
    started = medhybrid.load_config(chosen.target, [*common, f"training.pretrained={chosen.run}"])
    medhybrid.preprocess(scratch)
    seeds = [int(s) for s in chosen.seeds.split(",")]
    result = medhybrid.compare_settings({"started": started, "scratch": scratch}, seeds=seeds, name=chosen.name)

    if result is None:
        raise SystemExit(130)
    print(result.table)
    print(result.folder)


if __name__ == "__main__":
    main()
