"""`medhybrid plan`: the plan for a budget of time and memory, before anything is prepared or trained."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import torch
from pydantic import ValidationError

from medhybrid.config import StudyConfig
from medhybrid.data.dataset import CHOSEN, PREPARED
from medhybrid.data.fingerprint import Fingerprint
from medhybrid.data.plan import Plan
from medhybrid.data.workers import Processes, default_workers
from medhybrid.errors import ConfigError, MedHybridError, reason_of
from medhybrid.files import held
from medhybrid.inference.device import choose_device
from medhybrid.inference.device_memory import free_device_memory
from medhybrid.memory import free_memory
from medhybrid.names import printable_path
from medhybrid.owned import claim_folder
from medhybrid.planning import Budget, Rates, make_plan, measure_rates
from medhybrid.planning.others import BUSY_CORES, OtherLoad
from medhybrid.planning.rates import device_name
from medhybrid.progress import Reporter, Silent
from medhybrid.runs.prepared import prepared_folder, refresh_prepared
from medhybrid.steps.survey import survey_dataset
from medhybrid.training.team import own_gpu

MEMORY_SHARE = 0.5
"""Share of the free memory that a training on a CPU may use; the rest is for other programs."""

GPU_SHARE = 0.85
"""Share of a GPU's free memory that a training may use."""


def plan_dataset(
    config: StudyConfig,
    fingerprint: Fingerprint,
    *,
    memory: int,
    earlier: Plan | None = None,
    rates: Rates | None = None,
    reporter: Reporter,
) -> Plan:
    """Make the plan of a dataset for the budget of its config.

    The machine is measured for some seconds if the choice depends on its speed. The rates of an earlier plan on the same device
    are used again, so that the same dataset and config give the same plan. A plan of version 0.1 is kept.

    Parameters
    ----------
    memory : int
        Free memory of the host in bytes.
    """
    device = device_of(config)
    budget = Budget(config.training.max_minutes, config.training.iterations, _memory(device, memory))
    known = rates or _rates_of(earlier, device_name(device))

    def measure(config: StudyConfig, first: Plan) -> Rates:
        reporter.message(f"measuring training steps on {device_name(device)} for some seconds, to plan {budget}")
        load = OtherLoad()
        rates = measure_rates(config, first)
        if device.type == "cpu" and (cores := load.cores) > BUSY_CORES:
            reporter.message(
                f"other programs used {cores:.1f} CPU cores meanwhile: on an idle machine, the plan would train more. To plan "
                f"again, end them, remove {printable_path(prepared_folder(config) / 'plan.json')}, and call the command again"
            )
        return rates

    plan = make_plan(config, fingerprint, budget, rates=known, measure=measure)
    if earlier is not None and earlier.budget is None and _fits(config, earlier):
        kept = {
            key: getattr(earlier, key)
            for key in ("spacing_mm", "patch_size", "strides", "kernels", "batch_size", "mirror_axes")
        }
        reasons = plan.reasons | {k: earlier.reasons.get(k, "kept from an earlier plan") for k in kept}
        kept["mirror_pairs"] = earlier.mirror_pairs
        unknown = {"prediction": None, "alternatives": (), "budget": None}
        plan = plan.model_copy(update={**kept, **unknown, "reasons": reasons, "preset": earlier.preset})
    return plan


def load_plan(folder: Path) -> Plan | None:
    """Load the plan of a prepared dataset; None if it is missing."""
    with contextlib.suppress(MedHybridError):
        return Plan.load(folder / "plan.json") if (folder / "plan.json").is_file() else None
    return None


def device_of(config: StudyConfig) -> torch.device:
    """Return the torch device of a training."""
    return choose_device(own_gpu(config.training.device))


def _memory(device: torch.device, free: int) -> int:
    """Return the bytes that a training may use on its device, with `free` bytes of free host memory."""
    on_device = free_device_memory(device)
    return int(free * MEMORY_SHARE) if on_device is None else int(on_device * GPU_SHARE)


def _rates_of(earlier: Plan | None, device: str) -> Rates | None:
    if earlier is None or earlier.budget is None or earlier.budget.rates.get("device") != device:
        return None
    return Rates.model_validate(earlier.budget.rates)


def _fits(config: StudyConfig, earlier: Plan) -> bool:
    """Return whether an earlier plan has every value that the config sets."""
    asked = config.prepare.model_dump(include=set(CHOSEN), exclude_none=True)
    by_hand = [k for k in CHOSEN if k not in asked and earlier.reasons.get(k) == f"config: prepare.{k}"]
    return not by_hand and all(getattr(earlier, key) == value for key, value in asked.items())


def plan_study(config: StudyConfig, *, rates: Rates | None = None, reporter: Reporter | None = None) -> Plan:
    """Return the plan of a study for the budget of its config, without preparing any case.

    The cases are checked first; `preprocess` uses these checks again.

    Parameters
    ----------
    rates : Rates, optional
        Speed of the machine; by default it is measured, or taken from the earlier plan of the same device.
    """
    reporter = reporter or Silent()
    folder = claim_folder(refresh_prepared(config), PREPARED, remedy="choose another folder: prepare.folder=FOLDER")
    memory = free_memory()
    with held(folder / ".lock"), Processes(config.prepare.workers or default_workers()) as processes:
        survey = survey_dataset(config, folder, processes, reporter)
        return plan_dataset(
            config, survey.fingerprint, memory=memory, earlier=load_plan(folder), rates=rates, reporter=reporter
        )


def read_rates(path: Path) -> Rates:
    """Read the rates of a `plan.json`, or of a JSON file of rates; raise `ConfigError` for another file."""
    try:
        values = json.loads(path.read_bytes())
        return Rates.model_validate((values.get("budget") or {}).get("rates", values))
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise ConfigError(
            f"{printable_path(path)} has no rates",
            expected="a plan.json with a budget, or {device, fixed_s, voxel_ns, gflop_s}",
            found=reason_of(error),
        ) from error


def plan_rows(plan: Plan) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of two tables: the chosen values with their reasons, and the rejected candidates."""
    chosen = {
        "spacing_mm": " x ".join(f"{s:g}" for s in plan.spacing_mm),
        "patch_size": " x ".join(str(n) for n in plan.patch_size),
        "strides": "; ".join("x".join(str(s) for s in stride) for stride in plan.strides),
        **({"kernels": "; ".join("x".join(str(n) for n in kernel) for kernel in plan.kernels)} if plan.kernels else {}),
        "batch_size": str(plan.batch_size),
        "preset": plan.preset,
        "mirror_axes": ", ".join(str(a) for a in plan.mirror_axes) or "none",
    }
    rows = [[key, value, plan.reasons.get(key, "")] for key, value in chosen.items()]
    rows += [
        [f"normalisation {n.channel}", n.rule, plan.reasons.get(f"normalisation.{n.channel}", "")]
        for n in plan.normalisation
    ]
    if plan.prediction is not None:
        made = plan.prediction
        rows.append(["steps", str(made.steps), f"{1 / made.seconds_per_step:.3g} a second, {made.minutes:.3g} minutes"])
        rows.append(["memory", f"{made.memory_bytes / 2**30:.1f} GiB", "predicted for the training"])
    others = [
        [
            " x ".join(f"{s:g}" for s in a.spacing_mm),
            " x ".join(str(n) for n in a.patch_size),
            a.preset,
            str(a.steps),
            f"{a.memory_bytes / 2**30:.1f}",
            a.reason,
        ]
        for a in plan.alternatives
    ]
    return rows, others
