"""`medhybrid import nnunet`: a trained model of nnU-Net version 2 as a model folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from medhybrid.config import InferenceConfig
from medhybrid.config.models import ALL_CASES
from medhybrid.config.unet import UNetConfig
from medhybrid.errors import ModelError
from medhybrid.inference.model_folder import model_card, save_model
from medhybrid.inference.model_record import ModelRecord
from medhybrid.inference.nnunet.checkpoint import Checkpoint, read_checkpoint
from medhybrid.inference.nnunet.plans import (
    configurations_of,
    explain_value_error,
    plan_of,
    read_plans,
    rules_of,
    unet_of,
)
from medhybrid.inference.record_bounds import refuse_absurd
from medhybrid.inference.weights_file import UNKNOWN
from medhybrid.names import printable_path
from medhybrid.networks.unet import FoldUNets, permuted
from medhybrid.owned import FolderKind, claim_folder
from medhybrid.progress import Reporter, Silent
from medhybrid.version import __version__

MODEL = FolderKind("import", {"model.json": (), "model.safetensors": (), "card.md": ()})
"""Folder of an imported model."""

FOLD = re.compile(r"fold_(\d+|all)")

SECOND_NAME = re.compile(r"(^|\.)all_modules\.|^decoder\.encoder\.")
"""Further names of nnU-Net's layers. Their numbers depend on layers without weights, such as dropout."""

MAX_OUTPUTS = 256
"""Masks have 8 bits inside."""

NO_DATA = "unknown"
"""Hash of training data that is not known."""


def import_nnunet(
    results: str | Path,
    *,
    out: str | Path,
    folds: Sequence[str] = (),
    checkpoint: Literal["final", "best"] = "final",
    orientation: Literal["auto", "stored", "RAS"] = "auto",
    reporter: Reporter | None = None,
) -> Path:
    """Import a trained model of nnU-Net version 2.

    Parameters
    ----------
    results : path
        Folder with `plans.json`, `dataset.json` and `fold_0`, such as nnUNetTrainer__nnUNetPlans__3d_fullres, or the folder of
        the dataset above it, if it has one such folder.
    out : path
        Model folder to write.
    folds : sequence of str
        Folds whose logits are averaged; by default all that are there, without `all` if there are others.
    checkpoint : str
        `final`, or `best` for `checkpoint_best.pth`.
    orientation : str
        `stored` leaves the axes as they are in the file, as nnU-Net does; `RAS` turns them to RAS, for a model whose training
        images were stored so. `auto` takes that of nnU-Net's reader in the plans.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    ModelError
        If a file is missing, damaged or holds code, or the model is not one of nnU-Net's own networks and steps.
    ConfigError
        If the package `dynamic-network-architectures` is not installed.
    OutputError
        If `out` has files that are not of an import.
    """
    reporter = reporter or Silent()
    if checkpoint not in ("final", "best") or orientation not in ("auto", "stored", "RAS"):
        raise ModelError(
            "invalid option of the import", expected="checkpoint final or best; orientation auto, stored or RAS"
        )
    folder = _model_folder(Path(results))
    try:
        network, record = _read(folder, folds, checkpoint, orientation)
        refuse_absurd(record, printable_path(folder))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{printable_path(folder)}: plans.json or dataset.json has an unexpected value",
            expected="the files as nnU-Net writes them",
            found=explain_value_error(error),
            remedy="copy the model folder again",
        ) from error
    place = claim_folder(Path(out), MODEL, remedy="choose another folder for --out")
    plan, rules = record.plan, record.nnunet
    assert rules is not None
    save_model(place, network.state_dict(), record, model_card(record, f"{plan.study}, imported from nnU-Net"))
    reporter.message(
        f"{printable_path(place)}: {rules.configuration} of {plan.study}, {len(rules.folds)} fold(s), "
        f"labels {', '.join(plan.structures)}"
    )
    return place


def _read(folder: Path, folds: Sequence[str], checkpoint: str, orientation: str) -> tuple[FoldUNets, ModelRecord]:
    """Return the networks of a model with their weights, and its record; raises `ModelError`."""
    chosen = _folds(folder, folds, f"checkpoint_{checkpoint}.pth")
    read = {fold: read_checkpoint(folder / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth") for fold in chosen}
    first = read[chosen[0]]
    plans = read_plans(folder, first.configuration or _named_configuration(folder))
    has_batch_norm = any(name.endswith("running_mean") for name in first.weights)
    outputs = _n_outputs(first, folder)
    if outputs > MAX_OUTPUTS:
        raise ModelError(
            f"{printable_path(folder)}: the model has more labels than a mask can hold",
            expected=f"at most {MAX_OUTPUTS - 1} labels",
            found=f"{outputs} outputs of the network",
        )
    unet = unet_of(plans, n_outputs=outputs, n_folds=len(chosen), has_batch_norm=has_batch_norm)
    plan, regions = plan_of(plans, unet, first.mirror_axes)
    expected = len(regions) or plan.n_labels + 1
    if outputs != expected:
        raise ModelError(
            f"{printable_path(folder)}: the weights do not fit dataset.json",
            expected=f"{expected} outputs for its labels",
            found=str(outputs),
            remedy="use the dataset.json with which the model was trained",
        )
    rules = rules_of(plans, trainer=first.trainer, folds=chosen, regions=regions, orientation=orientation)
    network = FoldUNets(unet)
    for fold, part in zip(chosen, network.folds, strict=True):
        _load(part, permuted(read[fold].weights, plans.axes), unet, folder, fold)
    record = ModelRecord(
        medhybrid_version=__version__,
        network=unet,
        inference=InferenceConfig(skip_air=False, tta_mirroring=bool(first.mirror_axes)),
        channel_map={},
        plan=plan,
        fold=ALL_CASES,
        data_hash=NO_DATA,
        training_images=(UNKNOWN,),
        weights_sha256="",
        metrics={},
        nnunet=rules,
    )
    return network, record


def _model_folder(given: Path) -> Path:
    """Return the folder with `plans.json`: the given one, or the only one below it."""
    if not given.is_dir():
        is_file = given.exists()
        raise ModelError(
            f"{printable_path(given)} is not a folder" if is_file else f"{printable_path(given)} does not exist",
            expected="the folder of a trained model" if is_file else "",
            remedy="unpack an archive, and give the folder with plans.json" if is_file else "check the path",
        )
    if (given / "plans.pkl").is_file():
        raise ModelError(
            f"{printable_path(given)} is a model of nnU-Net version 1, which cannot be imported",
            expected="a model of version 2, with plans.json",
        )
    if (given / "plans.json").is_file():
        return given
    found = sorted(p.parent for p in given.glob("*/plans.json") if any(p.parent.glob("fold_*")))
    if len(found) == 1:
        return found[0]
    raise ModelError(
        f"{printable_path(given)} has no plans.json" if not found else f"{printable_path(given)} has several models",
        expected="a folder with plans.json, dataset.json and fold_0, such as nnUNetTrainer__nnUNetPlans__3d_fullres",
        found=", ".join(printable_path(p.name) for p in found[:5]),
        remedy="give one of them" if found else "give the folder of a trained configuration below nnUNet_results",
    )


def _folds(folder: Path, wanted: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the folds to import: the wanted ones, or all with a checkpoint."""
    there = {m[1] for p in folder.iterdir() if (m := FOLD.fullmatch(p.name)) and (p / name).is_file()}
    numbers = sorted((f for f in there if f != ALL_CASES), key=int)
    if missing := [f for f in wanted if f not in there]:
        raise ModelError(
            f"{printable_path(folder)} has no {name} of fold {', '.join(missing)}",
            expected=f"folds {', '.join([*numbers, *sorted(there - set(numbers))]) or 'none'}",
            remedy="choose other folds, or another checkpoint (final or best)",
        )
    chosen = tuple(dict.fromkeys(wanted)) or tuple(numbers) or tuple(there)
    if not chosen:
        raise ModelError(
            f"{printable_path(folder)} has no fold with {name}",
            expected=f"fold_0/{name}",
            found=", ".join(sorted(p.name for p in folder.iterdir())[:8]),
            remedy="finish the training of nnU-Net, or import checkpoint best",
        )
    return chosen


def _named_configuration(folder: Path) -> str:
    """Return the configuration in a folder's name, TRAINER__PLANS__CONFIGURATION; raises `ModelError`."""
    name = folder.name.rpartition("__")[2]
    known = configurations_of(folder) if (folder / "plans.json").is_file() else ()
    if name not in known:
        raise ModelError(
            f"{printable_path(folder)}: the configuration of the model is not known",
            expected=f"a folder whose name ends in __ and one of {', '.join(known)}",
            found=printable_path(folder.name),
        )
    return name


def _n_outputs(checkpoint: Checkpoint, folder: Path) -> int:
    """Return the number of logits of a network, by its last layer."""
    layers = sorted(
        (name for name in checkpoint.weights if re.fullmatch(r"decoder\.seg_layers\.\d+\.weight", name)),
        key=lambda name: int(name.split(".")[2]),
    )
    if not layers:
        raise ModelError(
            f"{printable_path(folder)}: the weights are not those of a U-Net of nnU-Net",
            expected="decoder.seg_layers",
            found=", ".join(list(checkpoint.weights)[:3]),
        )
    return len(checkpoint.weights[layers[-1]])


def _load(
    network: torch.nn.Module, weights: dict[str, torch.Tensor], unet: UNetConfig, folder: Path, fold: str
) -> None:
    """Load the weights of a fold; raises `ModelError` if they do not fit the architecture."""
    names = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    own = {name: tensor for name, tensor in weights.items() if not SECOND_NAME.search(name)}
    try:
        if differing := sorted(names ^ set(own)):
            raise RuntimeError(f"{len(differing)} tensors differ, for example {differing[0]}")
        network.load_state_dict(own, strict=False)  # which still compares the shapes
    except RuntimeError as error:
        raise ModelError(
            f"{printable_path(folder)}: the weights of fold {fold} do not fit the network in plans.json",
            expected=f"{unet.kind}, {unet.channels} channels, widths {', '.join(map(str, unet.widths))}",
            found=" ".join(str(error).split())[:300],
            remedy="use the plans.json and dataset.json with which the model was trained",
        ) from error
    if not all(bool(torch.isfinite(t).all()) for t in network.state_dict().values() if t.is_floating_point()):
        raise ModelError(f"{printable_path(folder)}: the weights of fold {fold} hold NaN or infinite values")
