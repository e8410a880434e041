"""nnU-Net's own trainer, stopped by the clock: found by nnU-Net through its `nnUNet_extTrainer` folder.

NNUNET_MINUTES is the length, data loading included and preparation, start-up and final validation excepted. The learning rate
falls as nnU-Net's polynomial does, over the share of the time that is gone; there are no validation batches between, so that
all the time is training. NNUNET_REPORT names the file for steps, seconds and parameters.
"""

import json
import os
import time
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerMinutes(nnUNetTrainer):
    """Trains for NNUNET_MINUTES."""

    def run_training(self):
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
