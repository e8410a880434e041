"""A model of one task as a start for another: Dice over minutes with and without it, after the same minutes of training.

    python pipelines/transfer.py hippocampus.yaml /data/hippocampus brain.yaml /data/glioma --minutes 5

The model is trained on the first study's fold 0 (--run names one that is there); its minutes do not count, as those of a
downloaded model would not. Channels and labels may differ. The result is in RUNS/<second study>/transfer and in MLflow.
"""

import argparse
from pathlib import Path

import medhybrid


def main() -> None:
    """Train the source, then the target with and without it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("source_root", type=Path)
    parser.add_argument("target")
    parser.add_argument("target_root", type=Path)
    parser.add_argument("overrides", nargs="*", help="of the target")
    parser.add_argument("--source-minutes", type=float, default=15)
    parser.add_argument("--run", type=Path, help="a run of the source, in place of a new one")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--name", default="transfer")
    chosen = parser.parse_intermixed_args()

    if chosen.run is None:
        length = f"training.max_minutes={chosen.source_minutes}"
        source = medhybrid.load_config(chosen.source, [f"data.root={chosen.source_root}", length])
        medhybrid.preprocess(source)
        chosen.run = medhybrid.train(source).folder

    common = [f"data.root={chosen.target_root}", f"training.max_minutes={chosen.minutes}", *chosen.overrides]
    scratch = medhybrid.load_config(chosen.target, common)
    started = medhybrid.load_config(chosen.target, [*common, f"training.start={chosen.run}"])
    medhybrid.preprocess(scratch)
    seeds = [int(s) for s in chosen.seeds.split(",")]
    result = medhybrid.compare({"started": started, "scratch": scratch}, seeds=seeds, name=chosen.name)

    if result is None:
        raise SystemExit(130)
    print(result.table)
    print(result.folder)


if __name__ == "__main__":  # workers import this file
    main()
