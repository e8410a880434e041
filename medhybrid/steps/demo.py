"""`medhybrid demo`: the whole workflow on synthetic data, from scans to scored masks and a report."""

from __future__ import annotations

import time
from pathlib import Path
from shlex import quote

from medhybrid.config import StudyConfig, load_config
from medhybrid.errors import DataError
from medhybrid.owned import FolderKind, claim_folder
from medhybrid.progress import Reporter, Silent
from medhybrid.review.figures import draw_case
from medhybrid.scans.reader import read_scan
from medhybrid.steps.demo_data import N_SUBJECTS, write_demo_data
from medhybrid.steps.evaluate import evaluate, log_evaluation
from medhybrid.steps.predict import predict
from medhybrid.steps.preprocess import preprocess
from medhybrid.steps.report import report
from medhybrid.steps.train import train

DEMO = FolderKind(
    "demo",
    {"data": ("*",), "prepared": ("*",), "runs": ("*",), "predictions": ("*",)},
    lambda folder: (folder / "data" / "new_scans" / f"brain_{N_SUBJECTS - 1:02d}").is_dir(),
    scans=("data",),
)
"""Output folder of the demo; its subfolders have their own markers. A folder of an earlier version has the last subject."""


def demo(folder: str | Path = "demo", *, minutes: float | None = None, reporter: Reporter | None = None) -> int:
    """Run the workflow: generate data, preprocess, train, predict the held-out DICOM studies, evaluate and report.

    Parameters
    ----------
    minutes : float, optional
        Length of the training in minutes; by default the number of steps of `demo.yaml`, which takes longer on a slow machine.

    Returns
    -------
    int
        Exit code: 0, or 1 if a scan failed, or 130 if the training was interrupted.
    """
    reporter, folder = reporter or Silent(), Path(folder)
    started = time.monotonic()
    overrides = [f"data.root={folder / 'data'}", f"prepare.folder={folder / 'prepared'}", f"runs={folder / 'runs'}"]
    if minutes is not None:
        overrides.append(f"training.max_minutes={minutes}")
    config = load_config("demo.yaml", overrides)

    claim_folder(folder, DEMO, remedy="choose another folder with --folder")
    reporter.begin("generating scans", N_SUBJECTS)
    write_demo_data(folder / "data", on_subject=lambda n: reporter.advance(n))
    reporter.end()
    prepared = preprocess(config, reporter=reporter)
    reporter.message(f"{prepared.n_prepared + prepared.n_unchanged} cases prepared, patch {prepared.plan.patch_size}")
    if prepared.left_out:
        raise DataError("cases of the demo were excluded", found=", ".join(prepared.left_out))
    reporter.message(_length(config))
    run = train(config, reporter=reporter)
    if run.is_interrupted:
        reporter.message(f"interrupted; continue with: medhybrid train --resume --run {quote(str(run.folder))}")
        return 130
    for line in run.verdict.lines if run.verdict is not None else ():
        reporter.message(line)
    predicted = predict(folder / "data" / "new_scans", model=run.folder, out=folder / "predictions", reporter=reporter)
    if not predicted.n_done:
        raise DataError("the demo predicted no mask", found=predicted.predictions[0].message)
    scores = evaluate(
        folder / "data" / "references",
        predicted.out,
        labels=config.data.labels,
        cases=[p.case for p in predicted.predictions],  # the other references trained the model
        out=folder / "predictions" / "evaluation",
        reporter=reporter,
    )
    log_evaluation(run.folder, folder / "predictions" / "evaluation", scores.summary)
    page = report(folder / "predictions", references=folder / "data" / "references", reporter=reporter)
    picture = _draw_typical(folder, scores.summary, {s.case: s.dice for s in scores.scores})

    rows = [
        ["mean lesion Dice, held-out subjects", f"{scores.summary['dice']:.3f}"],
        ["lowest lesion Dice", f"{scores.summary['dice_min']:.3f}"],
        ["lesion-wise F1", f"{scores.summary['lesion_f1']:.3f}"],
        ["masks of the DICOM studies", str(predicted.out / "masks")],
        ["masks as DICOM SEG", str(predicted.out / "seg")],
        ["measurements", str(predicted.out / "results.csv")],
        ["scores by case", str(predicted.out / "evaluation" / "scores.csv")],
        ["report, with a viewer", str(page)],
        ["figure of a typical case", str(picture)],
        ["run: model, figures, log", str(run.folder)],
        ["review in the browser", f"medhybrid review --runs {quote(str(folder / 'runs'))}"],
        ["steps of the training", str(run.n_steps)],
        ["time", f"{(time.monotonic() - started) / 60:.1f} min"],
    ]
    reporter.table("Demo finished", ["result", "value"], rows)
    problems = {p.case: p.message for p in predicted.predictions if p.status == "failed"} | scores.problems
    if problems:
        reporter.table("Problems", ["case", "problem"], list(problems.items()))
    return 1 if problems else 0


def _length(config: StudyConfig) -> str:
    """Return a line on the length of the training."""
    steps, minutes = config.training.iterations, config.training.max_minutes
    if steps is not None:
        return f"training for {steps} steps, as long as this machine needs for them; the bar shows the time left"
    n = load_config("demo.yaml").training.iterations
    return f"training for {minutes:g} minutes; in fewer than about {n} steps, the Dice may stay below 0.9"


def _draw_typical(folder: Path, summary: dict[str, float], dice: dict[str, float]) -> Path:
    """Draw the held-out subject with a Dice closest to the mean."""
    case = min(dice, key=lambda c: abs(dice[c] - summary["dice"]))
    image = read_scan(folder / "data" / "new_scans" / case / "FLAIR", case=case)
    reference = read_scan(folder / "data" / "references" / f"{case}.nii.gz")
    prediction = read_scan(folder / "predictions" / "masks" / f"{case}.nii.gz")
    from medhybrid.geometry import turn_to_ras

    turn = turn_to_ras(image.affine)
    path = folder / "predictions" / "picture.png"
    draw_case(
        path,
        turn.apply(image.array[0]),
        reference=turn.apply(reference.array[0]),
        prediction=turn.apply(prediction.array[0]),
        spacing_mm=turn.grid(image.grid).spacing_mm,
        title=f"{case} (FLAIR)    Dice {dice[case]:.3f}",
    )
    return path
