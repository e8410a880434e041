"""A model's network on a CPU by OpenVINO, which is quicker there than torch; converted once and kept.

CACHE/medhybrid/<key>/network.xml, network.bin      by weights, format and version of OpenVINO

CACHE is `XDG_CACHE_HOME`, or `.cache` in the user's home. What is converted is compared with the torch network before it is
kept (`program.check_program`); arithmetic is then as on torch: bf16 where the processor has it, else float32.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medhybrid.errors import ConfigError
from medhybrid.inference.model import Model
from medhybrid.inference.program import FILES, check_program, import_for, write_program
from medhybrid.networks.logits import Logits

logger = logging.getLogger(__name__)

DEVICE = "openvino"


def on_openvino(model: Model) -> Model:
    """The model with its network run by OpenVINO.

    Parameters
    ----------
    model : Model
        On the CPU; it is changed.

    Raises
    ------
    ConfigError
        If OpenVINO is not installed, or the model is told of the study (`data.context`), which a program does not hear.
    ModelError
        If the network cannot be converted, or the program computes something else.
    """
    if model.plan.context:
        raise ConfigError(
            "a model that is told data.context cannot be run by OpenVINO",
            found=", ".join(model.plan.context),
            remedy="use --device cpu",
        )
    openvino = import_for(DEVICE, "openvino")
    core = openvino.Core()
    path = cache_folder() / _key(model) / FILES["openvino"]
    try:
        program = core.read_model(str(path))
    except RuntimeError:  # not there, or cut off
        path = _convert(model, path)
        program = core.read_model(str(path))
    program.reshape([-1, len(model.plan.channels), *model.plan.patch_size])
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if model.precision is torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model.run = OpenVinoNetwork(core.compile_model(program, "CPU", hints))
    model.runtime = f"OpenVINO {version('openvino')}"
    return model


class OpenVinoNetwork:
    """A compiled network in the place of a torch one."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def __call__(self, image: Tensor) -> Logits:
        """(B, C, *window) -> logits (B, K, *window), the auxiliary ones in name only."""
        full = torch.from_numpy(np.array(self.compiled(image.float().contiguous().numpy())[0]))
        return Logits(full, full)


def cache_folder() -> Path:
    """Where converted networks are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medhybrid"


def _key(model: Model) -> str:
    record = model.record
    made_of = f"{record.weights_sha256} {record.format_version} {version('openvino')} {model.plan.patch_size}"
    return f"openvino-{hashlib.sha256(made_of.encode()).hexdigest()[:24]}"


def _convert(model: Model, path: Path) -> Path:
    """Write the program at `path`; elsewhere, for this process alone, where that cannot be written."""
    logger.info("converting the network for OpenVINO, once")
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        pending = Path(tempfile.mkdtemp(dir=path.parent.parent))
    except OSError as error:
        pending = Path(tempfile.mkdtemp())
        logger.warning("the converted network cannot be kept in %s (%s)", path.parent.parent, error)
        path = pending / path.name
    try:
        check_program(model, write_program(model, pending, "openvino"))
    except BaseException:
        shutil.rmtree(pending, ignore_errors=True)
        raise
    if pending != path.parent:
        shutil.rmtree(path.parent, ignore_errors=True)
        with suppress(OSError):  # another process was quicker
            pending.rename(path.parent)
        shutil.rmtree(pending, ignore_errors=True)
    return path
