"""Segment lower-grade glioma on T1, FLAIR and T1 with gadolinium: `python pipelines/glioma.py /data/glioma`.

It also shows the findings for cases whose missing sequences are copies of another one, and how to find the worst cases.
"""

import json
import sys
from pathlib import Path

import medhybrid

OUT = Path("glioma")


def main(root: Path, minutes: float = 25) -> None:
    """Prepare, train one fold, predict and score its validation scans, and print the worst cases."""
    config = medhybrid.load_config("brain.yaml", [f"data.root={root}", f"training.max_minutes={minutes}"])

    preparation = medhybrid.preprocess(config)
    copied = sorted({f.where for f in preparation.findings if f.code == "copied_channel"})
    print(f"{preparation.n_prepared + preparation.n_unchanged} cases; with copied channels: {', '.join(copied)}")

    run = medhybrid.train(config)
    print(f"{run.n_steps} steps; validation Dice {run.metrics['val/dice']:.4f}")

    fold = json.loads((preparation.folder / "folds.json").read_text())[config.training.fold]
    model = medhybrid.load_model(run.folder)
    for case in fold["validation"]:
        scan = medhybrid.read_scan(root / "imagesTr" / f"{case}.nii.gz")
        medhybrid.write_nifti(OUT / "masks" / f"{case}.nii.gz", model.predict(scan), scan.affine, like=scan.source)

    held_out = fold["validation"]  # the other references trained the model
    scores = medhybrid.evaluate(
        root / "labelsTr", OUT, labels=config.data.labels, cases=held_out, out=OUT / "evaluation"
    )
    print(f"mean Dice {scores.summary['dice']:.3f}, median {scores.summary['dice_median']:.3f}")
    for score in sorted(scores.scores, key=lambda s: s.dice)[:3]:
        print(f"check {score.case}: Dice {score.dice:.3f}, {score.volume_error_ml:+.1f} ml; {run.folder / 'pictures'}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *map(float, sys.argv[2:]))
