"""What each practice of docs/practices.md gives: against training from scratch, two seeds, paired by case.

    python benchmarks/practices.py --hippocampus /data/hippocampus --glioma /data/glioma
    python benchmarks/practices.py --hippocampus /data/hippocampus --glioma /data/glioma --only stages,transfer

Studies: `stages` (parts trained one after the other), `transfer` (a model of one task as a start for the other), `pretrain`
(learnt from scans, then from few masks), `context` (what the scan's grid tells). Where a start had to be learnt first,
`scratch_twice` trains from scratch for the minutes of both. Each is a comparison, its trainings nested in MLflow; a second call
goes on. Tables are written to results/practice_<study>.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import medhybrid
from medhybrid.steps.train import Run

RESULTS = Path(__file__).parent / "results"

STAGED = (
    "training.stages=[{name: convolutions, train: [encoder, decoder], share: 2}, {train: [transformer], share: 1}, "
    "{train: [all], share: 3}]"
)
LAYERED = "training.stages=[{train: [all], share: 1, layer_decay: 0.8}]"


class Bench:
    """The data sets, and how long a training may be."""

    def __init__(self, roots: dict[str, str], minutes: dict[str, float], seeds: list[int]) -> None:
        self.roots, self.minutes, self.seeds = roots, minutes, seeds

    def config(self, study: str, *overrides: str) -> medhybrid.StudyConfig:
        """A study's config with the budget of this benchmark."""
        length = f"training.max_minutes={self.minutes[study]}"
        return medhybrid.load_config(f"{study}.yaml", [f"data.root={self.roots[study]}", length, *overrides])

    def compare(self, name: str, study: str, settings: dict[str, list[str]], prepare: Sequence[str] = ()) -> str:
        """The table of a comparison, with a heading; `prepare` are overrides of the preparation, a name of its own first."""
        configs = {setting: self.config(study, *prepare[:1], *overrides) for setting, overrides in settings.items()}
        medhybrid.preprocess(self.config(study, *prepare))
        result = medhybrid.compare(configs, seeds=self.seeds, name=f"practice-{name}")
        if result is None:
            raise SystemExit(130)
        return f"### {name}: {study}, {self.minutes[study]:g} minutes\n\n{result.table}\n"

    def once(self, note: Path, make: Callable[[], Run]) -> Path:
        """The run folder that a note names, else a run made now; one that is interrupted is not noted."""
        if not note.is_file():
            run = make()
            if run.is_interrupted:
                raise SystemExit(130)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(str(run.folder))
        return Path(note.read_text())

    def twice(self, study: str) -> str:
        """As long as a start and what goes on from it together."""
        return f"training.max_minutes={2 * self.minutes[study]}"


def stages(bench: Bench) -> list[str]:
    """All at once, or encoder and decoder, then the Transformer, then all; and rates that fall towards the picture."""
    settings = {"together": [], "in_stages": [STAGED], "layer_decay": [LAYERED]}
    return [bench.compare("stages", study, settings) for study in bench.roots]


def transfer(bench: Bench) -> list[str]:
    """Each task's model as a start for the other."""
    tables = []
    for study in bench.roots:
        other = next(s for s in bench.roots if s != study)

        def train(source: str = other) -> Run:
            config = bench.config(source, "training.seed=100")
            medhybrid.preprocess(config)
            return medhybrid.train(config)

        run = bench.once(Path("runs") / other / "practice-source.txt", train)
        start = f"training.start={run}"
        settings = {"started": [start], "encoder": [start, "training.start_parts=[encoder]"], "scratch": []}
        settings["scratch_twice"] = [bench.twice(study)]
        tables.append(bench.compare(f"transfer-from-{other}", study, settings))
    return tables


def pretrain(bench: Bench) -> list[str]:
    """Dice over the number of masks, with what was learnt from all scans that train and without."""
    tables = []
    for study, numbers in (("hippocampus", (5, 10, 25, 50, 176)), ("brain", (5, 10, 30))):
        run = bench.once(
            Path("runs") / study / "practice-pretrain.txt",
            lambda study=study: medhybrid.pretrain(bench.config(study)),  # type: ignore[misc]
        )
        for n in numbers:
            few = f"training.max_cases={n}"
            settings = {
                "pretrained": [few, f"training.start={run}"],
                "scratch": [few],
                "scratch_twice": [few, bench.twice(study)],
            }
            tables.append(bench.compare(f"pretrain-{n}-cases", study, settings))
    return tables


def context(bench: Bench) -> list[str]:
    """The distance of slices and pixels as tokens."""
    told = "data.context=[pixel_mm, slice_mm]"
    return [bench.compare("context", "brain", {"told": [told], "untold": []}, prepare=["name=brain-told", told])]


STUDIES = {"stages": stages, "transfer": transfer, "pretrain": pretrain, "context": context}


def main() -> None:
    """Run what is asked for; the tables of all are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hippocampus", required=True)
    parser.add_argument("--glioma", required=True)
    parser.add_argument("--only", default=",".join(STUDIES))
    parser.add_argument("--minutes", default="4,8", help="of a training, hippocampus and glioma")
    parser.add_argument("--seeds", default="0,1")
    chosen = parser.parse_args()
    length = [float(m) for m in chosen.minutes.split(",")]
    roots = {"hippocampus": chosen.hippocampus, "brain": chosen.glioma}
    bench = Bench(roots, dict(zip(roots, length, strict=True)), [int(s) for s in chosen.seeds.split(",")])
    for name in chosen.only.split(","):
        tables = STUDIES[name](bench)
        (RESULTS / f"practice_{name}.md").write_text("\n".join(tables))
        print("\n".join(tables), flush=True)


if __name__ == "__main__":  # workers import this file
    main()
