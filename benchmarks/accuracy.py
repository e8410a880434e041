"""Compare accuracy for a time budget: our networks, MONAI's networks on our data pipeline, and nnU-Net, on one fold.

    python benchmarks/accuracy.py hippocampus.yaml /data/hippocampus --minutes 10 --settings hybrid,resnet,swin_unetr,segresnet
    python benchmarks/accuracy.py brain.yaml /data/glioma --minutes 20 --seeds 0,1 training.fold=0
    python benchmarks/accuracy.py brain.yaml /data/glioma --minutes 20 --steps hybrid=3380,resnet=3930 --jobs 6

With --steps, trainings have the number of steps that an idle machine makes in --minutes (`step_rates.py` measures it). Such
trainings may run beside other work, on another machine, or several at once (--jobs).

MONAI's SwinUNETR and UNETR need einops. nnU-Net's presets (nnunet, nnunet_resenc) run by its own commands from a separate
environment: `--nnunet /path/to/its/bin`. Each training runs in a separate process, so that its peak memory can be measured.
Records are added to results/accuracy_<study>.json; one with the same setting, seed, fold and budget is replaced. The table and
the plot beside it show all records.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from nnunet import PRESETS, run_nnunet, score_masks
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from compare_networks import KINDS

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.plan import Plan
from medhybrid.inference.network import network_for
from medhybrid.metrics import LabelScore, mean_interval, score_case, summarise
from medhybrid.networks import Logits
from medhybrid.review.comparison import Setting, comparison_table
from medhybrid.runs.prepared import prepared_folder
from medhybrid.tracking.several import SeveralTrackers
from medhybrid.training.loop import Trainer
from medhybrid.training.validation import Validation

HARDLY_BEGUN = 0.5
"""Mean Dice below which a setting is written as text in the plot, so that the axis can show the others in detail."""

RESULTS = Path(__file__).parent / "results"
DEVICE = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
MACHINE = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {DEVICE}"


class Peer(nn.Module):
    """Wrapper of a MONAI network that pads the input to a multiple of its stride and crops the output."""

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, image: Tensor) -> Logits:
        """Compute logits of the size of the image (B, C, X, Y, Z); the auxiliary logits are not used."""
        size = image.shape[2:]
        padding = [n for s in reversed(size) for n in (0, -s % self.multiple)]
        full = self.network(F.pad(image, padding))[:, :, : size[0], : size[1], : size[2]]
        return Logits(full, full)


def _padded(plan: Plan, multiple: int) -> tuple[int, ...]:
    return tuple(n + -n % multiple for n in plan.patch_size)


def swin_unetr(plan: Plan) -> nn.Module:
    """Build MONAI's SwinUNETR with its defaults (feature size 24)."""
    from monai.networks.nets import SwinUNETR

    return Peer(SwinUNETR(len(plan.channels), plan.n_labels + 1), 32)


def unetr(plan: Plan) -> nn.Module:
    """Build MONAI's UNETR with its defaults (ViT-B)."""
    from monai.networks.nets import UNETR

    return Peer(UNETR(len(plan.channels), plan.n_labels + 1, _padded(plan, 16)), 16)


def segresnet(plan: Plan) -> nn.Module:
    """Build MONAI's SegResNet with 16 initial filters."""
    from monai.networks.nets import SegResNet

    return Peer(SegResNet(in_channels=len(plan.channels), out_channels=plan.n_labels + 1, init_filters=16), 8)


def dynunet(plan: Plan) -> nn.Module:
    """Build MONAI's DynUNet with the strides of the plan, like nnU-Net's plain network."""
    from monai.networks.nets import DynUNet

    strides = [(1, 1, 1), *plan.strides]
    kernels = [3] * len(strides)
    return Peer(DynUNet(3, len(plan.channels), plan.n_labels + 1, kernels, strides, strides[1:]), 8)


PEERS: dict[str, Callable[[Plan], nn.Module]] = {
    "swin_unetr": swin_unetr,
    "unetr": unetr,
    "segresnet": segresnet,
    "dynunet": dynunet,
}


def train_one(config: StudyConfig, setting: str, minutes: float) -> dict[str, Any]:
    """Train one setting, and score its masks of the validation cases on the grids of the scans.

    Parameters
    ----------
    minutes : float
        Budget for the record; the config has it as minutes, or as the steps that an idle machine makes in that time.
    """
    dataset = PreparedDataset(prepared_folder(config))
    plan, fold = dataset.plan, dataset.fold_for(config)
    torch.manual_seed(config.training.seed)  # the network is built here, before the trainer sets the seed
    if setting in PEERS:
        network = PEERS[setting](plan)
        config = config.model_copy(update={"network": config.network.model_copy(update={"deep_supervision": False})})
    else:
        network = network_for(config.network, plan)
    curve: list[tuple[float, float]] = []
    started = time.monotonic()

    def on_validation(validation: Validation) -> None:
        curve.append((round((time.monotonic() - started) / 60, 2), round(validation.mean_dice, 4)))

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            config,
            plan,
            dataset.open(fold.train),
            dataset.open(fold.validation),
            folder=Path(folder),
            tracker=SeveralTrackers([]),
            on_validation=on_validation,
            network=network,
        )
        outcome = trainer.fit()
    assert outcome.validation is not None
    labels = {name: n for n, name in enumerate(plan.labels, start=1)}
    scores: list[LabelScore] = []
    for r in outcome.validation.results:
        scores += score_case(r.case.name, r.prediction, r.case.source_mask(), labels, r.case.source_grid)
    example = torch.zeros(1, len(plan.channels), *plan.patch_size, device=trainer.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(example)
    return {
        "setting": setting,
        "seed": config.training.seed,
        "fold": config.training.fold,
        "minutes": minutes,
        "steps": outcome.step,
        "seconds": round(outcome.elapsed_s, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "parameters": sum(p.numel() for p in network.parameters()),
        "gflops_a_patch": round(counter.get_total_flops() / 1e9, 2),
        "curve": curve,
        "cases": {r.case.name: round(r.mean_dice, 4) for r in outcome.validation.results},
        "summary": {k: round(v, 4) for k, v in summarise(scores).items()},
        "machine": MACHINE,
        "torch": torch.__version__,
        "medhybrid": medhybrid.__version__,
    }


def train_nnunet(config: StudyConfig, preset: str, root: Path, commands: Path) -> dict[str, Any]:
    """Train nnU-Net by its own commands for conversion, preparation, training and prediction; return the same record."""
    dataset = PreparedDataset(prepared_folder(config))
    fold = dataset.fold_for(config)
    minutes = config.training.max_minutes
    assert minutes is not None
    result = run_nnunet(
        preset,
        root,
        Path(config.prepare.folder) / f"{config.name}-nnunet",
        commands,
        channels=dataset.plan.channels,
        labels=config.data.labels,
        train=fold.train,
        validation=fold.validation,
        minutes=minutes,
    )
    scores = score_masks(result.masks, root, config.data.labels, fold.validation)
    by_case = {case: summarise([s for s in scores if s.case == case])["dice"] for case in fold.validation}
    return {
        "setting": preset,
        "seed": config.training.seed,  # nnU-Net has no seed: this is the number of the repetition
        "fold": config.training.fold,
        "minutes": minutes,
        "steps": result.steps,
        "seconds": result.seconds,
        "peak_mib": result.peak_mib,
        "parameters": result.parameters,
        "gflops_a_patch": None,
        "curve": [],
        "cases": {case: round(value, 4) for case, value in by_case.items()},
        "summary": {k: round(v, 4) for k, v in summarise(scores).items()},
        "machine": MACHINE,
    }


def key_of(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of a record; a new record replaces an earlier one with the same key."""
    return tuple(record[k] for k in ("setting", "seed", "fold", "minutes"))


def paired_tables(records: list[dict[str, Any]]) -> list[str]:
    """Compare the hybrid with every other setting, for each budget and fold, in a table for each set of common seeds."""
    tables = []
    for minutes, fold in sorted({(r["minutes"], r["fold"]) for r in records}):
        groups: dict[str, dict[int, dict[str, Any]]] = {}
        for r in records:
            if (r["minutes"], r["fold"]) == (minutes, fold):
                groups.setdefault(r["setting"], {})[r["seed"]] = r
        hybrid = groups.pop("hybrid", {})
        shared = {name: tuple(sorted(set(members) & set(hybrid))) for name, members in groups.items()}
        for seeds in sorted({s for s in shared.values() if s}, key=len, reverse=True):
            others = [(name, groups[name]) for name in sorted(shared) if shared[name] == seeds]
            settings = []
            for name, members in [("hybrid", hybrid), *others]:
                runs = [members[seed] for seed in seeds]
                cases = {c: float(np.mean([run["cases"][c] for run in runs])) for c in runs[0]["cases"]}
                steps, dice = tuple(run["steps"] for run in runs), tuple(run["summary"]["dice"] for run in runs)
                settings.append(Setting(name, runs[0]["parameters"], steps, dice, cases))
            told = f"### {minutes:g} minutes, fold {fold}, seeds {', '.join(map(str, seeds))}"
            tables += [told, "", comparison_table(settings), ""]
    return tables


def write_report(study: str, records: list[dict[str, Any]]) -> None:
    """Write results/accuracy_<study>.md and .png."""
    columns = ["setting", "minutes", "fold", "seeds", "steps", "mean Dice (95 %)", "median", "HD95 mm", "surface Dice"]
    columns += ["lesion F1", "parameters", "GFLOP per patch", "peak MiB"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in records:
        groups.setdefault((r["minutes"], r["fold"], r["setting"]), []).append(r)
    for (minutes, fold, setting), members in sorted(groups.items()):
        values = [float(np.mean([m["cases"][c] for m in members])) for c in members[0]["cases"]]
        mean = {k: np.mean([m["summary"][k] for m in members]) for k in ("hd95_mm", "surface_dice", "lesion_f1")}
        cells = [setting, f"{minutes:g}", str(fold), ", ".join(str(m["seed"]) for m in members)]
        cells += [", ".join(str(m["steps"]) for m in members), str(mean_interval(values)), f"{np.median(values):.4f}"]
        cells += [f"{mean['hd95_mm']:.2f}", f"{mean['surface_dice']:.4f}", f"{mean['lesion_f1']:.4f}"]
        flops = members[0]["gflops_a_patch"]  # None where it was not counted
        cells += [f"{members[0]['parameters'] / 1e6:.2f} M", "" if flops is None else f"{flops:.1f}"]
        cells += [str(max(m["peak_mib"] for m in members))]
        lines.append("| " + " | ".join(cells) + " |")
    (RESULTS / f"accuracy_{study}.md").write_text("\n".join([*lines, "", *paired_tables(records)]))

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    draw = draw_minutes if all(len(r["curve"]) > 1 for r in records) else draw_cases
    draw(axes, records)
    figure.savefig(RESULTS / f"accuracy_{study}.png", dpi=110)


def draw_minutes(axes: Any, records: list[dict[str, Any]]) -> None:
    """Draw Dice over the minutes of the budget, with a line for each training."""
    for n, setting in enumerate(sorted({r["setting"] for r in records})):
        for m in (r for r in records if r["setting"] == setting):
            curve = m["curve"] or [(m["minutes"], m["summary"]["dice"])]
            minutes = [at * m["minutes"] / curve[-1][0] for at, _ in curve]  # scaled to the budget
            axes.plot(minutes, [dice for _, dice in curve], color=f"C{n}", marker=".", label=setting)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(*zip(*{name: (h, name) for h, name in zip(handles, names, strict=True)}.values(), strict=True))
    axes.set_xlabel("minutes of the budget")
    axes.set_ylabel("mean Dice (some cases during the run, all at its end)")


def draw_cases(axes: Any, records: list[dict[str, Any]]) -> None:
    """Draw Dice of every case and the mean of every training, for trainings that were validated only at their end."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for r in records:
        groups.setdefault((r["setting"], r["minutes"]), []).append(r)
    mean = {key: float(np.mean([r["summary"]["dice"] for r in members])) for key, members in groups.items()}
    order = sorted(groups, key=lambda key: mean[key])
    drawn = [r for key in order if mean[key] > HARDLY_BEGUN for r in groups[key]]
    low = min((d for r in drawn for d in r["cases"].values()), default=0.02) - 0.02
    for y, key in enumerate(order):
        if mean[key] <= HARDLY_BEGUN:
            axes.text(low, y, f" {mean[key]:.2f}, not drawn", va="center")
            continue
        cases = [dice for r in groups[key] for dice in r["cases"].values()]
        axes.plot(cases, [y] * len(cases), "|", color="0.7")
        means = [r["summary"]["dice"] for r in groups[key]]
        axes.plot(means, [y] * len(means), "o", color="C0")
    axes.set_yticks(range(len(order)), [f"{setting}, {minutes:g} min" for setting, minutes in order])
    axes.set_xlim(left=low)
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_xlabel("Dice: each case (grey), mean of each training (blue)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen settings, each training in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--settings", default=",".join((*KINDS, *PEERS)))
    parser.add_argument("--steps", help="setting=steps,...: train for steps instead of minutes; replaces --settings")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--jobs", type=int, default=1, help="parallel trainings; keep 1 for budgets in minutes")
    parser.add_argument(
        "--prepared", action="store_true", help="use the prepared data without checking them; ROOT may be absent"
    )
    parser.add_argument("--nnunet", type=Path, help="folder of nnU-Net's commands, for nnunet and nnunet_resenc")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_intermixed_args(arguments)
    steps = dict(pair.split("=") for pair in chosen.steps.split(",")) if chosen.steps else {}
    settings = list(steps) or chosen.settings.split(",")
    if set(settings) & set(PRESETS) and not (chosen.nnunet and (chosen.nnunet / "nnUNetv2_train").exists()):
        parser.error("nnunet and nnunet_resenc need --nnunet, the folder with nnUNetv2_train")

    def config_of(setting: str, seed: str) -> StudyConfig:
        length = [f"training.max_minutes={chosen.minutes}"]
        if setting in steps:
            length = [f"training.iterations={steps[setting]}", "training.max_minutes=null"]
        kind = KINDS.get(setting, [])
        overrides = [f"data.root={chosen.root}", *length, *kind, *chosen.overrides, f"training.seed={seed}"]
        return medhybrid.load_config(chosen.config, overrides)

    if chosen.worker:
        config = config_of(settings[0], chosen.seeds)
        if settings[0] in PRESETS:
            record = train_nnunet(config, settings[0], chosen.root, chosen.nnunet)
        else:
            record = train_one(config, settings[0], chosen.minutes)
        chosen.worker.write_text(json.dumps(record))
        return
    study = config_of(settings[0], "0")
    if not chosen.prepared:
        medhybrid.preprocess(study)
    RESULTS.mkdir(exist_ok=True)
    path, turn = RESULTS / f"accuracy_{study.name}.json", threading.Lock()

    def run(job: tuple[str, str]) -> None:
        seed, setting = job
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command = [sys.executable, __file__, chosen.config, str(chosen.root), *chosen.overrides]
            command += ["--minutes", str(chosen.minutes), "--seeds", seed]
            command += ["--steps", f"{setting}={steps[setting]}"] if steps else ["--settings", setting]
            command += ["--nnunet", str(chosen.nnunet)] if chosen.nnunet else []
            if subprocess.run([*command, "--worker", file.name]).returncode:
                print(setting, seed, "failed; see the error above", flush=True)
                return
            record = json.loads(Path(file.name).read_text())
        with turn:
            records = json.loads(path.read_text()) if path.is_file() else []
            records = [r for r in records if key_of(r) != key_of(record)] + [record]
            path.write_text(json.dumps(records, indent=1) + "\n")
            write_report(study.name, records)
        print(setting, seed, record["summary"]["dice"], f"{record['steps']} steps", flush=True)

    with ThreadPoolExecutor(chosen.jobs) as pool:
        list(pool.map(run, itertools.product(chosen.seeds.split(","), settings)))


if __name__ == "__main__":  # workers import this file
    main()
