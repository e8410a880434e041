"""A trained model: weights, and everything needed to use them, in a folder without pickle.

`model.safetensors` holds the weights, `model.json` the network's config, the plan and the record of the training,
`card.md` a page for people.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medhybrid.config import InferenceConfig, NetworkConfig
from medhybrid.data.plan import Plan
from medhybrid.data.prepare import PreparedImage, outside_labels, prepare_image
from medhybrid.errors import DeviceError, ModelError, ScanError
from medhybrid.inference.confidence import ScoreSum, Verdict, low_confidence, score_logits
from medhybrid.inference.device import choose_device, choose_precision, free_cache, is_out_of_memory
from medhybrid.inference.model_record import ModelRecord, read_record
from medhybrid.inference.model_weights import network_with_weights
from medhybrid.inference.postprocess import apply_component_rules
from medhybrid.inference.rows import Rows, gather
from medhybrid.inference.rule_search import ComponentRules
from medhybrid.inference.scan_checks import empty_labels, reasons_to_review
from medhybrid.inference.to_grid import labels_on_scan, probabilities_on_scan
from medhybrid.inference.weights_file import write_weights
from medhybrid.inference.windows import BatchSize, Predictor, predict_slabs, predict_windows, to_tensor
from medhybrid.networks import Network, build_network
from medhybrid.networks.cast import cast_weights
from medhybrid.networks.logits import Logits
from medhybrid.scans import Scan
from medhybrid.scans.context import read_context

logger = logging.getLogger(__name__)

Context = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What a model makes of a scan.

    Attributes
    ----------
    mask : (X, Y, Z) integer ndarray
        Label map on the scan's grid.
    score : float
        How good the mask is likely to be; see `inference.confidence`.
    verdict : str
        ``confident`` or ``needs review``.
    reasons : tuple of str
        Why it needs review; empty for a confident mask.
    probabilities : (K, X, Y, Z) float32 ndarray, optional
        Calibrated, background first, then the labels in the order of the plan; before component rules.
    """

    mask: NDArray[np.generic]
    score: float
    verdict: Verdict
    probabilities: NDArray[np.float32] | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inferred:
    """What the network says of a scan, before component rules.

    Attributes
    ----------
    labels : (X, Y, Z) uint8 ndarray
        Inside values on the scan's grid.
    score, probabilities
        As of `Segmentation`.
    """

    labels: NDArray[np.uint8]
    score: float
    probabilities: NDArray[np.float32] | None = None


class Model:
    """A network with its plan, ready to make masks.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    record : ModelRecord
        Plan and origin.

    Attributes
    ----------
    runtime : str
        What `run` is made of, with its version.
    """

    def __init__(self, network: Network, record: ModelRecord, device: torch.device) -> None:
        self.record, self.device = record, device
        self.network = network.to(device).to(memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
        self.precision = choose_precision(device, record.inference.precision, is_thin=record.plan.is_thin)
        self._run: Callable[..., Logits] | None = None
        self._cast: tuple[torch.dtype, Callable[..., Logits]] | None = None
        self.runtime = f"torch {torch.__version__}"
        self.n_networks, self.batch_size = 1, BatchSize(record.inference.window_batch)

    @property
    def run(self) -> Callable[..., Logits]:
        """What computes logits: the network with its weights cast to `precision` once, or a program made of it."""
        if self._run is not None:
            return self._run
        if self._cast is None or self._cast[0] is not self.precision:
            self._cast = self.precision, cast_weights(self.network, self.precision)
        return self._cast[1]

    @run.setter
    def run(self, program: Callable[..., Logits]) -> None:
        self._run = program

    @property
    def plan(self) -> Plan:
        """The plan the model was trained by."""
        return self.record.plan

    def predict(self, scan: Scan) -> NDArray[np.generic]:
        """Label map (X, Y, Z) of a scan on the scan's own grid, with the label values of the training masks.

        Raises
        ------
        DataError
            If the scan has other channels than the model.
        ScanError
            If it is no scan.
        """
        if not isinstance(scan, Scan):
            raise ScanError(
                "a model sees scans",
                found=type(scan).__name__,
                remedy="medhybrid.read_scan(path), or medhybrid.Scan(...)",
            )
        return self.segment(scan).mask

    def logits(self, image: Tensor, context: Context | None = None) -> Tensor:
        """Logits (K, X, Y, Z) of a prepared image (C, X, Y, Z), and what is known of the fields of `plan.context`."""
        return gather(self.slabs(image, context), image.shape[1])

    def slabs(self, image: Tensor, context: Context | None = None) -> Iterator[Tensor]:
        """The same, slab by slab (K, n, Y, Z) along X, so that they are not all in memory."""
        values = torch.tensor(
            [(context or {}).get(field, torch.nan) for field in self.plan.context], device=self.device
        )
        plan, config = self.plan, self.record.inference
        settings = window_settings(plan, config, self.precision) | {"window_batch": self.batch_size}
        return predict_slabs(image, predictor_of(self.run, plan, values), **settings, device=self.device)

    def segment(self, scan: Scan, *, with_probabilities: bool = False) -> Segmentation:
        """Label map of a scan on its own grid, and how sure the model is of it; errors as `predict`."""
        inferred = self.infer(scan, self.prepare(scan), with_probabilities=with_probabilities)
        return self.conclude(scan, inferred)

    # the steps of `segment`, for those who read one scan while another is computed

    def prepare(self, scan: Scan) -> PreparedImage:
        """The scan as the network sees it; errors as `predict`."""
        return prepare_image(scan.array, scan.grid, self.plan)

    def infer(self, scan: Scan, prepared: PreparedImage, *, with_probabilities: bool = False) -> Inferred:
        """From the network's view of a scan to its labels, on the CPU where another device cannot hold the scan.

        Raises
        ------
        DeviceError
            If the device has too little memory for a single window.
        """
        for place in (self.device, torch.device("cpu")):
            try:
                return self._infer(scan, prepared, place, with_probabilities=with_probabilities)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).splitlines()[0][:200]
            free_cache(self.device)
            if place is self.device:
                logger.warning(
                    "%s has too little memory for %s; its logits are put together on the CPU", place, scan.case
                )
        raise DeviceError(
            f"{self.device} has too little memory for one window",
            found=said,
            remedy="take --device cpu, or train with a smaller prepare.patch_size",
        )

    def _infer(self, scan: Scan, prepared: PreparedImage, place: torch.device, *, with_probabilities: bool) -> Inferred:
        image, context = to_tensor(prepared.image, place), read_context(scan, self.plan.context)
        places, calibration = (prepared.grid, prepared.turned, prepared.turn), self.record.calibration
        if not with_probabilities:
            total = ScoreSum(calibration)
            labels = labels_on_scan(Rows(self.slabs(image, context), on_slab=total.add), *places)
            return Inferred(labels, total.score)
        logits = self.logits(image, context)
        probabilities = probabilities_on_scan(logits, *places, temperature=calibration.temperature)
        return Inferred(labels_on_scan(logits, *places), score_logits(logits, calibration), probabilities)

    def conclude(self, scan: Scan, inferred: Inferred) -> Segmentation:
        """Component rules, the values of the training masks, the verdict."""
        inside = apply_component_rules(
            inferred.labels,
            names=tuple(self.plan.labels),
            keep_largest=self.plan.keep_largest,
            min_component_ml=self.plan.min_component_ml,
            voxel_ml=scan.grid.voxel_ml,
        )
        reasons = [
            *reasons_to_review(scan, self.plan, self.record.seen),
            *empty_labels(inside, self.plan, self.record.seen),
            *low_confidence(inferred.score, self.record.calibration),
        ]
        verdict: Verdict = "needs review" if reasons else "confident"
        mask = outside_labels(inside, self.plan.labels)
        return Segmentation(mask, inferred.score, verdict, inferred.probabilities, tuple(reasons))


def predict_logits(
    network: Network,
    image: Tensor,
    plan: Plan,
    config: InferenceConfig,
    precision: torch.dtype,
    context: Tensor | None = None,
) -> Tensor:
    """Logits (K, X, Y, Z) of a prepared image (C, X, Y, Z), for validation: as `Model.logits`.

    Parameters
    ----------
    context : (F,) Tensor, optional
        Values of `plan.context`, NaN where absent.
    """
    return predict_windows(image, predictor_of(network, plan, context), **window_settings(plan, config, precision))


def predictor_of(run: Callable[..., Logits], plan: Plan, context: Tensor | None) -> Predictor:
    """What windows are computed by; `context` as for `predict_logits`."""

    def predictor(batch: Tensor) -> Tensor:
        known = () if context is None or not plan.context else (context.expand(len(batch), -1),)
        return run(batch, *known).full

    return predictor


def window_settings(plan: Plan, config: InferenceConfig, precision: torch.dtype) -> dict[str, Any]:
    """Settings of `predict_slabs`: the one way for validation and prediction."""
    return {
        "window": plan.patch_size,
        "n_classes": plan.n_labels + 1,
        "overlap": config.overlap,
        "window_batch": config.window_batch,
        "mirror_axes": plan.mirror_axes if config.tta_mirroring else (),
        "skip_air": config.skip_air,
        "precision": precision,
    }


def network_for(config: NetworkConfig, plan: Plan) -> Network:
    """A new network that fits a plan."""
    return build_network(
        config,
        n_channels=len(plan.channels),
        n_labels=plan.n_labels,
        strides=plan.strides,
        token_mm=plan.token_mm,
        has_optional_channels=any(n.optional for n in plan.normalisation),
        context=plan.context,
    )


def save_model(folder: Path, state: dict[str, Tensor], record: ModelRecord, card: str) -> None:
    """Write a model folder; `record.weights_sha256` is filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = write_weights(folder / "model.safetensors", state, record.about)
    record = record.model_copy(update={"weights_sha256": _sha256(weights)})
    (folder / "card.md").write_text(card)
    pending = folder / ".model.json"
    pending.write_text(record.model_dump_json(indent=1))
    pending.replace(folder / "model.json")


def load_model(
    path: str | Path, *, device: str = "auto", precision: str | None = None, mirror: bool | None = None
) -> Model:
    """Load a run folder or a model folder; `precision` and `mirror` in place of those of its `inference`.

    Raises
    ------
    ModelError
        If it is neither, is damaged, or the weights are not those of the record.
    """
    folder, record = read_record(path)
    weights = folder / "model.safetensors"
    if not weights.is_file() or _sha256(weights) != record.weights_sha256:
        raise ModelError(
            f"the weights in {folder} are not those of its record",
            expected=f"sha256 {record.weights_sha256[:12]}...",
            remedy="copy the model folder again, whole",
        )
    asked = {k: v for k, v in (("precision", precision), ("tta_mirroring", mirror)) if v is not None}
    record = record.model_copy(update={"inference": record.inference.model_copy(update=asked)})
    network = network_with_weights(lambda: network_for(record.network, record.plan), weights)
    return Model(network, record, choose_device(device))


def set_component_rules(folder: Path, rules: ComponentRules) -> bool:
    """Give the model of a run or model folder other component rules; whether it had others. Errors as `load_model`."""
    record = load_model(folder, device="cpu").record
    changes = {"keep_largest": rules.keep_largest, "min_component_ml": rules.min_component_ml}
    target = folder / "model" if (folder / "model" / "model.json").is_file() else folder
    pending = target / ".model.json"
    pending.write_text(
        record.model_copy(update={"plan": record.plan.model_copy(update=changes)}).model_dump_json(indent=1)
    )
    pending.replace(target / "model.json")
    return (record.plan.keep_largest, record.plan.min_component_ml) != (rules.keep_largest, rules.min_component_ml)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def model_card(record: ModelRecord, title: str) -> str:
    """A page for people: what the model is for, from what it was made, how good it is, what it is not for."""
    plan = record.plan
    rows: list[tuple[str, Any]] = [
        ("labels", ", ".join(f"{n} ({v})" for n, v in plan.labels.items())),
        ("channels", ", ".join(n.channel + (" (optional)" if n.optional else "") for n in plan.normalisation)),
        ("voxel spacing of the network", " x ".join(f"{s:g}" for s in plan.spacing_mm) + " mm"),
        (
            "network",
            f"{record.network.kind}, widths {record.network.widths}, {record.network.depth} Transformer blocks",
        ),
        ("validation fold", f"{record.fold}" + ("" if record.inner is None else f", inner part {record.inner}")),
        ("training data (SHA-256)", record.data_hash),
        ("medhybrid", record.medhybrid_version),
    ]
    lines = [f"# {title}", "", "A research model. Not a medical device: not for clinical decisions.", ""]
    lines += [
        "## Intended use",
        "",
        "Outlines of the labels below for research, looked at by a person who can judge them. Scans of the channels below,",
        "of patients and scanners like those it was trained on; what is left aside or doubtful is said by `medhybrid predict`.",
        "",
    ]
    lines += ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows), ""]
    lines += ["## Validation", "", "| measure | value |", "| --- | --- |"]
    lines += [f"| {k} | {v:.4f} |" for k, v in sorted(record.metrics.items())]
    lines += [
        "",
        "Measured on cases that were kept out of the training; `dice_low` and `dice_high` are the 95 % interval of the mean",
        "over them (bootstrap).",
    ]
    lines += [
        "",
        "## Limits",
        "",
        "- Nothing is known of scans unlike those above: other ages, diseases, scanners, sequences, or after treatment.",
    ]
    lines += [
        "- The score of a mask says how sure the model is, not whether it is right; it was fitted on the validation cases."
    ]
    lines += ["- Volumes of small findings are the least certain: see Dice over size among the plots of the run.", ""]
    return "\n".join(lines)
