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
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medhybrid.errors import ConfigError, ModelError
from medhybrid.inference.model import Model
from medhybrid.inference.program import FILES, check_program, import_for, write_program
from medhybrid.networks.logits import Logits

logger = logging.getLogger(__name__)

DEVICE: Literal["openvino"] = "openvino"


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
    import_for(DEVICE, "onnxscript")
    kept = cache_folder() / _key(model)
    compiled = _compile(openvino, model, kept)
    if compiled is None:
        compiled = _convert(openvino, model, kept)
    model.run = OpenVinoNetwork(compiled)
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


def _compile(openvino: Any, model: Model, folder: Path) -> Any:
    """The program in a folder, for windows of the model's size; None if it is not there, or damaged."""
    try:
        program = openvino.Core().read_model(str(folder / FILES[DEVICE]))
    except RuntimeError:
        return None
    return compile_for_windows(program, (len(model.plan.channels), *model.plan.patch_size), model.precision)


def compile_for_windows(program: Any, shape: tuple[int, int, int, int], precision: torch.dtype) -> Any:
    """A program of OpenVINO for windows (C, X, Y, Z) of one size, in any number: with free sizes it is slower."""
    program.reshape([-1, *shape])
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision is torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return import_for(DEVICE, "openvino").Core().compile_model(program, "CPU", hints)


def _convert(openvino: Any, model: Model, kept: Path) -> Any:
    """Make the program, keep it where that is possible, and compile it."""
    logger.info("converting the network for OpenVINO, once")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        pending = Path(tempfile.mkdtemp(dir=kept.parent))
    except OSError as error:
        pending = Path(tempfile.mkdtemp())
        logger.warning("the converted network cannot be kept in %s (%s)", kept.parent, error)
    try:
        check_program(model, write_program(model, pending, DEVICE))
        compiled = _compile(openvino, model, pending)
        if pending.parent == kept.parent:
            pending.chmod(0o755)  # a shared cache may be read by others
            _keep(pending, kept)
    except ModelError as error:
        raise ModelError(
            f"OpenVINO cannot run this model: {error.what}", found=error.found, remedy="take --device cpu"
        ) from error
    finally:
        shutil.rmtree(pending, ignore_errors=True)
    if compiled is None:
        raise ModelError("OpenVINO cannot read the network that it made", remedy="take --device cpu")
    return compiled


def _keep(pending: Path, kept: Path) -> None:
    """Give a folder its final name; what is there has been found damaged, or is of a process that was quicker."""
    with suppress(OSError):
        pending.rename(kept)
        return
    damaged = Path(tempfile.mkdtemp(dir=kept.parent)) / "damaged"
    with suppress(OSError):
        kept.rename(damaged)
        pending.rename(kept)
    shutil.rmtree(damaged.parent, ignore_errors=True)
