"""Save an untrained nnU-Net as its final checkpoint; run it with the Python of nnU-Net's environment."""

import torch
from nnunetv2.run.run_training import get_trainer_from_args

made = get_trainer_from_args("900", "3d_fullres", 0, device=torch.device("cpu"))
made.on_train_start()
made.save_checkpoint(f"{made.output_folder}/checkpoint_final.pth")
made.on_train_end()
