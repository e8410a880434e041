"""Run a complete study on generated brains with lesions: `python pipelines/demo.py`.

It does the same as `medhybrid demo`, as a template for your study.
"""

from pathlib import Path

import medhybrid

FOLDER = Path("demo")


def main() -> None:
    """Generate scans, prepare, train, predict and evaluate."""
    config = medhybrid.load_config(
        "demo.yaml",
        [f"data.root={FOLDER / 'data'}", f"prepare.folder={FOLDER / 'prepared'}", f"runs={FOLDER / 'runs'}"],
    )
    medhybrid.write_demo_data(FOLDER / "data")

    preparation = medhybrid.preprocess(config)
    print(f"{preparation.n_prepared} cases prepared, excluded: {preparation.left_out or 'none'}")

    run = medhybrid.train(config)
    print(f"trained {run.n_steps} steps: {run.folder}")

    predicted = medhybrid.predict(FOLDER / "data" / "new_scans", model=run.folder, out=FOLDER / "predictions")
    print(f"{predicted.n_done} masks, {predicted.n_failed} scans failed: {predicted.out}")

    held_out = [p.case for p in predicted.predictions]  # the other references trained the model
    references = FOLDER / "data" / "references"
    scores = medhybrid.evaluate(references, predicted.out, labels=config.data.labels, cases=held_out)
    print(f"mean lesion Dice {scores.summary['dice']:.3f} on {scores.summary['n_cases']:.0f} held-out subjects")
    print(f"view the run: medhybrid review --runs {FOLDER / 'runs'}")


if __name__ == "__main__":
    main()
