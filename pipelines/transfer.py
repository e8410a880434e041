"""A model of one task as a start for another: Dice over minutes with and without it, after the same minutes of training.

    python pipelines/transfer.py hippocampus.yaml /data/hippocampus brain.yaml /data/glioma --minutes 5

The model is trained on the first study's fold 0 (--run names one that is there); its minutes come on top, as those of a
downloaded model would. Channels and labels may differ. The result is in RUNS/<second study>/transfer and in MLflow; a second
call goes on with what is there.
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

    common = [f"data.root={chosen.target_root}", f"training.max_minutes={chosen.minutes}", *chosen.overrides]
    scratch = medhybrid.load_config(chosen.target, common)
    remembered = Path(scratch.runs) / scratch.name / f"{chosen.name}-source.txt"
    if chosen.run is None and remembered.is_file():  # of an earlier call: the comparison goes on with it
        chosen.run = Path(remembered.read_text())
    if chosen.run is None:
        length = f"training.max_minutes={chosen.source_minutes}"
        source = medhybrid.load_config(chosen.source, [f"data.root={chosen.source_root}", length])
        medhybrid.preprocess(source)
        run = medhybrid.train(source)
        if run.is_interrupted:
            raise SystemExit(f"interrupted; medhybrid train --resume --run {run.folder}, then --run {run.folder} here")
        chosen.run = run.folder
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text(str(run.folder))
    started = medhybrid.load_config(chosen.target, [*common, f"training.pretrained={chosen.run}"])
    medhybrid.preprocess(scratch)
    seeds = [int(s) for s in chosen.seeds.split(",")]
    result = medhybrid.compare({"started": started, "scratch": scratch}, seeds=seeds, name=chosen.name)

    if result is None:
        raise SystemExit(130)
    print(result.table)
    print(result.folder)


if __name__ == "__main__":
    main()
