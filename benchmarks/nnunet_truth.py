"""Record what nnU-Net itself predicts with small models of every kind that can be imported.

    python -m venv nnunet && nnunet/bin/pip install nnunetv2
    nnunet/bin/python benchmarks/nnunet_truth.py tests/inference/nnunet/recorded

Each file KIND.npz has plans.json, dataset.json, the weights of each fold, two images and nnU-Net's masks of them, with the
voxels whose logits differ by more than `MARGIN`. The tests of the import compare with these masks. Weights are random. nnU-Net
adds the logits of its windows in fp16, which changes a few voxels, mainly in corners, where weights are below the smallest
number of fp16: it is set to add in float32 here. How many voxels differ otherwise is printed.
"""

from __future__ import annotations

import argparse
import json
import pydoc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter

Values = dict[str, Any]

MARGIN = 1e-3
"""Difference of the two highest logits, or of a region's logit from 0, below which rounding may decide."""

KINDS: dict[str, Values] = {
    "isotropic": {"patch": [16, 24, 20], "mm": [1.2, 1.1, 1.3], "turn": [1, 0, 2], "folds": 2, "in_mask": True},
    "thick": {
        "patch": [6, 32, 24],
        "mm": [6.0, 0.9, 0.9],
        "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "mirror": (1, 2),
        "shape": (7, 31, 27),
        "voxel": (1.1, 1.0, 7.0),
    },
    "ct": {"patch": [16, 16, 16], "mm": [1.5, 1.1, 1.1], "schemes": ["CTNormalization"]},
    "two_channels": {
        "patch": [15, 18, 20],
        "mm": [1.0, 1.0, 1.0],
        "turn": [0, 2, 1],
        "strides": [[1, 1, 1], [1, 2, 2], [3, 1, 2]],
        "schemes": ["ZScoreNormalization", "RescaleTo01Normalization"],
        "in_mask": True,
    },
    "regions": {
        "patch": [16, 16, 16],
        "mm": [1.1, 1.1, 1.1],
        "schemes": ["ZScoreNormalization", "NoNormalization"],
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
    },
    "slices": {"patch": [32, 24], "mm": [0.9, 0.8], "turn": [1, 2, 0], "folds": 2, "shape": (6, 35, 25)},
    "residual": {"patch": [16, 16, 16], "mm": [1.3, 1.3, 1.3], "network": "ResidualEncoderUNet"},
    "oblique": {"patch": [16, 20, 24], "mm": [1.1, 1.2, 1.0], "turn": [2, 0, 1], "is_oblique": True},
    "colour": {"patch": [32, 32], "mm": [1.0, 1.0], "schemes": ["RGBTo01Normalization"] * 3, "shape": (1, 50, 44)},
    "torch_resampling": {
        "patch": [8, 32, 32],
        "mm": [5.0, 1.0, 1.0],
        "resampling": "resample_torch_fornnunet",
        "shape": (7, 35, 40),
        "voxel": (1.2, 1.2, 6.0),
    },
    "batch_norm": {"patch": [16, 16, 16], "mm": [1.2, 1.2, 1.2], "norm": "batchnorm.BatchNorm"},
}
"""Each kind; without a value it has one z-scored channel, two labels, three stages and isotropic kernels."""


def write_model(
    folder: Path, kind: Values, rng: np.random.Generator
) -> tuple[Values, Values, list[dict[str, torch.Tensor]]]:
    """Write a model folder with random weights; return plans, dataset and the weights of each fold."""
    n = len(kind["patch"])
    schemes = kind.get("schemes", ["ZScoreNormalization"])
    blocks = "n_blocks_per_stage" if "network" in kind else "n_conv_per_stage"
    norm = kind.get("norm", "instancenorm.InstanceNorm")
    arguments = {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{n}d",
        "kernel_sizes": kind.get("kernels", [[3] * n] * 3),
        "strides": kind.get("strides", [[1] * n, [2] * n, [2] * n]),
        blocks: [1, 2, 2],
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.{norm}{n}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    imported = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    network = f"dynamic_network_architectures.architectures.unet.{kind.get('network', 'PlainConvUNet')}"
    resampling = kind.get("resampling", "resample_data_or_seg_to_shape")
    is_torch = resampling.startswith("resample_torch")
    configuration = {
        "data_identifier": "test",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": kind["patch"],
        "median_image_size_in_voxels": kind["patch"],
        "spacing": kind["mm"],
        "normalization_schemes": schemes,
        "use_mask_for_norm": [kind.get("in_mask", False)] * len(schemes),
        "architecture": {"network_class_name": network, "arch_kwargs": arguments, "_kw_requires_import": imported},
    }
    for name, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        splines = {"order": order, "order_z": 0, "force_separate_z": None}
        configuration[f"resampling_fn_{name}"] = resampling
        configuration[f"resampling_fn_{name}_kwargs"] = {"is_seg": False, **({} if is_torch else splines)}
    turn = kind.get("turn", [0, 1, 2])
    name = "2d" if n == 2 else "3d_fullres"
    intensities = {"mean": 40.0, "std": 90.0, "percentile_00_5": -150.0, "percentile_99_5": 240.0}
    plans = {
        "dataset_name": "Dataset999_Test",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 1.0, 1.0],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": turn,
        "transpose_backward": [turn.index(i) for i in range(3)],
        "configurations": {"base": configuration, name: {"inherits_from": "base"}},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): intensities for i in range(len(schemes))},
    }
    labels = kind.get("labels", {"background": 0, "one": 1, "two": 2})
    dataset = {
        "channel_names": {str(i): f"channel{i}" for i in range(len(schemes))},
        "labels": labels,
        "file_ending": ".nii.gz",
        **({"regions_class_order": [1, 2, 3]} if "labels" in kind else {}),
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    weights = []
    for fold in range(kind.get("folds", 1)):
        torch.manual_seed(int(rng.integers(1 << 30)))
        located = {name: pydoc.locate(str(arguments[name])) if arguments[name] else None for name in imported}
        kind_of_network: Any = pydoc.locate(network)
        options = {**arguments, **located, "deep_supervision": True}
        built: torch.nn.Module = kind_of_network(input_channels=len(schemes), num_classes=3, **options)
        built.apply(kind_of_network.initialize)
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.08)
            for part in built.modules():
                if isinstance(part, torch.nn.BatchNorm3d):
                    for buffer, value in ((part.running_mean, 0.2), (part.running_var, 1.3)):
                        assert buffer is not None
                        buffer.copy_(value * (0.5 + torch.rand_like(buffer)))
            for tensor in built.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(tensor.half().float())  # recorded in 16 bits
        state = built.state_dict()
        weights.append({n: t.clone() for n, t in state.items()})
        checkpoint = {
            "network_weights": state,
            "init_args": {"configuration": name},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": kind.get("mirror", tuple(range(n))),
        }
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return plans, dataset, weights


def write_images(folder: Path, kind: Values, rng: np.random.Generator) -> None:
    """Write two images with 16-bit values; with `in_mask`, some of their borders are 0."""
    schemes = kind.get("schemes", ["ZScoreNormalization"])
    for i in range(2):
        shape = tuple(s + 3 * i * (s > 1) for s in kind.get("shape", (22, 27, 25)))
        for channel in range(len(schemes)):
            values = gaussian_filter(rng.standard_normal(shape), (0.7, 2, 2)) * 900
            if "RGBTo01Normalization" in schemes:
                values = (values - values.min()) / np.ptp(values) * 255
            if kind.get("in_mask"):
                values[:3] = values[:, :4] = values[:, :, -5:] = 0
            image = sitk.GetImageFromArray(np.round(values).astype(np.int16))
            image.SetSpacing(kind.get("voxel", (1.0, 1.2, 1.4)))
            image.SetOrigin((3, -20, 7.5))
            if kind.get("is_oblique"):
                c, s = np.cos(0.35), np.sin(0.35)
                image.SetDirection([0, c, -s, -1, 0, 0, 0, s, c])
            sitk.WriteImage(image, str(folder / f"case{i}_{channel:04d}.nii.gz"))


def predicted(
    model: Path, images: Path, out: Path, *, in_float32: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return nnU-Net's masks (X, Y, Z) by case, and where the margin of its logits is above `MARGIN`."""
    import nnunetv2.inference.predict_from_raw_data as nnunet

    half, gaussian = torch.half, nnunet.compute_gaussian
    if in_float32:
        torch.half = torch.float32

        def in_32_bits(*arguments: Any, **options: Any) -> torch.Tensor:
            exact: torch.Tensor = gaussian.__wrapped__(*arguments, **{**options, "dtype": torch.float32})
            return exact

        in_32_bits.cache_clear = gaussian.cache_clear  # type: ignore[attr-defined]
        nnunet.compute_gaussian = in_32_bits
    try:
        predictor = nnunet.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), None)
        cases = sorted({p.name[:5] for p in images.iterdir()})
        files = [sorted(str(p) for p in images.glob(f"{case}_*")) for case in cases]
        predictor.predict_from_files_sequential(files, [str(out / case) for case in cases], save_probabilities=True)
    finally:
        torch.half, nnunet.compute_gaussian = half, gaussian
    masks = {case: sitk.GetArrayFromImage(sitk.ReadImage(str(out / f"{case}.nii.gz"))) for case in cases}
    certain = {}
    for case in cases:
        with np.load(out / f"{case}.npz") as file:
            probabilities = np.clip(file["probabilities"].T.astype(float), 1e-30, 1 - 1e-12)  # (X, Y, Z, K)
        if predictor.label_manager.has_regions:
            margin = np.abs(np.log(probabilities / (1 - probabilities))).min(axis=-1)
        else:
            ordered = np.sort(np.log(probabilities), axis=-1)
            margin = ordered[..., -1] - ordered[..., -2]
        certain[case] = margin > MARGIN
    return {case: mask.T.astype(np.uint8) for case, mask in masks.items()}, certain


def record(kind: str, out: Path) -> None:
    """Record one kind."""
    rng = np.random.default_rng(sorted(KINDS).index(kind))
    with tempfile.TemporaryDirectory() as place:
        model, images = Path(place) / "model", Path(place) / "images"
        for folder in (model, images, Path(place) / "exact", Path(place) / "rounded"):
            folder.mkdir()
        plans, dataset, weights = write_model(model, KINDS[kind], rng)
        write_images(images, KINDS[kind], rng)
        exact, certain = predicted(model, images, Path(place) / "exact", in_float32=True)
        rounded, _ = predicted(model, images, Path(place) / "rounded", in_float32=False)
        arrays: dict[str, np.ndarray] = {}
        for fold, state in enumerate(weights):
            arrays |= {
                f"weights/{fold}/{n}": t.numpy().astype(np.float16 if t.is_floating_point() else np.int64)
                for n, t in state.items()
                if "all_modules" not in n and not n.startswith("decoder.encoder")
            }
        for path in sorted(images.iterdir()):
            image = sitk.ReadImage(str(path))
            arrays[f"images/{path.name}"] = sitk.GetArrayFromImage(image)
            geometry = [*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()]
            arrays[f"geometry/{path.name}"] = np.array(geometry)
        arrays |= {f"masks/{case}": mask for case, mask in exact.items()}
        arrays |= {f"certain/{case}": np.packbits(where) for case, where in certain.items()}
        text = json.dumps({"plans": plans, "dataset": dataset, "mirror": KINDS[kind].get("mirror")})
        np.savez_compressed(out / f"{kind}.npz", **{"json": np.array(text), **arrays})  # type: ignore[arg-type]
    found = {int(v) for mask in exact.values() for v in np.unique(mask)}
    changed = sum(int((exact[c] != rounded[c]).sum()) for c in exact)
    print(f"{kind}: labels {sorted(found)}; {changed} voxels differ if logits are added in fp16", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the kinds that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    for kind in given.kinds or KINDS:
        record(kind, given.out)


if __name__ == "__main__":
    main()
