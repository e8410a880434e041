"""Segment anterior and posterior hippocampus on T1 MRI: `python pipelines/hippocampus.py /data/hippocampus`.

It runs one fold of task 4 of the Medical Segmentation Decathlon, from raw scans to scored masks.
"""

import json
import sys
from pathlib import Path

import medhybrid

OUT = Path("hippocampus")


def main(root: Path, minutes: float = 15) -> None:
    """Prepare, train one fold, and predict and score its validation scans."""
    config = medhybrid.load_config("hippocampus.yaml", [f"data.root={root}", f"training.max_minutes={minutes}"])

    preparation = medhybrid.preprocess(config)
    for finding in preparation.findings:
        print(f"{finding.severity}: {finding.where}: {finding.message}")

    run = medhybrid.train(config)
    model = medhybrid.load_model(run.folder)
    print(f"{run.n_steps} steps; validation Dice {run.metrics['val/dice']:.4f}")

    # Repeat the validation of the training from the original files, as a user of the model would predict them.
    fold = json.loads((preparation.folder / "folds.json").read_text())[config.training.fold]
    for case in fold["validation"]:
        scan = medhybrid.read_scan(root / "imagesTr" / f"{case}.nii.gz")
        medhybrid.write_nifti(OUT / "masks" / f"{case}.nii.gz", model.predict(scan), scan.affine, like=scan.source)

    held_out = fold["validation"]  # the other references trained the model
    scores = medhybrid.evaluate(
        root / "labelsTr", OUT, labels=config.data.labels, cases=held_out, out=OUT / "evaluation"
    )
    for name, value in scores.summary.items():
        print(f"{name:<20} {value:.4f}")
    print("view the run: medhybrid review")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *map(float, sys.argv[2:]))
