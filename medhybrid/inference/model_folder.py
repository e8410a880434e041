"""Model folders: weights and all that is needed to use them, without pickle files.

`model.safetensors` holds the weights. `model.json` holds the network's config, the plan and the record of the training.
`card.md` is the model card.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from medhybrid.config.models import ALL_CASES
from medhybrid.config.unet import UNetConfig
from medhybrid.errors import ModelError
from medhybrid.inference.confidence import NOT_CALIBRATED
from medhybrid.inference.device import choose_device
from medhybrid.inference.model import Model
from medhybrid.inference.model_record import ModelRecord, read_record
from medhybrid.inference.model_weights import network_with_weights
from medhybrid.inference.network import network_for
from medhybrid.inference.nnunet.model import NnUNetModel
from medhybrid.inference.rule_search import ComponentRules
from medhybrid.inference.weights_file import check_heads, write_weights


def save_model(folder: Path, state: dict[str, Tensor], record: ModelRecord, card: str) -> None:
    """Write a model folder, with the hash of the weights as `record.weights_sha256`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = write_weights(folder / "model.safetensors", state, record.about)
    record = record.model_copy(update={"weights_sha256": _sha256(weights)})
    (folder / "card.md").write_text(card)
    pending = folder / ".model.json"
    pending.write_text(record.model_dump_json(indent=1))
    pending.replace(folder / "model.json")


def load_model_folder(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    mirror: bool | None = None,
    focus: bool | None = None,
) -> Model:
    """Load the model of a run folder or a model folder.

    Parameters
    ----------
    precision, mirror, focus : optional
        Used instead of `precision`, `tta_mirroring` and `focus` of the model's inference settings.

    Raises
    ------
    ModelError
        If the folder has no model or a damaged one, or its weights are not those of its record.
    """
    folder, record = read_record(path)
    weights = folder / "model.safetensors"
    if not weights.is_file() or _sha256(weights) != record.weights_sha256:
        raise ModelError(
            f"the weights in {folder} are not those of its record",
            expected=f"sha256 {record.weights_sha256[:12]}...",
            remedy="copy the whole model folder again",
        )
    check_heads(weights, record.network.heads)
    asked = {k: v for k, v in (("precision", precision), ("tta_mirroring", mirror), ("focus", focus)) if v is not None}
    record = record.model_copy(update={"inference": record.inference.model_copy(update=asked)})
    network = network_with_weights(lambda: network_for(record.network, record.plan), weights)
    kind = Model if record.nnunet is None else NnUNetModel
    return kind(network, record, choose_device(device))


def set_component_rules(folder: Path, rules: ComponentRules) -> bool:
    """Set the component rules of the model in a run or model folder; return whether they changed.

    Raises the errors of `load_model_folder`.
    """
    record = load_model_folder(folder, device="cpu").record
    changes = {"keep_largest": rules.keep_largest, "min_component_ml": rules.min_component_ml}
    target = folder / "model" if (folder / "model" / "model.json").is_file() else folder
    pending = target / ".model.json"
    pending.write_text(
        record.model_copy(update={"plan": record.plan.model_copy(update=changes)}).model_dump_json(indent=1)
    )
    pending.replace(target / "model.json")
    return (record.plan.keep_largest, record.plan.min_component_ml) != (rules.keep_largest, rules.min_component_ml)


def model_card(record: ModelRecord, title: str, *, verdict: Sequence[str] = ()) -> str:
    """Return the model card as Markdown: intended use, training data, validation, limits.

    Parameters
    ----------
    verdict : sequence of str
        Why the model is not good enough.
    """
    plan = record.plan
    rows: list[tuple[str, Any]] = [
        ("labels", ", ".join(f"{n} ({v})" for n, v in plan.labels.items())),
        ("channels", ", ".join(n.channel + (" (optional)" if n.optional else "") for n in plan.normalisation)),
        ("voxel spacing of the network", " x ".join(f"{s:g}" for s in plan.spacing_mm) + " mm"),
        ("network", _network_of(record)),
        ("validation fold", _fold_of(record)),
        ("training data (SHA-256)", record.data_hash),
        ("medhybrid", record.medhybrid_version),
    ]
    if plan.regions:
        regions = (f"{n} ({', '.join(map(str, plan.values_of(c)))})" for n, c in plan.regions.items())
        rows.insert(1, ("regions", "; ".join(regions)))
    lines = [f"# {title}", "", "A research model. Not a medical device: not for clinical decisions.", ""]
    lines += ["## Verdict", "", *verdict, ""] if verdict else []
    lines += [
        "## Intended use",
        "",
        "Segmentation of the labels below for research, with every mask reviewed by a qualified reader. For scans with the",
        "channels below, of patients and scanners like those of the training. `medhybrid predict` lists skipped files, and",
        "masks that need review.",
        "",
    ]
    lines += ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows), ""]
    lines += _validation_lines(record)
    lines += [
        "",
        "## Limits",
        "",
        "- Not validated on scans unlike the training scans: other ages, diseases, scanners, sequences, or after treatment.",
    ]
    if record.calibration == NOT_CALIBRATED:
        lines += ["- The score of a mask is **uncalibrated**, since the training failed: every mask needs review."]
    else:
        calibrated = "it was calibrated on the validation cases"
        if not record.calibration.is_fitted:
            calibrated = "it is **uncalibrated**, since no validation cases fitted it"
        lines += [f"- The score of a mask is the model's confidence, not its accuracy; {calibrated}."]
    lines += ["- Volumes of small findings are the least reliable: see the plot of Dice over size in the run.", ""]
    return "\n".join(lines)


def _network_of(record: ModelRecord) -> str:
    network = record.network
    if isinstance(network, UNetConfig):
        rules = record.nnunet
        of = f", {rules.configuration}, trainer {rules.trainer}" if rules else ""
        return f"{network.kind} of nnU-Net{of}, widths {network.widths}, {network.n_folds} fold(s) averaged"
    return f"{network.kind}, widths {network.widths}, {network.depth} Transformer blocks"


def _fold_of(record: ModelRecord) -> str:
    if record.nnunet is not None:
        return f"of nnU-Net: {', '.join(record.nnunet.folds)}"
    if record.fold == ALL_CASES:
        return "none: trained on every case"
    return f"{record.fold}" + ("" if record.inner_fold is None else f", inner split {record.inner_fold}")


def _validation_lines(record: ModelRecord) -> list[str]:
    """Return the section of the model card with the scores, or with the reason for their absence."""
    if record.nnunet is not None:
        return [
            "## Validation",
            "",
            "Not known: the model was imported from nnU-Net. Its training data are not known either: medhybrid does not",
            "recognise scans that trained it. Evaluate it only on scans that nnU-Net did not train on.",
        ]
    if record.fold == ALL_CASES:
        return [
            "## Validation",
            "",
            "None: every case of the dataset was used for training (`training.fold: all`). The accuracy of a cross-validation",
            "with the same settings is the best estimate of this model's accuracy.",
        ]
    on_known = [
        "",
        "Only some voxels of the references have a known label (`labelled_share`). Dice is that of these voxels, and says",
        "little about whole masks.",
    ]
    return [
        *("## Validation", "", "| measure | value |", "| --- | --- |"),
        *(f"| {k} | {v:.4f} |" for k, v in sorted(record.metrics.items())),
        "",
        "Measured on validation cases, which were not used for training; `dice_low` and `dice_high` are the 95 % interval of",
        "their mean (bootstrap).",
        *(on_known if "val/labelled_share" in record.metrics else []),
    ]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
