"""nnU-Net's `plans.json` and `dataset.json`, read into a `Plan`, the architecture and the steps of an imported model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from medhybrid.config.regions import classes_of
from medhybrid.config.unet import UNetConfig
from medhybrid.data.json_names import JsonNames, read_names
from medhybrid.data.layouts.case import read_json
from medhybrid.data.plan import Normalisation, Plan
from medhybrid.errors import ModelError, reason_of
from medhybrid.inference.nnunet.rules import Channel, NnUNetRules, Resampling, VoxelSize

Values = dict[str, Any]

SPLINES = ("resample_data_or_seg_to_shape", "resample_data_or_seg_to_spacing")
TORCH = "resample_torch_fornnunet"
NONE = "no_resampling_data_or_seg_to_shape"
NONE_EARLIER = "no_resampling_hack"

KINDS: dict[str, Literal["plain_conv_unet", "residual_encoder_unet"]] = {
    "PlainConvUNet": "plain_conv_unet",
    "ResidualEncoderUNet": "residual_encoder_unet",
}

REORIENTING = ("NibabelIOWithReorient", "SimpleITKIOWithReorient")
"""Readers of nnU-Net that turn images to RAS."""

VOXEL_SIZES: dict[str, VoxelSize] = {"NaturalImage2DIO": "pixels", "Tiff3DIO": "beside"}
"""Readers of nnU-Net that do not take the voxel size from the image; see `NnUNetRules`."""

READERS = ("", "SimpleITKIO", "NibabelIO", *REORIENTING, *VOXEL_SIZES)
"""Readers of nnU-Net; plans without one have the first."""

KNOWN = {
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage",
    "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin",
    "nonlin_kwargs", "nonlin_first", "deep_supervision",
}  # fmt: skip
"""Arguments of the networks that `UNetConfig` has, or that do not matter for inference."""

NOT_PREDICTING = "only networks and steps of nnU-Net itself can be imported"


@dataclass(frozen=True, slots=True)
class NnUNetPlans:
    """Content of `plans.json` and `dataset.json` for one configuration.

    Attributes
    ----------
    values : dict
        The configuration, with the values that it inherits.
    whole : dict
        All of `plans.json`.
    names : JsonNames
        Channels and labels.
    axes : (3,) tuple of int
        For each axis of the scan (X, Y, Z), the axis of the network.
    """

    configuration: str
    values: Values
    whole: Values
    names: JsonNames
    axes: tuple[int, int, int]

    @property
    def is_2d(self) -> bool:
        """Return whether the network is two-dimensional."""
        return len(self.values["patch_size"]) == 2

    def on_scan(self, sizes: Sequence[Any], across: Any) -> tuple[Any, Any, Any]:
        """Return sizes in the order of the network's axes as sizes (X, Y, Z); those of a 2-D network get one across slices."""
        whole = [across, *sizes] if len(sizes) == 2 else sizes
        x, y, z = (whole[a] for a in self.axes)
        return x, y, z


def read_plans(folder: Path, configuration: str) -> NnUNetPlans:
    """Read `plans.json` and `dataset.json` of a model.

    Raises
    ------
    ModelError
        If a file is missing or invalid, or has no such configuration.
    """
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} has no {name}",
                expected="plans.json, dataset.json and fold_0, as nnU-Net writes them",
                remedy="give the folder TRAINER__PLANS__CONFIGURATION below nnUNet_results",
            )
    whole = read_json(folder / "plans.json")
    names = read_names(folder, ignored=("ignore",))  # other names are labels for nnU-Net
    if not isinstance(whole, dict) or not isinstance(whole.get("configurations"), dict) or names is None:
        raise ModelError(f"{folder / 'plans.json'} is not of nnU-Net version 2", expected="configurations")
    values = _inherited(whole["configurations"], configuration, folder)
    order = whole.get("transpose_forward", [0, 1, 2])
    if sorted(order) != [0, 1, 2]:
        raise _unusable("transpose_forward", "a permutation of 0, 1, 2", order)
    # nnU-Net's arrays are (Z, Y, X) before their axes are transposed
    x, y, z = (order.index(2 - axis) for axis in range(3))
    if len(values.get("patch_size", ())) not in (2, 3):
        raise _unusable("patch_size", "two or three sizes", values.get("patch_size"))
    return NnUNetPlans(configuration, values, whole, names, (x, y, z))


def configurations_of(folder: Path) -> tuple[str, ...]:
    """Return the names of the configurations in a folder's `plans.json`."""
    whole = read_json(folder / "plans.json")
    found = whole.get("configurations") if isinstance(whole, dict) else None
    return tuple(found) if isinstance(found, dict) else ()


def _inherited(configurations: Values, name: str, folder: Path) -> Values:
    """Return a configuration with the values that it inherits from others."""
    values: Values = {}
    following: Any = name
    visited: set[str] = set()
    while following is not None:
        if following in visited or not isinstance(configurations.get(following), dict):
            raise ModelError(
                f"{folder / 'plans.json'} has no usable configuration {following}", expected=", ".join(configurations)
            )
        visited.add(following)
        values = configurations[following] | values
        following = configurations[following].get("inherits_from")
    return values


def unet_of(plans: NnUNetPlans, *, n_outputs: int, n_folds: int, has_batch_norm: bool) -> UNetConfig:
    """Return the architecture of a configuration, in the order of the scan's axes.

    Parameters
    ----------
    has_batch_norm : bool
        Whether the weights have running means: a trainer may replace the norm of the plans.

    Raises
    ------
    ModelError
        If it is another network, or has arguments that are not known.
    """
    class_name, arguments = _architecture(plans.values)
    kind = KINDS.get(class_name.rpartition(".")[2])
    if kind is None:
        raise _unusable("network_class_name", " or ".join(KINDS), class_name)
    unknown = {n for n in set(arguments) - KNOWN if arguments[n] is not None}
    if unknown:
        raise _unusable("arch_kwargs", ", ".join(sorted(KNOWN)), ", ".join(sorted(unknown)))
    n_stages = arguments["n_stages"]
    activation = str(arguments.get("nonlin")).rpartition(".")[2]
    norm = str(arguments.get("norm_op")).rpartition(".")[2]
    if activation not in ("LeakyReLU", "ReLU"):
        raise _unusable("nonlin", "LeakyReLU or ReLU", activation)
    if not norm.startswith(("InstanceNorm", "BatchNorm")):
        raise _unusable("norm_op", "InstanceNorm or BatchNorm", norm)
    norm_values = arguments.get("norm_op_kwargs") or {}
    blocks = arguments.get("n_conv_per_stage", arguments.get("n_blocks_per_stage"))
    dimension = len(plans.values["patch_size"])
    try:
        return UNetConfig(
            kind=kind,
            channels=len(plans.names.channels),
            outputs=n_outputs,
            widths=_for_stages(arguments["features_per_stage"], n_stages),
            blocks=_for_stages(blocks, n_stages),
            kernels=tuple(
                plans.on_scan(_size(k, dimension), 1) for k in _for_stages(arguments["kernel_sizes"], n_stages)
            ),
            strides=tuple(plans.on_scan(_size(s, dimension), 1) for s in _for_stages(arguments["strides"], n_stages)),
            decoder_blocks=_for_stages(arguments["n_conv_per_stage_decoder"], n_stages - 1),
            conv_bias=bool(arguments.get("conv_bias", False)),
            norm="batch" if has_batch_norm or norm.startswith("BatchNorm") else "instance",
            norm_eps=norm_values.get("eps", 1e-5),
            norm_affine=bool(norm_values.get("affine", False)) or has_batch_norm or norm.startswith("BatchNorm"),
            activation="relu" if activation == "ReLU" else "leaky_relu",
            negative_slope=(arguments.get("nonlin_kwargs") or {}).get("negative_slope", 0.01),
            nonlin_first=bool(arguments.get("nonlin_first", False)),
            n_folds=n_folds,
        )
    except (ValidationError, LookupError, TypeError) as error:
        raise _unusable("architecture", "the arguments of the network", explain_value_error(error)) from error


def _architecture(values: Values) -> tuple[str, Values]:
    """Return the class name and the arguments of a network, also from plans before `architecture` was written."""
    found = values.get("architecture")
    if isinstance(found, dict):
        return str(found.get("network_class_name")), dict(found.get("arch_kwargs") or {})
    needed = ("UNet_class_name", "n_conv_per_stage_encoder", "conv_kernel_sizes", "pool_op_kernel_sizes")
    if missing := [n for n in needed if n not in values]:
        raise _unusable("plans.json", "architecture", f"no {', '.join(missing)}")
    blocks = values["n_conv_per_stage_encoder"]
    base, highest = values.get("UNet_base_num_features", 32), values.get("unet_max_num_features", 320)
    is_plain = values["UNet_class_name"] == "PlainConvUNet"
    return str(values["UNet_class_name"]), {
        "n_stages": len(blocks),
        "features_per_stage": [min(base * 2**i, highest) for i in range(len(blocks))],
        "kernel_sizes": values["conv_kernel_sizes"],
        "strides": values["pool_op_kernel_sizes"],
        "n_conv_per_stage" if is_plain else "n_blocks_per_stage": blocks,
        "n_conv_per_stage_decoder": values.get("n_conv_per_stage_decoder", [2] * (len(blocks) - 1)),
        "conv_bias": True,
        "norm_op": "InstanceNorm",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "LeakyReLU",
    }


def plan_of(plans: NnUNetPlans, unet: UNetConfig, mirror_axes: Sequence[int]) -> tuple[Plan, tuple[int, ...]]:
    """Return the `Plan` of a configuration, and the class of each region's logit (empty without regions).

    Parameters
    ----------
    mirror_axes : sequence of int
        Axes of test-time mirroring, in the order of the network's axes.

    Raises
    ------
    ModelError
        If labels or channels are missing or invalid.
    """
    names = plans.names
    if not names.labels or not names.channels:
        raise _unusable("dataset.json", "channel_names and labels", "none")
    shift = 1 if plans.is_2d else 0
    mirrored = [plans.axes.index(a + shift) for a in mirror_axes]
    labels, regions, drawn = _structures(names)
    spacing = plans.on_scan(plans.values["spacing"], _spacing_across(plans))
    plan = Plan(
        study=str(plans.whole.get("dataset_name") or names.name or "nnunet"),
        spacing_mm=spacing,
        patch_size=plans.on_scan(plans.values["patch_size"], 1),
        strides=unet.strides,
        batch_size=int(plans.values.get("batch_size", 2)),
        normalisation=tuple(Normalisation(channel=n, rule="nnunet") for n in _unique(names.channels)),
        labels=labels,
        regions=regions,
        mirror_axes=tuple(sorted(mirrored)),
        keep_largest=(),
        min_component_ml=0.0,
        blank_copied_channels=False,
        reasons={"spacing_mm": "plans.json of nnU-Net", "patch_size": "plans.json of nnU-Net"},
    )
    return plan, drawn


def _spacing_across(plans: NnUNetPlans) -> float:
    """Return the median spacing of the training scans across the slices of a 2-D network, or 1."""
    median = plans.whole.get("original_median_spacing_after_transp")
    return float(median[0]) if isinstance(median, list) and len(median) == 3 else 1.0


def _structures(names: JsonNames) -> tuple[dict[str, int], dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Return labels with their values, regions with their classes, and the class of each region's logit."""
    if not any(isinstance(v, tuple) for v in names.labels.values()):
        labels = {n: v for n, v in names.labels.items() if isinstance(v, int)}
        if sorted(labels.values()) != list(range(1, len(labels) + 1)):
            raise _unusable("dataset.json", "labels 1, 2, 3 ... without gaps", ", ".join(map(str, labels.values())))
        return dict(sorted(labels.items(), key=lambda item: item[1])), {}, ()
    members = {n: v if isinstance(v, tuple) else (v,) for n, v in names.labels.items()}
    if len(names.class_order) != len(members) or len(set(names.class_order)) != len(members):
        raise _unusable(
            "dataset.json", f"regions_class_order with {len(members)} different values", list(names.class_order)
        )
    labels = classes_of(members)
    if missing := [v for v in names.class_order if v not in labels.values()]:
        raise _unusable("dataset.json", "regions_class_order with values of the regions", missing)
    values = list(labels.values())
    regions = {n: tuple(values.index(v) + 1 for v in sorted(set(found))) for n, found in members.items()}
    return labels, regions, tuple(values.index(v) + 1 for v in names.class_order)


def rules_of(
    plans: NnUNetPlans, *, trainer: str, folds: Sequence[str], regions: tuple[int, ...], orientation: str
) -> NnUNetRules:
    """Return nnU-Net's steps of a configuration.

    Raises
    ------
    ModelError
        If a step is not one of nnU-Net's own, or the configuration is the second stage of a cascade.
    """
    values = plans.values
    if values.get("previous_stage"):
        raise ModelError(
            f"{plans.configuration} is the second stage of a cascade, which also needs the masks of the first",
            expected="2d, 3d_fullres or 3d_lowres",
            remedy="import the first stage (3d_lowres), or 3d_fullres",
        )
    preprocessor = str(values.get("preprocessor_name", "DefaultPreprocessor"))
    if preprocessor != "DefaultPreprocessor":
        raise _unusable("preprocessor_name", "DefaultPreprocessor", preprocessor)
    manager = str(plans.whole.get("label_manager") or "LabelManager")
    if manager != "LabelManager":
        raise _unusable("label_manager", "LabelManager", manager)
    schemes = values.get("normalization_schemes")
    if not isinstance(schemes, list) or len(schemes) != len(plans.names.channels):
        raise _unusable("normalization_schemes", f"one for each of {len(plans.names.channels)} channels", schemes)
    in_mask = values.get("use_mask_for_norm") or [False] * len(schemes)
    found = plans.whole.get("foreground_intensity_properties_per_channel")
    found = found or plans.whole.get("foreground_intensity_properties_by_modality") or {}
    channels = []
    for i, scheme in enumerate(schemes):
        numbers: Values = {}
        if scheme == "CTNormalization":
            keys = {"low": "percentile_00_5", "high": "percentile_99_5", "mean": "mean", "deviation": "std"}
            try:
                numbers = {name: float(found[str(i)][key]) for name, key in keys.items()}
            except (KeyError, TypeError, ValueError) as error:
                raise _unusable("plans.json", f"intensities of channel {i} for CTNormalization", "none") from error
        try:
            channels.append(Channel(scheme=scheme, in_mask=bool(in_mask[i]), **numbers))
        except (ValidationError, IndexError) as error:
            raise _unusable("normalization_schemes", "schemes of nnU-Net", scheme) from error
    reader = str(plans.whole.get("image_reader_writer", ""))
    if orientation == "auto" and reader not in READERS:
        raise ModelError(
            f"plans.json names the image reader {ascii(reader)[:60]}, which is not one of nnU-Net's",
            expected=", ".join(READERS[1:]),
            remedy="if it keeps the axes of the file, import with --orientation stored; if it turns images to RAS, with RAS",
        )
    turns = orientation == "RAS" or (orientation == "auto" and reader in REORIENTING)
    return NnUNetRules(
        configuration=plans.configuration,
        trainer=trainer,
        folds=tuple(folds),
        orientation="RAS" if turns else "stored",
        slice_axis=plans.axes.index(0) if plans.is_2d else None,
        voxel_size=VOXEL_SIZES.get(reader, "scan"),
        channels=tuple(channels),
        images=_resampling(values, "data", 3),
        logits=_resampling(values, "probabilities", 1),
        regions=regions,
    )


def _resampling(values: Values, of: str, order: int) -> Resampling:
    """Return the resampling of images (`data`) or logits (`probabilities`); plans of early versions name none."""
    name = str(values.get(f"resampling_fn_{of}", SPLINES[0]))
    arguments = values.get(f"resampling_fn_{of}_kwargs") or {}
    if name in (NONE, NONE_EARLIER):
        return Resampling(order=1, is_off=True)
    if name == TORCH and arguments.get("mode", "linear") == "linear":
        across = 0 if arguments.get("aniso_axis_mode", "nearest-exact") == "nearest-exact" else -1
        order = 1
    elif name in SPLINES:
        is_stated = f"resampling_fn_{of}" in values
        order, across = arguments.get("order", 3 if is_stated else order), arguments.get("order_z", 0)
        arguments = {"force_separate_z": False if is_stated else None} | arguments  # the defaults of nnU-Net's function
    else:
        raise _unusable(f"resampling_fn_{of}", " or ".join((*SPLINES, TORCH, NONE)), name)
    highest = 1 if of == "probabilities" else 5
    if not (isinstance(order, int) and isinstance(across, int) and 0 <= order <= highest and 0 <= across <= highest):
        raise _unusable(f"resampling_fn_{of}_kwargs", f"order and order_z from 0 to {highest}", arguments)
    return Resampling(
        order=order,
        order_across=across,
        separate=arguments.get("force_separate_z"),
        threshold=float(arguments.get("separate_z_anisotropy_threshold", 3.0)),
    )


def _for_stages(values: Any, n: int) -> tuple[Any, ...]:
    """Return one value for each stage; a number stands for all."""
    return tuple(values) if isinstance(values, list | tuple) else (values,) * n


def _size(value: Any, dimension: int) -> list[int]:
    """Return a size along each axis; a number stands for all axes."""
    return list(value) if isinstance(value, list | tuple) else [value] * dimension


def _unique(names: Sequence[str]) -> list[str]:
    """Return channel names; those that occur twice, or have no letter, get their numbers."""
    named = [n if any(c.isalpha() for c in n) else "channel" for n in names]
    return [n if named.count(n) == 1 else f"{n}_{i:04d}" for i, n in enumerate(named)]


def explain_value_error(error: Exception) -> str:
    """Return the reason why a value of `plans.json` cannot be used, with its name where it is known."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]
    return f"no {error}" if isinstance(error, KeyError) else reason_of(error)


def _unusable(what: str, expected: str, found: object) -> ModelError:
    return ModelError(
        f"the model cannot be imported: {what} is not supported",
        expected=expected,
        found=str(found)[:200],
        remedy=NOT_PREDICTING,
    )
