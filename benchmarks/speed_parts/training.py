"""Measure training steps with data loading and augmentation on hippocampus; print samples per second as JSON.

    python training.py ours|ours_float32|monai|monai_bf16|nnunet PREPARED_OR_DATA SECONDS

All use the patch and batch size that nnU-Net plans for this data (40 x 56 x 40 voxels of 1 mm, 9 patches). `ours` is the loop
of `medhybrid train`, in the precision that it chooses or in float32. `monai` is a plain loop over MONAI's transforms and
DataLoader with the same network (channels last), in float32 as in its tutorials, or in bf16. `nnunet` is its trainer and
network, in float32 as usual on CPUs; PREPARED_OR_DATA is then the folder with nnUNet_raw and the other folders.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

PATCH, BATCH = (40, 56, 40), 9

WARM_STEPS = 3


def timed(step: Callable[[], float], seconds: float) -> dict[str, float]:
    """Measure seconds per sample, samples per second and the share of waiting; each step returns its wait for data."""
    for _ in range(WARM_STEPS):
        step()
    began, waited, n = time.perf_counter(), 0.0, 0
    while (gone := time.perf_counter() - began) < seconds:
        waited += step()
        n += 1
    return {"seconds": gone / (n * BATCH), "samples_per_s": n * BATCH / gone, "waiting": waited / gone, "steps": n}


def ours(prepared: Path, seconds: float, precision: str = "auto") -> dict[str, float]:
    """Measure our training loop on a folder prepared by `medhybrid preprocess` with this patch and batch size."""
    import medhybrid
    from medhybrid.data.dataset import PreparedDataset
    from medhybrid.data.sampling import Prefetcher
    from medhybrid.tracking.jsonl import JsonlTracker
    from medhybrid.training.loop import Trainer

    dataset = PreparedDataset(prepared)
    length = "training.iterations=100000", f"training.precision={precision}"
    config = medhybrid.load_config("hippocampus.yaml", ["data.root=/nowhere", *length])
    with tempfile.TemporaryDirectory() as out:
        cases = dataset.open(dataset.fold(0).train)
        made = Trainer(config, dataset.plan, cases, [], folder=Path(out), tracker=JsonlTracker(Path(out) / "log.jsonl"))
        made.network.train()
        source = Prefetcher(made.sampler, made.training.workers)

        def step() -> float:
            asked = time.perf_counter()
            batch = source.batch(made.step)
            waited = time.perf_counter() - asked
            made.train_step(batch)
            made.step += 1
            return waited

        told = timed(step, seconds)
        source.close()
    return told


def monai(root: Path, seconds: float, *, is_bf16: bool = False) -> dict[str, float]:
    """Measure a plain loop with MONAI on a dataset in the layout of the Decathlon."""
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceCELoss
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        RandAdjustContrastd,
        RandAffined,
        RandCropByPosNegLabeld,
        RandFlipd,
        RandGaussianNoised,
        RandScaleIntensityd,
        SpatialPadd,
    )  # fmt: skip

    from medhybrid.config import NetworkConfig
    from medhybrid.networks import build_network

    both = ["image", "label"]
    cases = [{"image": p, "label": root / "labelsTr" / p.name} for p in sorted((root / "imagesTr").glob("*.nii.gz"))]
    transforms = Compose(
        [
            LoadImaged(both), EnsureChannelFirstd(both), Orientationd(both, axcodes="RAS"), NormalizeIntensityd("image"),
            SpatialPadd(both, PATCH),
            RandCropByPosNegLabeld(both, "label", PATCH, num_samples=1),
            RandAffined(
                both, prob=0.5, rotate_range=(0.1, 0.1, 0.35), scale_range=(0.2,) * 3, mode=["bilinear", "nearest"]
            ),
            RandFlipd(both, prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=0.3, std=0.1),
            RandScaleIntensityd("image", 0.25, prob=0.3), RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.3)),
        ]
    )  # fmt: skip
    data = CacheDataset(cases, transforms, progress=False)
    endless = torch.utils.data.RandomSampler(data, replacement=True, num_samples=10**7)
    loader = DataLoader(
        data, batch_size=BATCH, sampler=endless, num_workers=os.cpu_count() or 1, drop_last=True, collate_fn=_flat
    )
    network: Any = build_network(
        NetworkConfig(), n_channels=1, n_labels=2, strides=((2, 2, 2),) * 3, token_mm=(8.0, 8.0, 8.0)
    )
    network = network.to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    batches = iter(loader)

    def step() -> float:
        asked = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - asked
        optimiser.zero_grad()
        image = batch["image"].as_tensor().contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            logits = network(image).full
        loss_of(logits.float(), batch["label"].as_tensor()).backward()
        optimiser.step()
        return waited

    return timed(step, seconds)


def _flat(samples: list[list[dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([s[key] for one in samples for s in one]) for key in ("image", "label")}


def nnunet(work: Path, seconds: float) -> dict[str, float]:
    """Measure nnU-Net's trainer; `work` has its three folders with prepared data."""
    import contextlib

    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str((work / name).resolve())
    with contextlib.redirect_stdout(sys.stderr):
        from nnunetv2.run.run_training import get_trainer_from_args

        made = get_trainer_from_args("900", "3d_fullres", 0, device=torch.device("cpu"))
        made.on_train_start()
        made.network.train()

        def step() -> float:
            asked = time.perf_counter()
            batch = next(made.dataloader_train)
            waited = time.perf_counter() - asked
            made.train_step(batch)
            return waited

        told = timed(step, seconds)
        made.on_train_end()
    return told


WAYS: dict[str, Callable[[Path, float], dict[str, float]]] = {
    "ours": ours,
    "ours_float32": partial(ours, precision="float32"),
    "monai": monai,
    "monai_bf16": partial(monai, is_bf16=True),
    "nnunet": nnunet,
}

if __name__ == "__main__":
    print(json.dumps(WAYS[sys.argv[1]](Path(sys.argv[2]), float(sys.argv[3]))))
