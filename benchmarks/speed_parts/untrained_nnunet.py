"""An nnU-Net as its training begins with, saved as its final checkpoint; run by nnU-Net's own Python."""

import torch
from nnunetv2.run.run_training import get_trainer_from_args

made = get_trainer_from_args("900", "3d_fullres", 0, device=torch.device("cpu"))
made.on_train_start()
made.save_checkpoint(f"{made.output_folder}/checkpoint_final.pth")
made.on_train_end()
