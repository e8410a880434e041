"""Configuration of a dataset: location of scans and masks, channels and labels, and options for reading."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from medhybrid.config.base import Frozen
from medhybrid.config.regions import classes_of

ContextField = Literal[
    "pixel_mm",
    "slice_mm",
    "field_strength_t",
    "echo_time_ms",
    "repetition_time_ms",
    "inversion_time_ms",
    "contrast_agent",
    "age_years",
    "sex",
]
"""Metadata that can condition the network. None of them identifies a patient, and no other field is accepted."""


class ChannelConfig(Frozen):
    """Input channel of the network."""

    name: str = Field(description="Name of the channel, as in tables and channel maps, for example `FLAIR`.")
    modality: Literal["MR", "CT", "other"] = Field(
        "MR", description="Modality; it decides the intensity normalisation."
    )
    optional: bool = Field(
        False,
        description="True accepts studies without this channel. A missing channel is filled with zeros, which training "
        "simulates (`augment.drop_channel_probability`).",
    )


class ChannelRule(Frozen):
    """Conditions that assign a DICOM series to a channel. All of the given conditions must hold."""

    description: str | None = Field(
        None, description="Pattern (`fnmatch`) for file names, folders and series descriptions."
    )
    sequence: str | None = Field(None, description="Pattern for sequence name, scanning sequence or protocol.")
    contrast: bool | None = Field(None, description="With (true) or without (false) a contrast agent.")
    echo_time_ms: tuple[float, float] | None = Field(None, description="Range of echo times in ms: [lowest, highest].")
    inversion_time_ms: tuple[float, float] | None = Field(
        None, description="Range of inversion times in ms: [lowest, highest]."
    )
    repetition_time_ms: tuple[float, float] | None = Field(
        None, description="Range of repetition times in ms: [lowest, highest]."
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if all(v is None for v in self.model_dump().values()):
            raise ValueError("a rule of data.channel_map needs at least one condition")
        return self


class LabelCode(Frozen):
    """Codes of a label in DICOM output, as SNOMED CT keywords (`Brain`) or as `value, scheme, meaning`."""

    category: str | None = Field(
        None, description="Category of the property, for example `Morphologically abnormal structure`."
    )
    type: str | None = Field(None, description="Type of the property, for example `Neoplasm`.")
    anatomy: str | None = Field(None, description="Anatomic region, for example `Brain`.")


MAX_LABELS = 254
"""Highest number of labels of a study: prepared masks have one byte per voxel, with 255 for voxels of unknown label."""


class DataConfig(Frozen):
    """Location of scans and reference masks, with their channels and labels."""

    root: str | None = Field(
        None, description="Folder of the dataset. Relative paths are relative to the working directory."
    )
    layout: Literal["auto", "decathlon", "nnunet", "csv", "studies"] = Field(
        "auto",
        description="Layout of the dataset: `decathlon` (dataset.json with a list of cases), `nnunet` "
        "(imagesTr/<case>_0000...), `csv` (a table with case, subject, mask and one column per channel) or `studies` (one "
        "folder per study, with files or DICOM series). `auto` detects it.",
    )
    labelled: bool = Field(
        True,
        description="False reads scans without masks, for `pretrain`. In a folder without a layout, every scan is then a case.",
    )
    channels: tuple[ChannelConfig, ...] = Field(description="Input channels, in the order of the network's input.")
    labels: dict[str, int] = Field(
        description="Label names and their values in the mask files. Values need not be consecutive; 0 is background."
    )
    regions: dict[str, tuple[int, ...]] = Field(
        default_factory=dict,
        description="Regions: structures of several label values, which may overlap and nest. Given among the labels: `labels: "
        "{whole_tumour: [1, 2, 3], core: [2, 3], enhancing: 3}`. Each is trained, scored and exported as a whole. In the label "
        "map, a later region is drawn over an earlier one.",
    )
    ignore_value: int | None = Field(
        None,
        description="Value in mask files of voxels whose label is unknown, for example in scribbles. They are neither trained "
        "nor scored.",
    )
    beyond_scribbles: Literal["unknown", "background"] = Field(
        "unknown",
        description="Label of voxels outside the box around all scribbles of a case: `background` if the scribbles of the "
        "background enclose all structures of a scan. The box is in the plane of thick slices.",
    )
    label_codes: dict[str, LabelCode] = Field(
        default_factory=dict,
        description="Codes of labels in DICOM output. Usually given with the label: `labels: {lesion: {value: 1, type: Lesion, "
        "anatomy: Brain}}`. Without them, the codes are derived from the label's name.",
    )
    channel_map: dict[str, str | ChannelRule] = Field(
        default_factory=dict,
        description="For `studies`: for each channel, a pattern (`fnmatch`) for file names, folders or series descriptions, or "
        "conditions: `{description, sequence, contrast, echo_time_ms, inversion_time_ms, repetition_time_ms}`.",
    )
    mask_pattern: str = Field(
        "*mask*",
        description="For `studies`: pattern for the name of a study's mask file, SEG or RTSTRUCT. If no file matches, the "
        "study's only SEG or RTSTRUCT is used.",
    )
    context: tuple[ContextField, ...] = Field(
        (),
        description="Metadata conditioning: values that the Transformer receives as one token each, besides the image. They "
        "come from the grid, DICOM headers or `context.csv` (docs/how-to/training-options.md). Values may be missing.",
    )
    segments: dict[str, str] = Field(
        default_factory=dict,
        description="For DICOM SEG and RTSTRUCT masks: for each label, a pattern (`fnmatch`) for names of segments or "
        'structures, for example `{tumour: "GTV*"}`. Without a pattern, a label takes the segments that have its name.',
    )
    other_segments: Literal["refuse", "ignore"] = Field(
        "refuse", description="Segments or structures without a label: `refuse` the mask, or `ignore` them."
    )
    overlaps: Literal["refuse", "last"] = Field(
        "refuse",
        description="Voxels in segments of two labels: `refuse` the mask, or assign them to the `last` label of the list.",
    )
    subject_pattern: str | None = Field(
        None,
        description="Regular expression whose first group is the subject in a case name. Null treats each case as a subject.",
    )
    splits: str | None = Field(
        "splits.json",
        description="File of folds (a list of {train, validation}), relative to `root`. If absent, folds are drawn.",
    )
    corrections: tuple[str, ...] = Field(
        (), description="Output folders of `predict`, whose masks in `corrected/` become reference masks."
    )
    n_folds: int = Field(5, ge=2, description="Number of folds, if folds are drawn.")
    split_seed: int = Field(0, description="Seed for drawing folds.")

    @field_validator("subject_pattern")
    @classmethod
    def _pattern_is_one(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{value!r} is not a valid regular expression: {error}") from None
        return value

    @model_validator(mode="before")
    @classmethod
    def _labels_may_carry_codes(cls, values: Any) -> Any:
        labels = values.get("labels") if isinstance(values, dict) else None
        if not isinstance(labels, dict) or not any(isinstance(v, dict) for v in labels.values()):
            return values
        plain, codes = {}, dict(values.get("label_codes") or {})
        for name, value in labels.items():
            plain[name] = value.get("value") if isinstance(value, dict) else value
            if isinstance(value, dict):
                codes[name] = {k: v for k, v in value.items() if k != "value"}
        return {**values, "labels": plain, "label_codes": codes}

    @model_validator(mode="before")
    @classmethod
    def _labels_may_be_regions(cls, values: Any) -> Any:
        labels = values.get("labels") if isinstance(values, dict) else None
        if not isinstance(labels, dict) or not any(isinstance(v, list | tuple) for v in labels.values()):
            return values
        regions = {n: tuple(v) if isinstance(v, list | tuple) else (v,) for n, v in labels.items()}
        if any(not v or not all(isinstance(x, int) and not isinstance(x, bool) for x in v) for v in regions.values()):
            raise ValueError(f"labels: a region needs a list of values, found {labels}")
        return {**values, "labels": classes_of(regions), "regions": regions}

    @model_validator(mode="after")
    def _labels_are_usable(self) -> Self:
        values = list(self.labels.values())
        if not values:
            raise ValueError("labels: at least one label besides background is needed")
        if len(set(values)) != len(values):
            raise ValueError(f"labels: two names have the same value: {self.labels}")
        if unknown := set(self.label_codes) - {*self.labels, *self.regions}:
            raise ValueError(f"label_codes: unknown label: {', '.join(sorted(unknown))}")
        if unknown := set(self.segments) - set(self.labels):
            raise ValueError(f"segments: unknown label: {', '.join(sorted(unknown))}")
        if len(values) > MAX_LABELS:
            raise ValueError(f"labels: at most {MAX_LABELS} are supported, found {len(values)}")
        if reserved := [n for n in self.labels if n.strip().lower() == "ignore"]:
            raise ValueError(
                f"labels: {reserved[0]!r} is not trained as a label; set ignore_value: {self.labels[reserved[0]]} instead"
            )
        if self.ignore_value is not None and self.ignore_value in (0, *values):
            raise ValueError(f"ignore_value: {self.ignore_value} is the background or a label")
        if self.regions and classes_of(self.regions) != self.labels:
            raise ValueError(
                f"regions: they have the classes {classes_of(self.regions)}, found {self.labels}; give regions among labels"
            )
        if any(v <= 0 for v in values):
            raise ValueError(f"labels: values must be positive (0 is background), found {self.labels}")
        names = [c.name for c in self.channels]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"channels: at least one is needed, and each name only once; found {names}")
        if all(c.optional for c in self.channels):
            raise ValueError("channels: all are optional; at least one must not be optional")
        plain = {re.sub(r"[\W_]", "", n.casefold()): n for n in names}
        strange = {k: plain.get(re.sub(r"[\W_]", "", k.casefold())) for k in self.channel_map if k not in names}
        if meant := [f"{k} (did you mean {n}?)" for k, n in strange.items() if n is not None]:
            raise ValueError(f"channel_map: unknown channel: {', '.join(meant)}; channels are {', '.join(names)}")
        return self


class ScansConfig(Frozen):
    """Options for reading scans. By default, a scan without a regular grid is refused, with the measured deviation."""

    resample_irregular: bool = Field(
        False,
        description="Resample tilted or unevenly spaced DICOM slices to a regular grid, and masks back to the slices.",
    )
    keep_sheared: bool = Field(
        False, description="Keep a tilted but evenly spaced DICOM series, with its sheared affine."
    )
    other_grids: Literal["same_frame", "refuse", "resample", "register"] = Field(
        "same_frame",
        description="Channels on another grid than the first: `same_frame` resamples DICOM series of the same frame of "
        "reference and refuses the others, `refuse` refuses all, `resample` resamples all by their positions, `register` "
        "aligns those of other frames rigidly.",
    )
