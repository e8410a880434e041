"""Train each dataset with the config that `medhybrid init` writes, beside DynUNet on the same data, for equal time.

    OMP_NUM_THREADS=2 python benchmarks/datasets.py hippocampus=/data/hippocampus:10 acdc=/data/acdc:30 --seeds 0

Each argument is NAME=FOLDER:MINUTES. The config is not edited: the plan chooses everything for the minutes. DynUNet (nnU-Net's
network, from MONAI) has the same prepared cases, patch, loss, augmentation and optimiser. Fold 0 validates. Records are added
to `results/datasets.jsonl`; `results/datasets.md` has the table, which is copied to docs/results/accuracy.md, and
docs/images/datasets.png shows Dice over minutes. Use an idle machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import medhybrid
from medhybrid.steps.init import init_study

sys.path.insert(0, str(Path(__file__).parent))
from accuracy import train_one

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- datasets.py: begin -->", "<!-- datasets.py: end -->"
"""Marks around the table in the docs."""

AIMS = {"hippocampus": 0.893, "glioma": 0.83, "acdc": 0.89, "lumbar": 0.92}
"""Aims of mean Dice for the config of `init`, on two idle cores."""


def train_dataset(name: str, root: Path, minutes: float, setting: str, seed: int, work: Path) -> dict[str, Any]:
    """Draft the config of a dataset, prepare it and train one network."""
    path = work / f"{name}-{minutes:g}.yaml"
    if not path.exists():
        init_study(root, path, name=f"{name}-{minutes:g}", minutes=minutes)
    places = [f"prepare.folder={work}/prepared", f"runs={work}/runs", "tracking.kind=none", f"training.seed={seed}"]
    config = medhybrid.load_config(str(path), places)
    plan = medhybrid.preprocess(config).plan
    record = train_one(config, setting, minutes)
    chosen = {k: getattr(plan, k) for k in ("spacing_mm", "patch_size", "batch_size", "preset")}
    predicted = plan.prediction.steps if plan.prediction else None
    return {"dataset": name, **record, "plan": chosen, "predicted_steps": predicted}


def write_table(records: list[dict[str, Any]]) -> None:
    """Write results/datasets.md and datasets.png from all records; the newest of each training counts."""
    newest = {(r["dataset"], r["minutes"], r["setting"], r["seed"]): r for r in records}
    columns = ["dataset", "minutes", "network", "seed", "spacing mm", "patch", "steps (predicted)", "mean Dice", "aim"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for (dataset, minutes, setting, seed), r in sorted(newest.items()):
        spacing = " x ".join(f"{s:g}" for s in r["plan"]["spacing_mm"])
        patch = " x ".join(str(n) for n in r["plan"]["patch_size"])
        steps = f"{r['steps']} ({r['predicted_steps']})"
        cells = [dataset, f"{minutes:g}", setting, str(seed), spacing, patch, steps]
        lines.append("| " + " | ".join([*cells, f"{r['summary']['dice']:.4f}", str(AIMS.get(dataset, ""))]) + " |")
    (RESULTS / "datasets.md").write_text("\n".join([*lines, ""]))
    docs = RESULTS.parents[1] / "docs"
    if (page := docs / "results" / "accuracy.md").is_file():
        before, rest = page.read_text().split(BEGIN)
        page.write_text(BEGIN.join([before, "\n\n" + "\n".join(lines) + "\n\n" + END + rest.split(END)[1]]))

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted({r["dataset"] for r in newest.values()})
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.5), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for r in newest.values():
            if r["dataset"] == name:
                curve = [*r["curve"], (r["minutes"], r["summary"]["dice"])]
                colour = "C0" if r["setting"] == "hybrid" else "C1"
                axis.plot([m for m, _ in curve], [d for _, d in curve], marker=".", label=r["setting"], color=colour)
        axis.set_title(name)
        axis.set_xlabel("minutes")
        axis.set_ylabel("mean Dice")
        axis.legend()
    (docs / "images").mkdir(parents=True, exist_ok=True)
    figure.savefig(docs / "images" / "datasets.png", dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train every dataset with every network and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="NAME=FOLDER:MINUTES")
    parser.add_argument("--settings", default="hybrid,dynunet")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--work", type=Path, default=Path("datasets-work"))
    chosen = parser.parse_args(arguments)
    chosen.work.mkdir(parents=True, exist_ok=True)
    for item in chosen.datasets:
        name, _, rest = item.partition("=")
        root, _, minutes = rest.rpartition(":")
        for seed in chosen.seeds.split(","):
            for setting in chosen.settings.split(","):
                record = train_dataset(name, Path(root), float(minutes), setting, int(seed), chosen.work)
                with (RESULTS / "datasets.jsonl").open("a") as out:
                    out.write(json.dumps(record) + "\n")
                print(name, setting, seed, record["steps"], record["summary"]["dice"], flush=True)
                write_table([json.loads(line) for line in (RESULTS / "datasets.jsonl").read_text().splitlines()])


if __name__ == "__main__":  # workers import this file
    main()
