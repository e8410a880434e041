"""Compare the practices of docs/lab-notes/practices.md for the same total time, paired by case, with two seeds.

    python benchmarks/practices.py hippocampus.yaml /data/hippocampus --other brain.yaml /data/glioma --work /tmp/practices \
        --steps 470 --other-steps 290 --pretrain-steps 600 --masks 5,25
    python benchmarks/practices.py brain.yaml /data/glioma --other hippocampus.yaml /data/hippocampus --work /tmp/practices \
        --steps 570 --other-steps 950 --pretrain-steps 800 --masks 5 data.context=[pixel_mm,slice_mm]

Lengths are steps that an idle machine makes in the same minutes (`step_rates.py` measures them), so that trainings may run
beside other work. Settings:

    scratch         `medhybrid train` with the config as it is
    twice           from scratch, for twice the steps: as long as a pretraining and the training after it together
    in_stages       train encoder and decoder, then the Transformer, then all
    layer_decay     learning rates that fall from the decoder towards the image
    other, other_encoder    initialised from a model of the other study, from all weights or those of the encoder
    pretrained      initialised from self-supervised pretraining on the scans of this study (--pretrain-steps)
    told            metadata conditioning with the fields of data.context, if the call sets them
    tuned           the best config of a search (--tuned RUNS/<study>/tune-<search>/best.yaml), if given

Further groups: scratch and tuned for twice as long, and AdamW for the same time (--adamw-steps); and for each number of
--masks, scratch, twice and pretrained with this number of cases. Every training is recorded in
results/practices_<study>.json with the Dice of its cases. A recorded training is not repeated, so a second call continues, also
on another day or machine. The tables in results/practices_<study>.md compare settings with the first of their group, over the
seeds that both have.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import medhybrid
from medhybrid.review.comparison import Setting, comparison_table
from medhybrid.runs.run import Run

RESULTS = Path(__file__).parent / "results"

STAGED = (
    "training.stages=[{name: convolutions, train: [encoder, decoder], share: 2}, {train: [transformer], share: 1}, "
    "{train: [all], share: 3}]"
)
LAYERED = "training.stages=[{train: [all], share: 1, layer_decay: 0.8}]"


def once(note: Path, make: Callable[[], Run]) -> Path:
    """Return the run folder recorded in a note; without a note, run `make` and write one, unless it is interrupted."""
    if not note.is_file():
        run = make()
        if run.is_interrupted:
            raise SystemExit(130)
        note.write_text(str(run.folder))
    return Path(note.read_text())


class Records:
    """Records of the trainings of a study, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []

    def has(self, group: str, setting: str, seed: int, unit: int, config: str) -> bool:
        """Return whether a training is recorded.

        Parameters
        ----------
        unit : int
            Steps of a single training (--steps).
        config : str
            Hash of the tuned config, empty for other settings.
        """
        asked = (group, setting, seed, unit, config)
        return any(
            (*(r[k] for k in ("group", "setting", "seed", "unit")), r.get("config", "")) == asked for r in self.all
        )

    def add(self, group: str, seed: int, unit: int, made: Setting, config: str) -> None:
        """Add the training of one seed."""
        record = {"group": group, "setting": made.name, "seed": seed, "unit": unit, "steps": made.n_steps[0]}
        record |= {"config": config} if config else {}
        record |= {"parameters": made.n_parameters, "dice": made.by_seed[0], "cases": made.cases}
        self.all.append(record)
        self.path.write_text(json.dumps(self.all, indent=1) + "\n")

    def tables(self, study: str) -> str:
        """Return tables of each setting compared with the first of its group, one table for each set of common seeds."""
        told = []
        for group, unit in dict.fromkeys((r["group"], r["unit"]) for r in self.all):
            mine = [r for r in self.all if (r["group"], r["unit"]) == (group, unit)]
            names = list(dict.fromkeys(r["setting"] for r in mine))
            seeds = {n: {r["seed"] for r in mine if r["setting"] == n} for n in names}
            shared: dict[tuple[int, ...], list[str]] = {}
            for name in names[1:]:
                shared.setdefault(tuple(sorted(seeds[name] & seeds[names[0]])), []).append(name)
            for common, others in shared.items():
                if not common:
                    continue
                settings = [
                    _setting(n, [r for r in mine if r["setting"] == n and r["seed"] in common])
                    for n in (names[0], *others)
                ]
                title = f"### {study}, {group}, {unit} steps a training, seeds {', '.join(map(str, common))}"
                told.append(f"{title}\n\n{comparison_table(settings)}\n")
        return "\n".join(told)


def _setting(name: str, records: list[dict[str, Any]]) -> Setting:
    """Average the trainings of a setting, case by case."""
    of = sorted(records, key=lambda r: int(r["seed"]))
    return Setting(
        name,
        of[0]["parameters"],
        tuple(r["steps"] for r in of),
        tuple(r["dice"] for r in of),
        {case: sum(r["cases"][case] for r in of) / len(of) for case in of[0]["cases"]},
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the models to initialise from, then all settings, one seed after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--other", nargs=2, required=True, metavar=("CONFIG", "ROOT"))
    parser.add_argument("--work", type=Path, required=True, help="folder of prepared cases and runs")
    parser.add_argument("--steps", type=int, required=True, help="steps of a training")
    parser.add_argument("--other-steps", type=int, required=True, help="steps of the other study in the same time")
    parser.add_argument("--pretrain-steps", type=int, default=0, help="steps of the pretraining in the same time")
    parser.add_argument("--masks", default="5")
    parser.add_argument("--tuned", type=Path, help="best config of a search")
    parser.add_argument("--adamw-steps", type=int, help="steps with AdamW in the time of twice --steps")
    parser.add_argument("--settings", help="settings with all masks, scratch first; default all, '' for none")
    parser.add_argument("--seeds", default="0,1")
    chosen = parser.parse_intermixed_args(arguments)
    chosen.work.mkdir(parents=True, exist_ok=True)

    def config_of(config: str, root: str | Path, n_steps: int, *overrides: str) -> medhybrid.StudyConfig:
        places = [f"data.root={root}", f"prepare.folder={chosen.work}/prepared", f"runs={chosen.work}/runs"]
        length = [f"training.iterations={n_steps}", "training.max_minutes=null"]
        return medhybrid.load_config(config, [*places, *length, *overrides])

    told = [o for o in chosen.overrides if o.startswith("data.context=")]
    common = [o for o in chosen.overrides if o not in told]

    def own(*overrides: str, n_steps: int = chosen.steps, config: str = chosen.config) -> medhybrid.StudyConfig:
        return config_of(config, chosen.root, n_steps, *common, *overrides)

    def tuned(n_steps: int = chosen.steps) -> medhybrid.StudyConfig:
        return own("training.inner_fold=null", n_steps=n_steps, config=str(chosen.tuned))

    def train_other() -> Run:
        source = config_of(*chosen.other, chosen.other_steps, "training.seed=100")
        medhybrid.preprocess(source)
        return medhybrid.train(source)

    study = own(*told)
    medhybrid.preprocess(study)  # settings without metadata use the same prepared cases
    asked = None if chosen.settings is None else list(filter(None, chosen.settings.split(",")))
    other = None
    if asked is None or {"other", "other_encoder"} & set(asked):
        other = once(chosen.work / f"{study.name}-other.txt", train_other)
    pretrained = None
    if chosen.pretrain_steps:
        without_masks = own(n_steps=chosen.pretrain_steps)
        pretrained = once(chosen.work / f"{study.name}-pretrained.txt", lambda: medhybrid.pretrain(without_masks))
    settings = {
        "scratch": own(),
        "twice": own(n_steps=2 * chosen.steps),
        "in_stages": own(STAGED),
        "layer_decay": own(LAYERED),
        "other": own(f"training.pretrained={other}"),
        "other_encoder": own(f"training.pretrained={other}", "training.pretrained_parts=[encoder]"),
        **({"pretrained": own(f"training.pretrained={pretrained}")} if pretrained else {}),
        **({"told": own(*told)} if told else {}),
        **({"tuned": tuned()} if chosen.tuned else {}),
    }
    if asked is not None:
        settings = {name: settings[name] for name in asked}
    groups = {"all masks": settings}
    length = 2 * chosen.steps
    twice = {"tuned": tuned(length)} if chosen.tuned else {}
    if chosen.adamw_steps:
        twice["adamw"] = own("training.optimiser=adamw", n_steps=chosen.adamw_steps)
    if twice:
        groups["all masks, twice as long"] = {"scratch": own(n_steps=length), **twice}
    for n in filter(None, chosen.masks.split(",")):
        few = f"training.max_cases={n}"
        groups[f"{n} masks"] = {
            "scratch": own(few),
            "twice": own(few, n_steps=2 * chosen.steps),
            **({"pretrained": own(few, f"training.pretrained={pretrained}")} if pretrained else {}),
        }
    records = Records(RESULTS / f"practices_{study.name}.json")
    for seed in map(int, chosen.seeds.split(",")):
        for group, configs in groups.items():
            for setting, config in configs.items():
                known = _sha256(chosen.tuned) if setting == "tuned" else ""
                if not records.has(group, setting, seed, chosen.steps, known):
                    name = f"practices-{group.replace(' ', '-')}"
                    result = medhybrid.compare_settings({setting: config}, seeds=[seed], name=name)
                    if result is None:
                        raise SystemExit(130)
                    records.add(group, seed, chosen.steps, result.settings[0], known)
                    (RESULTS / f"practices_{study.name}.md").write_text(records.tables(study.name))
    print(records.tables(study.name))


if __name__ == "__main__":  # workers import this file
    main()
