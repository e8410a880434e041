"""From review to a better model, on the demo's brains: `python pipelines/review_loop.py --minutes 2`.

A model learns from few brains and outlines others; a reviewer marks its masks and corrects them (here the true masks stand in
for the reviewer's work); the corrected masks come back into the dataset, and a training goes on from the old model with them.
Beside it, a control goes on for as long without them. Both are scored on the same brains, which neither has seen.
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

import medhybrid

N_LABELLED = 4
"""Brains with a mask at the beginning; the others that train are the new scans."""


def split_off(data: Path, few: Path, new: Path) -> list[str]:
    """Write a dataset of few brains that train and all that validate, and the scans of the others; their names."""
    fold = json.loads((data / "splits.json").read_text())[0]
    labelled, others = fold["train"][:N_LABELLED], fold["train"][N_LABELLED:]
    few.mkdir(parents=True, exist_ok=True)
    with (data / "cases.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    with (few / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, next(iter(rows.values())))
        writer.writeheader()
        for name in [*labelled, *fold["validation"]]:
            paths = {k: str((data / rows[name][k]).resolve()) for k in ("T1", "FLAIR", "mask")}
            writer.writerow(rows[name] | paths)
    (few / "splits.json").write_text(json.dumps([{"train": labelled, "validation": fold["validation"]}]))
    for name in others:
        for channel in ("T1", "FLAIR"):
            source = data / rows[name][channel]
            (new / name).mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, new / name / channel, dirs_exist_ok=True)
            else:
                shutil.copy(source, new / name / f"{channel}.nii.gz")
    return others


def main() -> None:
    """Train, predict, review, correct, train on; with a control."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo-review"))
    parser.add_argument("--minutes", type=float, default=2, help="of each training")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_intermixed_args()
    folder, out = chosen.folder, chosen.folder / "masks"

    def config(*changes: str) -> medhybrid.StudyConfig:
        places = [f"data.root={folder / 'few'}", f"runs={folder / 'runs'}", f"training.max_minutes={chosen.minutes}"]
        return medhybrid.load_config(
            "demo.yaml", [*places, f"prepare.folder={folder / 'prepared'}", *chosen.overrides, *changes]
        )

    medhybrid.write_demo_data(folder / "data")
    names = split_off(folder / "data", folder / "few", folder / "new")
    medhybrid.preprocess(config())
    first = medhybrid.train(config())
    medhybrid.predict(folder / "new", model=first.folder, out=out)
    print(f"look at {medhybrid.report(out)}, or mark the masks with: medhybrid review {out}")

    for name in names:  # a reviewer would correct copies of the masks in an editor
        (out / "corrected").mkdir(exist_ok=True)
        shutil.copy(folder / "data" / "references" / f"{name}.nii.gz", out / "corrected")

    control = medhybrid.train(config(f"training.pretrained={first.folder}"))
    corrected = config(
        f"training.pretrained={first.folder}", f"data.corrections=[{out}]", f"prepare.folder={folder / 'corrected'}"
    )
    print(f"{medhybrid.preprocess(corrected).n_prepared} cases prepared with the corrected masks")
    second = medhybrid.train(corrected)
    result = medhybrid.compare_runs(control.folder, second.folder, out=folder / "comparison")
    for title, run in (("few masks", first), ("control, as long again", control), ("corrected masks", second)):
        print(f"{title:<24} mean Dice {run.metrics['val/dice']:.4f}")
    print(f"corrected less control: {result.difference.interval}; {result.page}")


if __name__ == "__main__":
    main()
