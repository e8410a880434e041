"""Improve a model with reviewed masks, on the brains of the demo: `python pipelines/review_loop.py --minutes 2`.

A model is trained on few brains and predicts the others. A reviewer corrects these masks; here the reference masks replace the
reviewer's work. The corrected masks are added to the dataset, and a new training is initialised from the first model. A control
training of the same length continues without them. Both are scored on the same validation brains, which no training used.
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

import medhybrid

N_LABELLED = 4
"""Number of training brains with a mask at first; the other training brains are the new scans."""


def split_off(data: Path, few: Path, new: Path) -> list[str]:
    """Write a dataset with few training brains and all validation brains, and the other scans; return names of the others."""
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
    """Train, predict, correct masks, and train with and without them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo-review"))
    parser.add_argument("--minutes", type=float, default=2, help="length of each training")
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
    print(f"open {medhybrid.report(out)}, or review the masks with: medhybrid review {out}")

    for name in names:  # in practice, a reviewer corrects copies of the masks in an editor
        (out / "corrected").mkdir(exist_ok=True)
        shutil.copy(folder / "data" / "references" / f"{name}.nii.gz", out / "corrected")

    control = medhybrid.train(config(f"training.pretrained={first.folder}"))
    corrected = config(
        f"training.pretrained={first.folder}", f"data.corrections=[{out}]", f"prepare.folder={folder / 'corrected'}"
    )
    print(f"{medhybrid.preprocess(corrected).n_prepared} cases prepared with the corrected masks")
    second = medhybrid.train(corrected)
    result = medhybrid.compare(control.folder, second.folder, out=folder / "comparison")
    for title, run in (("few masks", first), ("control, same length", control), ("corrected masks", second)):
        print(f"{title:<24} mean Dice {run.metrics['val/dice']:.4f}")
    print(f"difference (corrected - control): {result.difference.interval}; {result.page}")


if __name__ == "__main__":
    main()
