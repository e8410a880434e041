"""nnU-Net's trainer with a length in minutes; nnU-Net finds it through its `nnUNet_extTrainer` folder.

NNUNET_MINUTES is the length, with data loading, but without preparation, start-up and final validation. The learning rate
follows nnU-Net's polynomial over the elapsed share of the time. Validation batches are omitted, so that all of the time is used
for training. NNUNET_REPORT is the file for steps, seconds and parameters.
"""

import json
import os
import time
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerMinutes(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net is not installed where types are checked
    """Trainer that trains for NNUNET_MINUTES."""

    def run_training(self) -> None:
        self.on_train_start()
        self.network.train()
        seconds, step = 60 * float(os.environ["NNUNET_MINUTES"]), 0
        started = time.monotonic()
        while (gone := time.monotonic() - started) < seconds:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - gone / seconds) ** 0.9
            self.train_step(next(self.dataloader_train))
            step += 1
        report = {
            "steps": step,
            "seconds": round(time.monotonic() - started, 1),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "batch_size": self.configuration_manager.batch_size,
            "patch_size": list(self.configuration_manager.patch_size),
        }
        Path(os.environ["NNUNET_REPORT"]).write_text(json.dumps(report))
        self.on_train_end()
