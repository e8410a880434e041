"""Files of a MONAI Bundle.

OUT/configs/metadata.json, inference.json    inputs and outputs of the model; how MONAI runs it
OUT/models/network.pt2                       the network, exported by torch
OUT/scripts/steps.py                         the steps before and after the network, as MONAI transforms and an inferer
OUT/docs/README.md                           model card
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from medhybrid.errors import ModelError
from medhybrid.inference.bundle import steps
from medhybrid.inference.bundle.sources import self_contained
from medhybrid.inference.model import Model
from medhybrid.inference.model_folder import model_card
from medhybrid.inference.program import check_program, fixed_axes, write_program
from medhybrid.version import __version__

STEPS = "scripts.steps"

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
"""Name of the schema of `metadata.json`, which bundles give as an address; nothing is read from it here."""


def write_bundle(model: Model, out: Path) -> float:
    """Write a bundle to an empty folder.

    Returns
    -------
    float
        Largest difference of a logit of the exported network, as a share of the largest logit.

    Raises
    ------
    ModelError
        If the model has steps that a bundle cannot have, or its network cannot be exported.
    """
    refuse_other_steps(model)
    for name in ("configs", "models", "scripts", "docs"):
        (out / name).mkdir(parents=True)
    difference = check_program(model, write_program(model, out / "models", "pt2"))
    (out / "scripts" / "__init__.py").write_text('"""Steps of the bundle."""\n', encoding="utf-8")
    (out / "scripts" / "steps.py").write_text(self_contained(steps), encoding="utf-8")
    (out / "docs" / "README.md").write_text(
        model_card(model.record, f"{model.plan.study}, as MONAI Bundle"), encoding="utf-8"
    )
    for name, values in (("metadata", metadata_of(model)), ("inference", inference_of(model))):
        (out / "configs" / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return difference


def refuse_other_steps(model: Model) -> None:
    """Raise `ModelError` for a model whose steps before or after the network are not those of a bundle."""
    plan, record = model.plan, model.record
    found = [
        *(["the rules of nnU-Net"] if record.nnunet is not None else []),
        *(["regions"] if plan.regions else []),
        *(["values of the study (data.context)"] if plan.context else []),
    ]
    if found:
        raise ModelError(
            f"{plan.study} cannot be exported as a bundle",
            expected="a model of labels that medhybrid trained, without data.context",
            found=" and ".join(found),
            remedy="export it as pt2 or onnx, and follow description.json",
        )


def plan_values(model: Model) -> dict[str, Any]:
    """Return the values of a plan that the steps of a bundle need."""
    plan = model.plan
    kept = (
        "spacing_mm",
        "patch_size",
        "labels",
        "keep_largest",
        "min_component_ml",
        "blank_copied_channels",
        "kernels",
    )
    values = plan.model_dump(mode="json", include={*kept, "mirror_axes", "normalisation"})
    return {**values, "exchange": list(plan.exchange)}


def inference_of(model: Model) -> dict[str, Any]:
    """Return the config with which MONAI runs the bundle."""
    plan, config = model.plan, model.record.inference
    first = (
        "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii.gz')) + glob.glob(os.path.join(@dataset_dir, '*.nii')))"
    )
    several = (
        "$[[p.replace('_0000.nii.gz', '_%04d.nii.gz' % i) for i in range(@n_channels)] "
        "for p in sorted(glob.glob(os.path.join(@dataset_dir, '*_0000.nii.gz')))]"
    )
    return {
        "imports": ["$import glob", "$import os", "$import torch", "$import numpy as np"],
        "bundle_root": ".",
        "dataset_dir": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "n_channels": len(plan.channels),
        "plan": plan_values(model),
        "datalist": first if len(plan.channels) == 1 else several,
        "network_def": {
            "_target_": f"{STEPS}.Network",
            "path": "$@bundle_root + '/models/network.pt2'",
            "device": "@device",
        },
        "network": "@network_def",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
                {"_target_": f"{STEPS}.Prepared", "keys": "image", "plan": "@plan"},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": f"{STEPS}.Windows",
            "plan": "@plan",
            "overlap": config.overlap,
            "mirror": config.tta_mirroring,
            "skip_air": config.skip_air,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": f"{STEPS}.OnScan", "keys": "pred", "plan": "@plan"},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "seg",
                    "output_dtype": "$np.int32",
                    "resample": True,  # not needed, but without it MONAI takes the mask of some scans as two-dimensional
                    "separate_folder": False,
                },
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def metadata_of(model: Model) -> dict[str, Any]:
    """Return the description of the bundle in the form of MONAI's schema."""
    import monai
    import torch

    plan, record = model.plan, model.record
    fixed = fixed_axes(model)
    stride = [int(s) for s in np.prod(plan.strides, axis=0)]
    shape = [fixed.get(axis, f"{s}*n") for axis, s in enumerate(stride)]
    classes = ["background", *plan.labels]
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by medhybrid {__version__}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"scipy": ">=1.10", "nibabel": ">=5", "pytorch-ignite": ">=0.4.11"},
        "name": plan.study,
        "task": f"segmentation of {', '.join(plan.labels)}",
        "description": "Research model, not a medical device. docs/README.md is its model card.",
        "authors": "see docs/README.md",
        "copyright": "see docs/README.md",
        "data_source": f"training data with SHA-256 {record.data_hash}",
        "data_type": "nifti",
        "image_classes": ", ".join(plan.channels),
        "label_classes": "a label map with the values of label_values",
        "label_values": dict(plan.labels),
        "pred_classes": ", ".join(classes),
        "eval_metrics": {k: v for k, v in record.metrics.items() if isinstance(v, (int, float))},
        "intended_use": "research, with every mask reviewed by a qualified reader",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude"
                    if all(n.rule != "clip_and_scale" for n in plan.normalisation)
                    else "hounsfield",
                    "modality": ", ".join(plan.channels),
                    "num_channels": len(plan.channels),
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(i): name for i, name in enumerate(plan.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(classes),
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(i): name for i, name in enumerate(classes)},
                }
            },
        },
    }
