"""The plan of a dataset: values of the config, and the best candidate within the budget for the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medhybrid.config import StudyConfig
from medhybrid.config.regions import class_indices
from medhybrid.data.fingerprint import Fingerprint
from medhybrid.data.plan import Alternative, Plan, PlanBudget, Prediction, choose_normalisation
from medhybrid.data.sides import LEFT_RIGHT, find_sides
from medhybrid.errors import DataError
from medhybrid.networks.presets import levels_by_hand
from medhybrid.planning.budget import Budget
from medhybrid.planning.choice import Candidate, Sizes, candidates
from medhybrid.planning.geometry import ANISOTROPY_AT_STRIDE, Spacing, choose_strides
from medhybrid.planning.rates import TYPICAL, Rates

WHY_NORMALISED = {
    "zscore_foreground": "MR: units differ between scans, so each scan is scaled by its own tissue",
    "clip_and_scale": "CT: Hounsfield units are comparable, so all scans are scaled in the same way",
    "zscore": "unknown units: each scan is scaled by its own values",
}

SLOWEST, FASTEST = 0.1, 10.0
"""Machines are assumed to be within these factors of `TYPICAL`. If both give the same plan, this one is not measured."""

SHOWN = 6
"""Number of rejected candidates that the plan records."""


def make_plan(
    config: StudyConfig,
    fingerprint: Fingerprint,
    budget: Budget,
    *,
    rates: Rates | None = None,
    measure: Callable[[StudyConfig, Plan], Rates] | None = None,
) -> Plan:
    """Make the plan of a dataset.

    Parameters
    ----------
    rates : Rates, optional
        Speed of the machine, for example from an earlier plan: the same rates give the same plan.
    measure : callable, optional
        Measures the rates with a first plan, if the choice depends on them. By default, `TYPICAL` rates are used.

    Raises
    ------
    DataError
        If a value of the config does not fit the others, or nothing fits the memory.
    """
    sizes = sizes_of(config, fingerprint)
    _check_patch(config)
    if rates is None:
        slow, fast = (_best(config, sizes, budget, _scaled(TYPICAL, f)) for f in (1 / SLOWEST, 1 / FASTEST))
        rates = TYPICAL
        if measure is not None and (budget.minutes is not None) and _values(slow[0]) != _values(fast[0]):
            first = _plan(config, fingerprint, sizes, budget, None, _best(config, sizes, budget, TYPICAL))
            rates = measure(config, first)
    return _plan(config, fingerprint, sizes, budget, rates, _best(config, sizes, budget, rates))


def sizes_of(config: StudyConfig, fingerprint: Fingerprint) -> Sizes:
    """Return the sizes of a fingerprint; one of an earlier version may lack the extent of the labels."""
    return Sizes(
        spacing_mm=fingerprint.median_spacing_mm,
        extent_mm=fingerprint.median_extent_mm,
        labels_mm=fingerprint.median_labels_mm or fingerprint.median_extent_mm,
        large_mm=fingerprint.large_labels_mm,
        thickness_mm={n: t for n, t in fingerprint.thickness_mm.items() if min(t) > 0},
        n_channels=len(config.data.channels),
        n_labels=len(config.data.regions or config.data.labels),
    )


def _best(config: StudyConfig, sizes: Sizes, budget: Budget, rates: Rates) -> list[Candidate]:
    return candidates(sizes, config.network, config.prepare, budget, rates)


def _values(candidate: Candidate) -> tuple[object, ...]:
    return candidate.spacing_mm, candidate.patch_size, candidate.strides, candidate.batch_size, candidate.preset


def _scaled(rates: Rates, factor: float) -> Rates:
    return Rates(
        device=rates.device,
        fixed_s=rates.fixed_s * factor,
        voxel_ns=rates.voxel_ns * factor,
        gflop_s=rates.gflop_s * factor,
    )


def _plan(
    config: StudyConfig,
    fingerprint: Fingerprint,
    sizes: Sizes,
    budget: Budget,
    rates: Rates | None,
    found: list[Candidate],
) -> Plan:
    best, prepare = found[0], config.prepare
    if best.memory > budget.memory:
        raise DataError(
            "no plan fits the memory",
            expected=f"at most {budget.memory / 2**30:.1f} GiB",
            found=f"{best.memory / 2**30:.1f} GiB for a patch of {' x '.join(map(str, best.patch_size))}",
            remedy="set a smaller prepare.patch_size or prepare.batch_size, or use a machine with more memory",
        )
    mirror, pairs, mirror_reason = _mirroring(config, best)
    normalisation = tuple(
        choose_normalisation(c.name, c.modality, c.optional, fingerprint) for c in config.data.channels
    )
    reasons = _reasons(config, sizes, budget, best) | {"mirror_axes": mirror_reason}
    for item in normalisation:
        reasons[f"normalisation.{item.channel}"] = WHY_NORMALISED[item.rule]
    return Plan(
        study=config.name,
        spacing_mm=best.spacing_mm,
        patch_size=best.patch_size,
        strides=best.strides,
        kernels=best.kernels,
        batch_size=best.batch_size,
        normalisation=normalisation,
        labels=dict(config.data.labels),
        regions=class_indices(config.data.regions, config.data.labels),
        mirror_axes=mirror,
        mirror_pairs=pairs,
        keep_largest=prepare.keep_largest,
        min_component_ml=prepare.min_component_ml,
        blank_copied_channels=prepare.blank_copied_channels,
        context=config.data.context,
        reasons=reasons,
        preset=best.preset,
        prediction=_prediction(best, budget),
        budget=None
        if rates is None
        else PlanBudget(
            minutes=budget.minutes, steps=budget.steps, memory_bytes=budget.memory, rates=rates.model_dump()
        ),
        alternatives=_alternatives(found, budget),
    )


def _prediction(candidate: Candidate, budget: Budget) -> Prediction:
    steps = budget.steps if budget.steps is not None else int(candidate.steps)
    minutes = budget.minutes if budget.minutes is not None else candidate.seconds * steps / 60
    return Prediction(steps=steps, seconds_per_step=candidate.seconds, minutes=minutes, memory_bytes=candidate.memory)


def _alternatives(found: list[Candidate], budget: Budget) -> tuple[Alternative, ...]:
    """Return the best rejected candidate of each spacing, then of each other patch, with the reason."""
    best, chosen, seen = found[0], [], {(found[0].spacing_mm, found[0].preset)}
    for candidate in found[1:]:
        if (candidate.spacing_mm, candidate.preset) not in seen:
            seen.add((candidate.spacing_mm, candidate.preset))
            chosen.append(candidate)
    chosen += [c for c in found[1:] if c not in chosen]
    return tuple(
        Alternative(
            spacing_mm=c.spacing_mm,
            patch_size=c.patch_size,
            preset=c.preset,
            steps=int(c.steps),
            memory_bytes=c.memory,
            reason=_why_not(c, best),
        )
        for c in chosen[:SHOWN]
    )


def _why_not(other: Candidate, best: Candidate) -> str:
    """Return the term of the expected loss in which a candidate is worse than the best one."""
    term = max(other.losses, key=lambda t: other.losses[t] - best.losses[t])
    what = {
        "resolution": "too coarse for the thickness of the labels",
        "steps": f"too few steps ({other.steps:.0f} instead of {best.steps:.0f})",
        "context": "its patch covers less",
        "network": "its network is smaller",
    }[term]
    return f"{what}: expected loss of Dice {other.loss - best.loss:.3f} higher"


def _reasons(config: StudyConfig, sizes: Sizes, budget: Budget, best: Candidate) -> dict[str, str]:
    prepare, network = config.prepare, config.network
    length = f"{budget.minutes:g} minutes" if budget.minutes is not None else f"{budget.steps} steps"
    steps = f"about {best.steps:.0f} steps in {length}" if budget.minutes is not None else length
    factor = max(s / n for s, n in zip(best.spacing_mm, sizes.spacing_mm, strict=True))
    native = " x ".join(f"{s:g}" for s in sizes.spacing_mm)
    spacing = (
        f"the median spacing of the cases: {length} suffice for it"
        if factor < 1.01
        else f"coarser than the median {native} mm, for {steps}; {_suffering(sizes, best.spacing_mm)}"
    )
    return {
        "spacing_mm": "config: prepare.spacing_mm" if prepare.spacing_mm else spacing,
        "patch_size": "config: prepare.patch_size"
        if prepare.patch_size
        else f"covers {_percent(best, sizes)} of the labels' extent with a margin; {steps}",
        "strides": "each axis is halved, unless its spacing is above 2 times the finest one, or fewer than 4 tokens would "
        "be left",
        **_kernel_reason(best),
        "batch_size": "config: prepare.batch_size"
        if prepare.batch_size
        else "many small steps are better than few large ones",
        "preset": f"config: network.preset={network.preset}"
        if network.preset != "auto"
        else f"{steps} with {best.network.widths} channels; a larger network makes fewer steps",
    }


def _kernel_reason(best: Candidate) -> dict[str, str]:
    if not best.kernels:
        return {}
    if 1 in best.patch_size:
        return {"kernels": "1 along the axis with one slice: the network is two-dimensional"}
    return {"kernels": f"1 along an axis while its spacing is above {ANISOTROPY_AT_STRIDE:g} times the finest one"}


def _percent(best: Candidate, sizes: Sizes) -> str:
    target = np.minimum(np.array(sizes.target_mm), np.array(sizes.extent_mm))
    covered = np.minimum(1.0, np.array(best.patch_size) * np.array(best.spacing_mm) / target)
    return f"{100 * float(np.prod(covered)):.0f} %"


def _suffering(sizes: Sizes, spacing: Spacing) -> str:
    """Name the labels that are thinner than two voxels along an axis that was coarsened."""
    if not sizes.thickness_mm:
        return "the thickness of the labels is not known"
    thin = [
        n
        for n, thickness in sizes.thickness_mm.items()
        if any(t < 2 * s for t, s, was in zip(thickness, spacing, sizes.spacing_mm, strict=True) if s > was * 1.01)
    ]
    return f"thinner than two voxels: {', '.join(thin[:8])}" if thin else "every label is thicker than two voxels"


def _mirroring(config: StudyConfig, best: Candidate) -> tuple[tuple[int, ...], tuple[tuple[str, str], ...], str]:
    """Return the mirrored axes, the labels that are exchanged along the left-right axis, and the reason."""
    data, by_hand = config.data, config.prepare.mirror_axes
    codes = {n: " ".join(filter(None, (c.type, c.anatomy))) for n, c in data.label_codes.items()}
    sides = find_sides(list(data.labels), class_indices(data.regions, data.labels), codes)
    is_one_slice = best.patch_size[LEFT_RIGHT] == 1
    axes = by_hand if by_hand is not None else () if sides.obstacle or is_one_slice else (LEFT_RIGHT,)
    pairs = sides.pairs if LEFT_RIGHT in axes else ()
    exchanged = (
        f"{pairs[0][0]} and {pairs[0][1]}" + (f" and {len(pairs) - 1} more pairs" if pairs[1:] else "") if pairs else ""
    )
    if by_hand is not None:
        reason = "config: prepare.mirror_axes"
    elif sides.obstacle:
        reason = f"off: {sides.obstacle}"
    elif is_one_slice:
        reason = "off: a patch has one slice from left to right"
    else:
        reason = f"left-right: the labels {exchanged} are exchanged" if pairs else "left-right: no label names a side"
    return axes, pairs, reason


def _check_patch(config: StudyConfig) -> None:
    """Raise `DataError` if the patch of the config does not fit its own strides."""
    patch, spacing = config.prepare.patch_size, config.prepare.spacing_mm
    if patch is None or spacing is None:
        return
    total = np.prod(np.array(choose_strides(spacing, patch, levels_by_hand(config.network) or 3)), axis=0)
    if any(p % t for p, t in zip(patch, total, strict=True)):
        raise DataError(
            "prepare.patch_size does not fit the strides",
            expected=f"multiples of {tuple(int(t) for t in total)}",
            found=str(patch),
            remedy="set prepare.patch_size to such multiples, or to null",
        )
