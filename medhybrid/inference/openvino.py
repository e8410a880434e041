"""A model's network on a CPU by OpenVINO, which is quicker there than torch; converted once and kept.

CACHE/medhybrid/<key>/stem.xml, network.xml (and .bin)      by weights, format and version of OpenVINO

CACHE is `XDG_CACHE_HOME`, or `.cache` in the user's home. What is converted is compared with the torch network before it is
kept; arithmetic is then as on torch: bf16 where the processor has it, else float32. The stem of the network is a program of its
own, in float32 always: together, OpenVINO would round the picture to bf16 first (docs/results/performance.md).
"""

from __future__ import annotations

import hashlib
import json
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
from torch import Tensor, nn

from medhybrid.errors import ConfigError, ModelError
from medhybrid.inference.device import choose_precision
from medhybrid.inference.model import Model
from medhybrid.inference.program import FILES, FullLogits, export_program, import_for, refuse_other, save_openvino
from medhybrid.networks.encoder import ResidualEncoder
from medhybrid.networks.logits import Logits

logger = logging.getLogger(__name__)

DEVICE: Literal["openvino"] = "openvino"

STEM = "stem.xml"

HASHES = "hashes.json"
"""Of the files beside it, when they had been compared: altered ones are made again."""


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
    run = _compile(openvino, model, kept, model.precision) if _is_as_written(kept) else None
    model.run = run or _convert(openvino, model, kept)
    model.runtime = f"OpenVINO {version('openvino')}"
    return model


class Stem(nn.Module):
    """The stem of a network, for export."""

    def __init__(self, encoder: ResidualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> what the encoder goes on from."""
        return self.encoder.begin(image)


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
    network, stem : compiled programs
        The whole network; or what is behind its stem, and the stem.
    """

    def __init__(self, network: Any, stem: Any = None) -> None:
        self.network, self.stem = network, stem

    def __call__(self, image: Tensor) -> Logits:
        """(B, C, *window) -> logits (B, K, *window), the auxiliary ones in name only."""
        inputs = [image.float().contiguous().numpy()]
        if self.stem is not None:
            inputs.append(self.stem(inputs)[0])
        full = torch.from_numpy(np.array(self.network(inputs)[0]))
        return Logits(full, full)


def cache_folder() -> Path:
    """Where converted networks are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medhybrid"


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each program's files."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.name != HASHES}


def _is_as_written(folder: Path) -> bool:
    """Whether the files of a folder are those that were compared with the torch network."""
    try:
        return bool(json.loads((folder / HASHES).read_bytes()) == _hashes(folder))
    except (OSError, ValueError):
        return False


def _key(model: Model) -> str:
    record = model.record
    made_of = f"{record.weights_sha256} {record.format_version} {version('openvino')} {model.plan.patch_size} {STEM}"
    return f"openvino-{hashlib.sha256(made_of.encode()).hexdigest()[:24]}"


def _encoder(network: nn.Module) -> ResidualEncoder | None:
    """Of a network whose encoder has a stem."""
    encoder = getattr(network, "encoder", None)
    return encoder if isinstance(encoder, ResidualEncoder) else None


def _compile(openvino: Any, model: Model, folder: Path, precision: torch.dtype) -> OpenVinoNetwork | None:
    """The programs in a folder, ready to run; None if they are not there, or damaged."""

    def program(name: str, precision: torch.dtype) -> Any:
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision is torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        return core.compile_model(core.read_model(str(folder / name)), "CPU", hints)

    try:
        stem = program(STEM, torch.float32) if _encoder(model.network) is not None else None
        return OpenVinoNetwork(program(FILES[DEVICE], precision), stem)
    except RuntimeError:
        return None


def write_programs(model: Model, folder: Path) -> None:
    """Write the network, its stem apart if it has one, for windows of the model's size in any number: free sizes are slower.

    Raises
    ------
    ModelError
        If it cannot be exported.
    """
    network = model.network.cpu().eval()
    example = {"image": torch.rand(2, len(model.plan.channels), *model.plan.patch_size)}
    try:
        if (encoder := _encoder(network)) is None:
            save_openvino(export_program(FullLogits(network), example, {}), example, folder / FILES[DEVICE])
            return
        stem = Stem(encoder).eval()
        save_openvino(export_program(stem, example, {}), example, folder / STEM)
        with torch.no_grad():
            both = example | {"begun": stem(example["image"]).contiguous()}
        save_openvino(export_program(AfterStem(network), both, {}), both, folder / FILES[DEVICE])
    except ConfigError:
        raise
    except Exception as error:  # torch raises many kinds
        raise ModelError(
            f"a network of kind {model.record.network.kind} cannot be exported", found=str(error).splitlines()[0][:200]
        ) from error


def check_programs(openvino: Any, model: Model, folder: Path) -> None:
    """Raise `ModelError` if what was written, in float32, is not what the torch network computes for one window and for two."""
    run, differences = _compile(openvino, model, folder, torch.float32), []
    if run is None:
        raise ModelError("OpenVINO cannot read the network that it made")
    for batch in (1, 2):
        image = torch.rand(batch, len(model.plan.channels), *model.plan.patch_size)
        with torch.inference_mode():
            expected = model.network(image).full
        differences.append(float((run(image).full - expected).abs().max() / expected.abs().max()))
    refuse_other(FILES[DEVICE], differences)


def _convert(openvino: Any, model: Model, kept: Path) -> OpenVinoNetwork:
    """Make the programs, keep them where that is possible, and compile them."""
    import_for(DEVICE, "onnxscript")
    logger.info("converting the network for OpenVINO, once")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        pending = Path(tempfile.mkdtemp(dir=kept.parent))
    except OSError as error:
        pending = Path(tempfile.mkdtemp())
        logger.warning("the converted network cannot be kept in %s (%s)", kept.parent, error)
    try:
        write_programs(model, pending)
        check_programs(openvino, model, pending)
        compiled = _compile(openvino, model, pending, model.precision)
        if compiled is None:
            raise ModelError("OpenVINO cannot run the network that it made", found=str(model.precision))
        if pending.parent == kept.parent:
            (pending / HASHES).write_text(json.dumps(_hashes(pending)))
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
