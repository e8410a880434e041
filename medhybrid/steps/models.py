"""`medhybrid models`: inputs and outputs of the models in some folders, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from medhybrid.config import LabelCode
from medhybrid.data.fingerprint import SeenRange
from medhybrid.errors import DataError, MedHybridError
from medhybrid.inference.model_record import ModelRecord, read_record

FORMAT: Literal[1] = 1
"""Version of `ModelList`. A later version only adds fields, or has another number."""

DEPTHS = ("", "*/", "*/*/", "*/*/*/")
"""Folders below a given one that are searched: RUNS/STUDY/RUN/model/model.json is the deepest."""


class NeededChannel(BaseModel):
    """Channel that a model needs; an optional one may be missing in a scan."""

    model_config = ConfigDict(frozen=True)

    name: str
    optional: bool
    normalisation: str


class ListedModel(BaseModel):
    """Description of a model.

    Attributes
    ----------
    path : str
        Folder to give to `predict --model`.
    name : str
        Name of its dataset.
    labels : dict
        Label names and their values in the masks.
    regions : dict
        Region names and the values of all their voxels; empty for a model without regions.
    codes : dict
        Codes of the labels in DICOM outputs.
    spacing_mm, patch_size : (3,) tuple
        Spacing that scans are resampled to, and size of the windows in voxels, in RAS order.
    weights_bytes : int
        Size of the file of weights.
    data_sha256 : str
        Hash of the prepared data it was trained on.
    metrics : dict
        Metrics of its validation; empty if no case validated.
    seen : SeenRange, optional
        Spacing, extent and intensities of the training scans.
    card : str, optional
        Path of the model card.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    name: str
    medhybrid: str
    channels: tuple[NeededChannel, ...]
    metadata: tuple[str, ...]
    labels: dict[str, int]
    regions: dict[str, tuple[int, ...]]
    codes: dict[str, LabelCode]
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    network: str
    weights_bytes: int
    weights_sha256: str
    data_sha256: str
    fold: int | Literal["all"]
    n_steps: int | None
    is_interrupted: bool
    metrics: dict[str, float]
    seen: SeenRange | None
    card: str | None


class ModelProblem(BaseModel):
    """Folder of a model that cannot be used, with the reason."""

    model_config = ConfigDict(frozen=True)

    path: str
    reason: str


class ModelList(BaseModel):
    """Models in some folders, and those that cannot be used."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = FORMAT
    models: tuple[ListedModel, ...]
    problems: tuple[ModelProblem, ...] = ()


def models(folders: Sequence[str | Path] = ("runs",)) -> ModelList:
    """List the models in some folders; their weights are not loaded.

    Parameters
    ----------
    folders : sequence of path
        Folders of runs, run folders or model folders.

    Raises
    ------
    DataError
        If a folder does not exist.
    """
    found: list[ListedModel] = []
    problems: list[ModelProblem] = []
    for path in dict.fromkeys(p for folder in folders for p in _model_folders(Path(folder))):
        try:
            found.append(_listed(*read_record(path)))
        except (MedHybridError, OSError) as error:
            problems.append(ModelProblem(path=str(path), reason=str(error)))
    return ModelList(models=tuple(found), problems=tuple(problems))


def _model_folders(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist", expected="a folder of runs, a run folder or a model folder")
    for depth in DEPTHS:
        yield from (path.parent for path in sorted(folder.glob(f"{depth}model.json")))


def _listed(folder: Path, record: ModelRecord) -> ListedModel:
    plan, training, card = record.plan, record.training, folder / "card.md"
    return ListedModel(
        path=str(folder.parent if folder.name == "model" else folder),
        name=plan.study,
        medhybrid=record.medhybrid_version,
        channels=tuple(
            NeededChannel(name=n.channel, optional=n.optional, normalisation=n.rule) for n in plan.normalisation
        ),
        metadata=plan.context,
        labels=plan.labels,
        regions={name: plan.values_of(classes) for name, classes in plan.regions.items()},
        codes=record.label_codes,
        spacing_mm=plan.spacing_mm,
        patch_size=plan.patch_size,
        network=record.network.kind,
        weights_bytes=(folder / "model.safetensors").stat().st_size,
        weights_sha256=record.weights_sha256,
        data_sha256=record.data_hash,
        fold=record.fold,
        n_steps=training.n_steps if training else None,
        is_interrupted=bool(training and training.is_interrupted),
        metrics=record.metrics,
        seen=record.seen,
        card=str(card) if card.is_file() else None,
    )
