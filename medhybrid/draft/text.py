"""Text of a study's config as YAML: each value of a draft with the reason in a comment."""

from __future__ import annotations

import json
import re
from pathlib import Path

from medhybrid.data.sides import side_pairs
from medhybrid.draft.draft import Draft, DraftLabel
from medhybrid.names import printable_path

FOR_LESIONS = {"scale": 0.3, "contrast": 0.5, "gamma": 0.5, "brightness": 0.4, "noise": 0.2}
"""Settings of augmentation for lesions in MR. They gained on gliomas, and nothing on hippocampi and hearts."""


def config_text(draft: Draft, root: Path, *, minutes: float | None = None) -> str:
    """Return the YAML of a config.

    Parameters
    ----------
    root : Path
        Value of `data.root`.
    minutes : float, optional
        Length of a training; by default the config does not set it.
    """
    lines = [
        f"# Config of the study {_plain(draft.name)}, drafted from {_plain(draft.source)}: {draft.n_cases} cases, "
        f"{draft.n_sampled} of them read.",
        *_facts(draft),
        "# Each value is explained in docs/reference/configuration.md. The plan chooses the values that are not set here.",
        f"name: {_text(draft.name)}",
        "",
        "data:",
        f"  root: {_text(printable_path(root))}",
        f"  layout: {draft.layout}",
        "  channels:",
    ]
    for channel in draft.channels:
        optional = ", optional: true" if channel.is_optional else ""
        reason = f"{channel.reason}{'; some cases lack it' if channel.is_optional else ''}"
        lines.append(
            f"    - {{name: {_text(channel.name)}, modality: {channel.modality}{optional}}}  # {_plain(reason)}"
        )
    lines.append("  labels:")
    lines += [f"    {_text(label.name)}: {_values(label)}{_about(label, draft)}" for label in draft.labels]
    if draft.ignore_value is not None:
        lines.append(
            f"  ignore_value: {draft.ignore_value}  # voxels whose label is unknown: neither trained nor scored"
        )
    if draft.are_enclosed:
        lines.append(
            "  beyond_scribbles: background  # outside the box around all scribbles; remove it if structures lie there"
        )
    if draft.rules is not None:
        lines += _rules(draft)
    if draft.ignores_others:
        lines.append("  other_segments: ignore  # segments that are not labels are background")
    if draft.rules is not None or draft.may_overlap:
        lines.append("  overlaps: last  # voxels in several masks get the last of these labels, the smallest")
    pattern = "null" if draft.subject_pattern is None else _text(draft.subject_pattern)
    lines.append(f"  subject_pattern: {pattern}  # {_plain(draft.subject_reason)}")
    if draft.splits:
        lines.append(f"  splits: {_text(draft.splits)}  # the folds of the dataset")
    if draft.is_colour and not side_pairs({label.name: 1 for label in draft.labels}):
        lines += ["", "prepare:", "  mirror_axes: [0, 1]  # colour images have no fixed top; [0] where yours do"]
    elif draft.sided:
        lines += [
            "",
            "prepare:",
            f"  mirror_axes: []  # {' and '.join(draft.sided[0])} may be two sides: see the note above",
        ]
    lines += _augmentation(draft)
    if minutes is not None:
        lines += ["", "training:", f"  max_minutes: {minutes:g}  # the plan uses this time"]
    return "\n".join(lines) + "\n"


def _augmentation(draft: Draft) -> list[str]:
    """Return the settings of augmentation for lesions."""
    if not draft.is_anywhere:
        return []
    lines = ["", "augment:  # the labels lie at other places in each case, as lesions do"]
    if all(c.modality == "MR" for c in draft.channels):
        lines += [f"  {name}: {value:g}" for name, value in FOR_LESIONS.items()]
    return [*lines, "  paste_probability: 0.5  # those of one case are pasted into another"]


def _facts(draft: Draft) -> list[str]:
    facts = []
    if draft.median_spacing_mm:
        spacing = " x ".join(f"{s:.3g}" for s in draft.median_spacing_mm)
        shape = " x ".join(str(n) for n in draft.median_shape)
        facts.append(f"# Median scan: {shape} voxels of {spacing} mm.")
    return [*facts, *(f"# Note: {_plain(r)}" for r in draft.remarks)]


def _rules(draft: Draft) -> list[str]:
    assert draft.rules is not None
    lines = ["  channel_map:"] if draft.rules.channel_map else []
    lines += [f"    {_text(c)}: {_text(p)}" for c, p in draft.rules.channel_map.items()]
    return lines


def _about(label: DraftLabel, draft: Draft) -> str:
    if not draft.n_sampled or not label.n_cases:
        return ""
    of_what = " of known voxels" if draft.ignore_value is not None else ""
    volume = f", median {label.median_ml:.3g} ml{of_what}" if label.median_ml else ""
    return f"  # in {label.n_cases} of {draft.n_sampled} sampled masks{volume}"


def _values(label: DraftLabel) -> str:
    return str(label.values[0]) if len(label.values) == 1 else json.dumps(list(label.values))


def _text(value: str) -> str:
    """Return a value as YAML text; without `$`, which would refer to other values or the environment."""
    plain = value.replace("${", "{")
    return (
        plain
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", plain) and not _is_word(plain)
        else json.dumps(plain, ensure_ascii=False)
    )


def _is_word(text: str) -> bool:
    """Return whether YAML reads a text as a truth value or null."""
    return text.lower() in ("true", "false", "yes", "no", "on", "off", "null", "none", "y", "n")


def _plain(text: str) -> str:
    """Return a text for a comment: one line, printable."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
