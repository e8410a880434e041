"""A model's network on a CPU by OpenVINO, which is quicker there than torch; converted once and kept.

CACHE/medhybrid/<key>/network.xml, network.bin      by weights, format and version of OpenVINO

CACHE is `XDG_CACHE_HOME`, or `.cache` in the user's home. What is converted is compared with the torch network before it is
kept; arithmetic is then as on torch: bf16 where the processor has it, else float32. The stem of the network is left to torch,
which computes it in float32 always: OpenVINO would round the picture to bf16 first (docs/performance.md).
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from medhybrid.errors import ConfigError, ModelError
from medhybrid.inference.device import choose_precision
from medhybrid.inference.model import Model
from medhybrid.inference.program import FILES, FullLogits, export_program, import_for, refuse_other, save_openvino
from medhybrid.networks.encoder import ResidualEncoder
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
    kept = cache_folder() / _key(model)
    model.precision = choose_precision(model.device, model.record.inference.precision)  # right for thin patches, too
    compiled = _compile(openvino, kept, model.precision)
    if compiled is None:
        compiled = _convert(openvino, model, kept)
    model.run = OpenVinoNetwork(compiled, _stem(model.network))
    model.runtime = f"OpenVINO {version('openvino')}"
    return model


class AfterStem(nn.Module):
    """The network behind its stem, for export."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, begun: Tensor) -> Tensor:
        """(B, C, X, Y, Z), and what the stem makes of it -> (B, K, X, Y, Z)."""
        logits: Tensor = self.network(image, begun=begun).full
        return logits


class OpenVinoNetwork:
    """A compiled network in the place of a torch one.

    Parameters
    ----------
    stem : callable, optional
        What torch computes before it.
    """

    def __init__(self, compiled: Any, stem: Callable[[Tensor], Tensor] | None) -> None:
        self.compiled, self.stem = compiled, stem

    def __call__(self, image: Tensor) -> Logits:
        """(B, C, *window) -> logits (B, K, *window), the auxiliary ones in name only."""
        inputs = [x.numpy() for x in _inputs(image, self.stem).values()]
        full = torch.from_numpy(np.array(self.compiled(inputs)[0]))
        return Logits(full, full)


def _stem(network: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Of a network that has one."""
    encoder = getattr(network, "encoder", None)
    return encoder.begin if isinstance(encoder, ResidualEncoder) else None


def _inputs(image: Tensor, stem: Callable[[Tensor], Tensor] | None) -> dict[str, Tensor]:
    """What the program of a network is given for windows (B, C, X, Y, Z)."""
    inputs = {"image": image.float().contiguous()}
    if stem is not None:
        with torch.inference_mode():
            inputs["begun"] = stem(inputs["image"]).contiguous()
    return inputs


def cache_folder() -> Path:
    """Where converted networks are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medhybrid"


def _key(model: Model) -> str:
    record = model.record
    made_of = (
        f"{record.weights_sha256} {record.format_version} {version('openvino')} {model.plan.patch_size} stem apart"
    )
    return f"openvino-{hashlib.sha256(made_of.encode()).hexdigest()[:24]}"


def _compile(openvino: Any, folder: Path, precision: torch.dtype) -> Any:
    """The program in a folder, ready to run; None if it is not there, or damaged."""
    try:
        program = openvino.Core().read_model(str(folder / FILES[DEVICE]))
    except RuntimeError:
        return None
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision is torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return openvino.Core().compile_model(program, "CPU", hints)


def write_after_stem(model: Model, folder: Path) -> None:
    """Write the network behind its stem, if it has one, for windows of the model's size in any number: free sizes are slower.

    Raises
    ------
    ModelError
        If it cannot be exported.
    """
    network = model.network.cpu().eval()
    stem = _stem(network)
    inputs = _inputs(torch.rand(2, len(model.plan.channels), *model.plan.patch_size), stem)
    behind = (FullLogits if stem is None else AfterStem)(network).eval()
    try:
        program = export_program(behind, {name: x.clone() for name, x in inputs.items()}, {})
        save_openvino(program, inputs, folder / FILES[DEVICE])
    except ConfigError:
        raise
    except Exception as error:  # torch raises many kinds
        raise ModelError(
            f"a network of kind {model.record.network.kind} cannot be exported", found=str(error).splitlines()[0][:200]
        ) from error


def check_after_stem(openvino: Any, model: Model, folder: Path) -> None:
    """Raise `ModelError` if what was written, in float32, is not what the torch network computes for one window and for two."""
    compiled = _compile(openvino, folder, torch.float32)
    if compiled is None:
        raise ModelError("OpenVINO cannot read the network that it made")
    run, differences = OpenVinoNetwork(compiled, _stem(model.network)), []
    for batch in (1, 2):
        image = torch.rand(batch, len(model.plan.channels), *model.plan.patch_size)
        with torch.inference_mode():
            expected = model.network(image).full
        differences.append(float((run(image).full - expected).abs().max() / expected.abs().max()))
    refuse_other(FILES[DEVICE], differences)


def _convert(openvino: Any, model: Model, kept: Path) -> Any:
    """Make the program, keep it where that is possible, and compile it."""
    import_for(DEVICE, "onnxscript")
    logger.info("converting the network for OpenVINO, once")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        pending = Path(tempfile.mkdtemp(dir=kept.parent))
    except OSError as error:
        pending = Path(tempfile.mkdtemp())
        logger.warning("the converted network cannot be kept in %s (%s)", kept.parent, error)
    try:
        write_after_stem(model, pending)
        check_after_stem(openvino, model, pending)
        compiled = _compile(openvino, pending, model.precision)
        if pending.parent == kept.parent:
            pending.chmod(0o755)  # a shared cache may be read by others
            _keep(pending, kept)
    except ModelError as error:
        raise ModelError(
            f"OpenVINO cannot run this model: {error.what}", found=error.found, remedy="take --device cpu"
        ) from error
    finally:
        shutil.rmtree(pending, ignore_errors=True)
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
