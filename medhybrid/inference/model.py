"""Trained models: weights and all that is needed to use them, in a folder without pickle files.

`model.safetensors` holds the weights. `model.json` holds the network's config, the plan and the record of the training.
`card.md` is the model card.
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
from medhybrid.inference.weights_file import check_heads, write_weights
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
    """Segmentation of a scan by a model, with its confidence.

    Attributes
    ----------
    mask : (X, Y, Z) integer ndarray
        Label map on the scan's grid.
    score : float
        Confidence: the Dice that the model expects for the mask, from 0 to 1; see `inference.confidence`.
    verdict : str
        ``confident`` or ``needs review``.
    reasons : tuple of str
        Why the mask needs review; empty for a confident mask.
    probabilities : (K, X, Y, Z) float32 ndarray, optional
        Calibrated probabilities before component rules: background first, then the labels in the order of the plan.
    """

    mask: NDArray[np.generic]
    score: float
    verdict: Verdict
    probabilities: NDArray[np.float32] | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inferred:
    """Output of the network for a scan, before component rules.

    Attributes
    ----------
    labels : (X, Y, Z) uint8 ndarray
        Class indices 0 to K on the scan's grid, not yet the label values of the training masks.
    score, probabilities
        See `Segmentation`.
    """

    labels: NDArray[np.uint8]
    score: float
    probabilities: NDArray[np.float32] | None = None


class Model:
    """Trained network with its plan, which predicts masks of scans.

    Parameters
    ----------
    network : Network
        Network with its weights; it is moved to `device` and set to evaluation mode.
    record : ModelRecord
        Plan, settings and origin of the model.
    device : torch.device
        Where the network is computed.

    Attributes
    ----------
    runtime : str
        Library that computes the network, with its version.
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
        """Function from images to logits: the network with weights cast to `precision`, or a program exported from it."""
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
        """Plan with which the model was trained."""
        return self.record.plan

    def predict(self, scan: Scan) -> NDArray[np.generic]:
        """Predict the label map (X, Y, Z) of a scan on the scan's own grid, with the label values of the training masks.

        Raises
        ------
        DataError
            If the channels of the scan differ from those of the model.
        ScanError
            If the argument is not a `Scan`.
        """
        if not isinstance(scan, Scan):
            raise ScanError(
                "the model cannot predict this argument",
                expected="a medhybrid.Scan",
                found=type(scan).__name__,
                remedy="create one with medhybrid.read_scan(path) or medhybrid.Scan(...)",
            )
        return self.segment(scan).mask

    def logits(self, image: Tensor, context: Context | None = None) -> Tensor:
        """Return the logits (K, X, Y, Z) of a prepared image (C, X, Y, Z).

        Parameters
        ----------
        context : mapping, optional
            Known values of the fields of `plan.context`; the others are NaN for the network.
        """
        return gather(self.slabs(image, context), image.shape[1])

    def slabs(self, image: Tensor, context: Context | None = None) -> Iterator[Tensor]:
        """Yield the logits as slabs (K, n, Y, Z) along X, so that they are not all in memory; see `logits`."""
        values = torch.tensor(
            [(context or {}).get(field, torch.nan) for field in self.plan.context], device=self.device
        )
        plan, config = self.plan, self.record.inference
        settings = window_settings(plan, config, self.precision) | {"window_batch": self.batch_size}
        return predict_slabs(image, predictor_of(self.run, plan, values), **settings, device=self.device)

    def segment(self, scan: Scan, *, with_probabilities: bool = False) -> Segmentation:
        """Predict the label map of a scan on its own grid, with the model's confidence; raises the errors of `predict`."""
        inferred = self.infer(scan, self.prepare(scan), with_probabilities=with_probabilities)
        return self.conclude(scan, inferred)

    # the steps of `segment`, separate so that one scan can be read while another is computed

    def prepare(self, scan: Scan) -> PreparedImage:
        """Resample and normalise a scan for the network; raises the errors of `predict`."""
        return prepare_image(scan.array, scan.grid, self.plan)

    def infer(self, scan: Scan, prepared: PreparedImage, *, with_probabilities: bool = False) -> Inferred:
        """Run the network on a prepared scan.

        If the device has too little memory for the scan, its logits are collected on the CPU.

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
                logger.warning("%s has too little memory for %s; its logits are collected on the CPU", place, scan.case)
        raise DeviceError(
            f"{self.device} has too little memory for one window",
            found=said,
            remedy="use --device cpu, or train with a smaller prepare.patch_size",
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
        """Apply the component rules, map to the label values of the training masks, and decide the verdict."""
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
    """Return the logits (K, X, Y, Z) of a prepared image (C, X, Y, Z) during training, computed as by `Model.logits`.

    Parameters
    ----------
    context : (F,) Tensor, optional
        Values of `plan.context`, NaN where absent.
    """
    return predict_windows(image, predictor_of(network, plan, context), **window_settings(plan, config, precision))


def predictor_of(run: Callable[..., Logits], plan: Plan, context: Tensor | None) -> Predictor:
    """Return the function that computes the logits of a batch of windows; `context` as in `predict_logits`."""

    def predictor(batch: Tensor) -> Tensor:
        known = () if context is None or not plan.context else (context.expand(len(batch), -1),)
        return run(batch, *known).full

    return predictor


def window_settings(plan: Plan, config: InferenceConfig, precision: torch.dtype) -> dict[str, Any]:
    """Return the settings of `predict_slabs`, which are the same for validation and prediction."""
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
    """Build a new network with the channels, labels and strides of a plan."""
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
    """Write a model folder, with the hash of the weights as `record.weights_sha256`."""
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
    """Load the model of a run folder or a model folder.

    Parameters
    ----------
    precision, mirror : optional
        Used instead of `precision` and `tta_mirroring` of the model's inference settings.

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
    asked = {k: v for k, v in (("precision", precision), ("tta_mirroring", mirror)) if v is not None}
    record = record.model_copy(update={"inference": record.inference.model_copy(update=asked)})
    network = network_with_weights(lambda: network_for(record.network, record.plan), weights)
    return Model(network, record, choose_device(device))


def set_component_rules(folder: Path, rules: ComponentRules) -> bool:
    """Set the component rules of the model in a run or model folder; return whether they changed.

    Raises the errors of `load_model`.
    """
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
    """Return the model card as Markdown: intended use, training data, validation, limits."""
    plan = record.plan
    rows: list[tuple[str, Any]] = [
        ("labels", ", ".join(f"{n} ({v})" for n, v in plan.labels.items())),
        ("channels", ", ".join(n.channel + (" (optional)" if n.optional else "") for n in plan.normalisation)),
        ("voxel spacing of the network", " x ".join(f"{s:g}" for s in plan.spacing_mm) + " mm"),
        (
            "network",
            f"{record.network.kind}, widths {record.network.widths}, {record.network.depth} Transformer blocks",
        ),
        ("validation fold", f"{record.fold}" + ("" if record.inner is None else f", inner split {record.inner}")),
        ("training data (SHA-256)", record.data_hash),
        ("medhybrid", record.medhybrid_version),
    ]
    lines = [f"# {title}", "", "A research model. Not a medical device: not for clinical decisions.", ""]
    lines += [
        "## Intended use",
        "",
        "Segmentation of the labels below for research, with every mask reviewed by a qualified reader. For scans with the",
        "channels below, of patients and scanners like those of the training. `medhybrid predict` lists skipped files, and",
        "masks that need review.",
        "",
    ]
    lines += ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows), ""]
    lines += ["## Validation", "", "| measure | value |", "| --- | --- |"]
    lines += [f"| {k} | {v:.4f} |" for k, v in sorted(record.metrics.items())]
    lines += [
        "",
        "Measured on validation cases, which were not used for training; `dice_low` and `dice_high` are the 95 % interval of",
        "their mean (bootstrap).",
    ]
    lines += [
        "",
        "## Limits",
        "",
        "- Not validated on scans unlike the training scans: other ages, diseases, scanners, sequences, or after treatment.",
    ]
    lines += [
        "- The score of a mask is the model's confidence, not its accuracy; it was calibrated on the validation cases."
    ]
    lines += ["- Volumes of small findings are the least reliable: see the plot of Dice over size in the run.", ""]
    return "\n".join(lines)
