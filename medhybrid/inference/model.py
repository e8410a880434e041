"""Trained models: prediction of the masks of scans."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medhybrid.data.plan import Plan
from medhybrid.data.prepare import PreparedImage, network_grid, outside_labels, prepare_image
from medhybrid.errors import ScanError
from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.inference.confidence import ScoreSum, Verdict, low_confidence, score_logits
from medhybrid.inference.device_memory import on_device_or_cpu
from medhybrid.inference.focus import Focus
from medhybrid.inference.memory import ACTIVATIONS, collected_bytes
from medhybrid.inference.model_record import ModelRecord
from medhybrid.inference.network import predictor_of, window_settings, without_overflow
from medhybrid.inference.postprocess import apply_component_rules
from medhybrid.inference.precision import Precision
from medhybrid.inference.rows import Rows, gather
from medhybrid.inference.scan_checks import empty_labels, reasons_to_review
from medhybrid.inference.self_check import checked_precision
from medhybrid.inference.to_grid import labels_on_scan, probabilities_on_scan
from medhybrid.inference.windows import BatchSize, predict_slabs, to_tensor
from medhybrid.networks import Network
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
        Confidence: the Dice that the model expects for the mask, from 0 to 1; see `docs/explanation/confidence.md`.
    verdict : str
        ``confident`` or ``needs review``.
    reasons : tuple of str
        Why the mask needs review; empty for a confident mask.
    share : float
        Share of the volume that was looked at closely; see `inference.focus`.
    probabilities : (K, X, Y, Z) float32 ndarray, optional
        Calibrated probabilities before component rules: background first, then the labels in the order of the plan.
    """

    mask: NDArray[np.generic]
    score: float
    verdict: Verdict
    probabilities: NDArray[np.float32] | None = None
    reasons: tuple[str, ...] = ()
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Inferred:
    """Output of the network for a scan, before component rules.

    Attributes
    ----------
    labels : (X, Y, Z) uint8 ndarray
        Class indices 0 to K on the scan's grid, not yet the label values of the training masks.
    score, probabilities
        See `Segmentation`.
    share : float
        Share of the network's grid that was computed with overlap; see `focus`.
    """

    labels: NDArray[np.uint8]
    score: float
    probabilities: NDArray[np.float32] | None = None
    share: float = 1.0


@runtime_checkable
class Segmenter(Protocol):
    """Predictor of the masks of scans: a `Model`, or an `Ensemble` of models.

    A class needs the attributes, and `slabs`, which computes the logits. The other methods follow from them.

    Attributes
    ----------
    record : ModelRecord
        Plan, settings and origin.
    runtime : str
        Library that computes the networks, with its version.
    n_networks : int
        Number of networks whose logits are in memory at the same time.
    """

    record: ModelRecord
    device: torch.device
    precision: Precision
    runtime: str
    n_networks: int

    @abstractmethod
    def slabs(self, image: Tensor, context: Context | None = None) -> Iterator[Tensor]:
        """Yield the logits as slabs (K, n, Y, Z) along X, so that they are not all in memory; see `logits`."""

    @property
    def plan(self) -> Plan:
        """Plan with which the model was trained."""
        return self.record.plan

    @property
    def is_calibrated(self) -> bool:
        """Whether validation cases calibrated the confidence; otherwise scores and verdicts are estimates by default values."""
        return self.record.calibration.is_fitted

    @property
    def share(self) -> float:
        """Share of the last scan, on the network's grid, that was computed with overlap."""
        return 1.0

    @property
    def activations(self) -> int:
        """Bytes of activations for each voxel of a window, for the estimate of the memory."""
        return ACTIVATIONS

    def network_shape(self, scan: Scan) -> tuple[int, int, int]:
        """Return the shape of a scan on the network's grid."""
        return network_grid(turn_to_ras(scan.affine).grid(scan.grid), self.plan).shape

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

    def segment(self, scan: Scan, *, with_probabilities: bool = False) -> Segmentation:
        """Predict the label map of a scan on its own grid, with the model's confidence; raises the errors of `predict`."""
        inferred = self.infer(scan, self.prepare(scan), with_probabilities=with_probabilities)
        return self.conclude(scan, inferred)

    # the steps of `segment`, separate so that one scan can be read while another is computed

    def prepare(self, scan: Scan) -> PreparedImage:
        """Resample and normalise a scan for the network; raises the errors of `predict`."""
        return prepare_image(scan.array, scan.grid, self.plan)

    def grid_of(self, scan: Scan) -> Grid:
        """Return the grid of a scan with the voxel size that the model takes it to have."""
        return scan.grid

    def infer(self, scan: Scan, prepared: PreparedImage, *, with_probabilities: bool = False) -> Inferred:
        """Run the network on a prepared scan.

        If the device has too little memory for the scan, its logits are collected on the CPU.

        Raises
        ------
        DeviceError
            If the device has too little memory for a single window.
        """

        def compute(place: torch.device) -> Inferred:
            return self._infer(scan, prepared, place, with_probabilities=with_probabilities)

        rows = None if with_probabilities else self.plan.patch_size[0]
        needed = self.n_networks * collected_bytes(prepared.image.shape, self.plan, rows)
        return on_device_or_cpu(self.device, compute, needed=needed, of=scan.case)

    def _infer(self, scan: Scan, prepared: PreparedImage, place: torch.device, *, with_probabilities: bool) -> Inferred:
        image, context = to_tensor(prepared.image, place), read_context(scan, self.plan.context)
        places, calibration = (prepared.grid, prepared.turned, prepared.turn), self.record.calibration
        if not with_probabilities:
            total = ScoreSum(calibration)
            labels = labels_on_scan(Rows(self.slabs(image, context), on_slab=total.add), *places)
            return Inferred(labels, total.score, share=self.share)
        logits = self.logits(image, context)
        probabilities = probabilities_on_scan(logits, *places, temperature=calibration.temperature)
        score = score_logits(logits, calibration)
        return Inferred(labels_on_scan(logits, *places), score, probabilities, self.share)

    def conclude(self, scan: Scan, inferred: Inferred) -> Segmentation:
        """Apply the component rules, map to the label values of the training masks, and decide the verdict."""
        inside = apply_component_rules(
            inferred.labels,
            structures=self.plan.structures,
            keep_largest=self.plan.keep_largest,
            min_component_ml=self.plan.min_component_ml,
            voxel_ml=scan.grid.voxel_ml,
        )
        reasons = [
            *reasons_to_review(scan, self.plan, self.record.seen, grid=self.grid_of(scan)),
            *empty_labels(inside, self.plan, self.record.seen),
            *low_confidence(inferred.score, self.record.calibration),
        ]
        verdict: Verdict = "needs review" if reasons else "confident"
        mask = outside_labels(inside, self.plan.labels)
        return Segmentation(mask, inferred.score, verdict, inferred.probabilities, tuple(reasons), inferred.share)


class Model(Segmenter):
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
        self.precision = checked_precision(
            device, record.inference.precision, patch_size=record.plan.patch_size, is_thin=record.plan.is_thin
        )
        self._run: Callable[..., Logits] | None = None
        self._cast: tuple[Precision, Callable[..., Logits]] | None = None
        self.runtime = f"torch {torch.__version__}"
        self.focus: Focus | None = None  # of the scan that was computed last
        self.n_networks, self.batch_size = 1, BatchSize(record.inference.window_batch)

    @property
    def share(self) -> float:
        """Share of the last scan, on the network's grid, that was computed with overlap."""
        return 1.0 if self.focus is None else self.focus.share

    @property
    def run(self) -> Callable[..., Logits]:
        """Function from images to logits: the network with weights cast to `precision`, or a program exported from it."""
        if self._run is not None:
            return self._run
        if self._cast is None or self._cast[0] is not self.precision:
            run: Callable[..., Logits] = cast_weights(self.network, self.precision.dtype)
            self._cast = (
                self.precision,
                without_overflow(run, self.network) if self.precision is Precision.FP16 else run,
            )
        return self._cast[1]

    @run.setter
    def run(self, program: Callable[..., Logits]) -> None:
        self._run = program

    def slabs(self, image: Tensor, context: Context | None = None) -> Iterator[Tensor]:
        """Yield the logits as slabs (K, n, Y, Z) along X, so that they are not all in memory; see `logits`."""
        values = torch.tensor(
            [(context or {}).get(field, torch.nan) for field in self.plan.context], device=self.device
        )
        plan, config = self.plan, self.record.inference
        settings = window_settings(plan, config, self.precision) | {"window_batch": self.batch_size}
        self.focus = settings["focus"]
        return predict_slabs(image, predictor_of(self.run, plan, values), **settings, device=self.device)
