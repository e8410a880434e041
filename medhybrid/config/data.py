"""The config of a dataset: where scans and masks are, what they mean, and how they are read."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from medhybrid.config.base import Frozen

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
"""What a study may say besides the picture. Nothing that identifies a patient is among them, and there is nothing else."""


class ChannelConfig(Frozen):
    """One input channel of the network."""

    name: str = Field(description="Name of the channel, as in tables and channel maps, for example `FLAIR`.")
    modality: Literal["MR", "CT", "other"] = Field("MR", description="Decides the rule of intensity normalisation.")
    optional: bool = Field(
        False, description="A study may lack it: it is then blank (zero), which training shows the network too."
    )


class ChannelRule(Frozen):
    """What a DICOM series must be to be a channel; every condition that is given must hold."""

    description: str | None = Field(
        None, description="Pattern (`fnmatch`) on file names, folders, series descriptions."
    )
    sequence: str | None = Field(None, description="Pattern on sequence name, scanning sequence or protocol.")
    contrast: bool | None = Field(None, description="With (true) or without (false) a contrast agent.")
    echo_time_ms: tuple[float, float] | None = Field(None, description="Least and largest echo time.")
    inversion_time_ms: tuple[float, float] | None = Field(None, description="Least and largest inversion time.")
    repetition_time_ms: tuple[float, float] | None = Field(None, description="Least and largest repetition time.")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if all(v is None for v in self.model_dump().values()):
            raise ValueError("a rule needs a condition")
        return self


class LabelCode(Frozen):
    """What a label stands for in DICOM output: SNOMED CT keywords (`Brain`), or `value, scheme, meaning`."""

    category: str | None = Field(
        None, description="Kind of property, for example `Morphologically abnormal structure`."
    )
    type: str | None = Field(None, description="The property itself, for example `Neoplasm`.")
    anatomy: str | None = Field(None, description="Anatomic region, for example `Brain`.")


MAX_LABELS = 255
"""Labels of a study: prepared masks hold one byte a voxel."""


class DataConfig(Frozen):
    """Where scans and reference masks are, and what they mean."""

    root: str | None = Field(None, description="Folder of the dataset. Relative paths start at the working directory.")
    layout: Literal["auto", "decathlon", "nnunet", "csv", "studies"] = Field(
        "auto",
        description="`decathlon` (dataset.json with a list of cases), `nnunet` (imagesTr/<case>_0000...), `csv` (a table "
        "with case, subject, mask and one column a channel), `studies` (a folder a study, files or DICOM series).",
    )
    labelled: bool = Field(
        True,
        description="False takes scans alone, for `pretrain`: masks are not read, and in a folder without a layout every scan "
        "is a case.",
    )
    channels: tuple[ChannelConfig, ...] = Field(description="Input channels, in the order the network sees them.")
    labels: dict[str, int] = Field(
        description="Label names and their values in the mask files. Values need not be consecutive; 0 is background."
    )
    label_codes: dict[str, LabelCode] = Field(
        default_factory=dict,
        description="Codes of labels in DICOM output. Usually given with the label: `labels: {lesion: {value: 1, type: Lesion, "
        "anatomy: Brain}}`. Without them the label's name decides.",
    )
    channel_map: dict[str, str | ChannelRule] = Field(
        default_factory=dict,
        description="For `studies`: channel name to a pattern (`fnmatch`) on file names, folders or series descriptions, or to "
        "conditions: `{description, sequence, contrast, echo_time_ms, inversion_time_ms, repetition_time_ms}`.",
    )
    mask_pattern: str = Field(
        "*mask*",
        description="For `studies`: the pattern of a study's mask file, SEG or RTSTRUCT; where none fits, its only SEG or "
        "RTSTRUCT is taken.",
    )
    context: tuple[ContextField, ...] = Field(
        (),
        description="What the Transformer is told besides the picture, a token each, where it is known: from the grid, DICOM "
        "headers, or `context.csv` (docs/how-to/training-options.md). Values may be absent.",
    )
    segments: dict[str, str] = Field(
        default_factory=dict,
        description="For DICOM SEG and RTSTRUCT masks: label to a pattern (`fnmatch`) on names of segments or structures, as "
        '`{tumour: "GTV*"}`. Without one a label takes those of its own name.',
    )
    other_segments: Literal["refuse", "ignore"] = Field(
        "refuse", description="Segments or structures that are no label: `refuse` the mask, or `ignore` them."
    )
    overlaps: Literal["refuse", "last"] = Field(
        "refuse",
        description="Voxels in segments of two labels: `refuse` the mask, or the `last` label of the list wins.",
    )
    subject_pattern: str | None = Field(
        None, description="Regular expression whose first group is the subject in a case name; else each case is one."
    )
    splits: str | None = Field(
        "splits.json", description="File of folds (a list of {train, validation}), relative to `root`; made if absent."
    )
    corrections: tuple[str, ...] = Field((), description="Outputs of `predict`: masks in `corrected/` are taken up.")
    n_folds: int = Field(5, ge=2, description="Number of folds, where splits are made.")
    split_seed: int = Field(0, description="Seed of the splits, where they are made.")

    @field_validator("subject_pattern")
    @classmethod
    def _pattern_is_one(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from None
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

    @model_validator(mode="after")
    def _labels_are_usable(self) -> Self:
        values = list(self.labels.values())
        if not values:
            raise ValueError("labels: at least one label besides background is needed")
        if len(set(values)) != len(values):
            raise ValueError(f"labels: two names share a value: {self.labels}")
        if unknown := set(self.label_codes) - set(self.labels):
            raise ValueError(f"label_codes: no such label: {', '.join(sorted(unknown))}")
        if unknown := set(self.segments) - set(self.labels):
            raise ValueError(f"segments: no such label: {', '.join(sorted(unknown))}")
        if len(values) > MAX_LABELS:
            raise ValueError(f"labels: at most {MAX_LABELS} are supported, found {len(values)}")
        if reserved := [n for n in self.labels if n.strip().lower() == "ignore"]:
            raise ValueError(
                f"labels: {reserved[0]!r} is not trained as a label, and ignore labels are not supported yet; take it out of "
                "labels, and its voxels out of the masks"
            )
        if any(v <= 0 for v in values):
            raise ValueError(f"labels: values must be positive (0 is background), found {self.labels}")
        names = [c.name for c in self.channels]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"channels: at least one, and each name once, found {names}")
        if all(c.optional for c in self.channels):
            raise ValueError("channels: at least one must not be optional")
        plain = {re.sub(r"[\W_]", "", n.casefold()): n for n in names}
        strange = {k: plain.get(re.sub(r"[\W_]", "", k.casefold())) for k in self.channel_map if k not in names}
        if meant := [f"{k} (meant: {n}?)" for k, n in strange.items() if n is not None]:
            raise ValueError(f"channel_map: no such channel: {', '.join(meant)}; channels are {', '.join(names)}")
        return self


class ScansConfig(Frozen):
    """How scans are read where there is a choice. By default what is not plain is refused with the measured numbers."""

    resample_irregular: bool = Field(
        False,
        description="Resample tilted or unevenly spaced DICOM slices to a regular grid; masks go back to the slices.",
    )
    keep_sheared: bool = Field(
        False, description="Keep a tilted but evenly spaced DICOM series as it is, with its sheared affine."
    )
    other_grids: Literal["same_frame", "refuse", "resample", "register"] = Field(
        "same_frame",
        description="Channels on another grid than the first: `same_frame` resamples DICOM series of one frame of reference "
        "and refuses the rest, `resample` trusts the positions of all, `register` aligns the rest rigidly.",
    )
