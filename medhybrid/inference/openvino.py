"""Fast path on CPUs: a model's network run by OpenVINO. The network is converted once and cached.

CACHE/medhybrid/<key>/stem.xml, network.xml (and .bin)      one folder for each network, plan, format, version of OpenVINO

CACHE is `XDG_CACHE_HOME`, or `.cache` in the user's home. A converted network is compared with the torch network before it is
cached. It computes in bf16 if the processor supports it, otherwise in float32, as with torch. The stem of the network is a
separate program, always in float32: in one program, OpenVINO would first round the image to bf16 (docs/results/performance.md).
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
from medhybrid.inference.model import Model
from medhybrid.inference.precision import Precision, choose_precision
from medhybrid.inference.program import FILES, FullLogits, export_program, import_for, refuse_other, save_openvino
from medhybrid.networks.encoder import ResidualEncoder
from medhybrid.networks.logits import Logits

logger = logging.getLogger(__name__)

DEVICE: Literal["openvino"] = "openvino"

STEM = "stem.xml"

HINTS = {Precision.BF16: "bf16", Precision.FP16: "f16", Precision.FLOAT32: "f32"}
"""OpenVINO's names of the precisions."""

HASHES = "hashes.json"
"""File with the hashes of the programs that were compared. If a hash differs, the network is converted again."""


def on_openvino(model: Model) -> Model:
    """Set up a model so that OpenVINO runs its network, and return it.

    Parameters
    ----------
    model : Model
        On the CPU; it is modified.

    Raises
    ------
    ConfigError
        If OpenVINO is not installed, or the model uses metadata conditioning (`data.context`), which programs do not support.
    ModelError
        If the network cannot be converted, or the program computes other logits.
    """
    if model.plan.context:
        raise ConfigError(
            "OpenVINO cannot run this model: it uses metadata conditioning (data.context)",
            found=", ".join(model.plan.context),
            remedy="use --device cpu",
        )
    openvino = import_for(DEVICE, "openvino")
    kept = cache_folder() / _key(model)
    model.precision = choose_precision(model.device, model.record.inference.precision, is_thin=model.plan.is_thin)
    run = _compile(openvino, model, kept, model.precision) if _is_as_written(kept) else None
    model.run = run or _convert(openvino, model, kept)
    model.runtime = f"OpenVINO {version('openvino')}"
    return model


class Stem(nn.Module):
    """Stem of a network, as a module to export."""

    def __init__(self, encoder: ResidualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        """Return the features of the stem, with which the encoder continues, for images (B, C, X, Y, Z)."""
        return self.encoder.apply_stem(image)


class AfterStem(nn.Module):
    """Network without its stem, as a module to export."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, stem_features: Tensor) -> Tensor:
        """Return logits (B, K, X, Y, Z) of images (B, C, X, Y, Z) and their features from the stem."""
        logits: Tensor = self.network(image, stem_features=stem_features).full
        return logits


class OpenVinoNetwork:
    """Compiled network with the interface of a torch network.

    Parameters
    ----------
    network, stem : compiled programs
        The whole network, with `stem` None; or the network without its stem, and the stem.
    """

    def __init__(self, network: Any, stem: Any = None) -> None:
        self.network, self.stem = network, stem

    def __call__(self, image: Tensor) -> Logits:
        """Return logits (B, K, *window) of images (B, C, *window). The auxiliary logits are only a copy of them."""
        inputs = [image.float().contiguous().numpy()]
        if self.stem is not None:
            inputs.append(self.stem(inputs)[0])
        full = torch.from_numpy(np.array(self.network(inputs)[0]))
        return Logits(full, full)


def cache_folder() -> Path:
    """Return the folder in which converted networks are cached."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medhybrid"


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file of the programs in a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.name != HASHES}


def _is_as_written(folder: Path) -> bool:
    """Return whether the files of a folder are those that were compared with the torch network."""
    try:
        return bool(json.loads((folder / HASHES).read_bytes()) == _hashes(folder))
    except (OSError, ValueError):
        return False


def _key(model: Model) -> str:
    record = model.record
    plan = model.plan.model_dump_json(
        exclude={"keep_largest", "min_component_ml", "mirror_pairs"}
    )  # rules for the mask, not the network
    parts = (record.weights_sha256, record.format_version, version("openvino"), record.network.model_dump_json(), plan)
    made_of = " ".join(map(str, (*parts, STEM)))
    return f"openvino-{hashlib.sha256(made_of.encode()).hexdigest()[:24]}"


def _encoder(network: nn.Module) -> ResidualEncoder | None:
    """Return the encoder of a network if it has a stem; None for other networks."""
    encoder = getattr(network, "encoder", None)
    return encoder if isinstance(encoder, ResidualEncoder) else None


def _compile(openvino: Any, model: Model, folder: Path, precision: Precision) -> OpenVinoNetwork | None:
    """Compile the programs in a folder; None if they are missing or damaged."""

    def program(name: str, precision: Precision) -> Any:
        hints = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        return core.compile_model(core.read_model(str(folder / name)), "CPU", hints)

    try:
        stem = program(STEM, Precision.FLOAT32) if _encoder(model.network) is not None else None
        return OpenVinoNetwork(program(FILES[DEVICE], precision), stem)
    except RuntimeError:
        return None


def write_programs(model: Model, folder: Path) -> None:
    """Write the network, with its stem as a separate program if it has one.

    The programs take any number of windows, all of the model's size: programs for any size are slower.

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
            both = example | {"stem_features": stem(example["image"]).contiguous()}
        save_openvino(export_program(AfterStem(network), both, {}), both, folder / FILES[DEVICE])
    except ConfigError:
        raise
    except Exception as error:  # torch raises many kinds
        raise ModelError(
            f"a network of kind {model.record.network.kind} cannot be exported", found=str(error).splitlines()[0][:200]
        ) from error


def check_programs(openvino: Any, model: Model, folder: Path) -> None:
    """Raise `ModelError` if the programs, in float32, differ from the torch network for a batch of one or two windows."""
    run, differences = _compile(openvino, model, folder, Precision.FLOAT32), []
    if run is None:
        raise ModelError("OpenVINO cannot read the network that it converted")
    for batch in (1, 2):
        image = torch.rand(batch, len(model.plan.channels), *model.plan.patch_size)
        with torch.inference_mode():
            expected = model.network(image).full
        differences.append(float((run(image).full - expected).abs().max() / expected.abs().max()))
    refuse_other(FILES[DEVICE], differences)


def _convert(openvino: Any, model: Model, kept: Path) -> OpenVinoNetwork:
    """Convert the network, cache the programs if the cache can be written to, and compile them."""
    import_for(DEVICE, "onnxscript")
    logger.info("converting the network for OpenVINO; the result is cached for later runs")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        pending = Path(tempfile.mkdtemp(dir=kept.parent))
    except OSError as error:
        pending = Path(tempfile.mkdtemp())
        logger.warning("the converted network cannot be cached in %s (%s)", kept.parent, error)
    try:
        write_programs(model, pending)
        check_programs(openvino, model, pending)
        compiled = _compile(openvino, model, pending, model.precision)
        if compiled is None:
            raise ModelError("OpenVINO cannot run the network that it converted", found=str(model.precision))
        if pending.parent == kept.parent:
            (pending / HASHES).write_text(json.dumps(_hashes(pending)))
            pending.chmod(0o755)  # a shared cache may be read by others
            _keep(pending, kept)
    except ModelError as error:
        raise ModelError(
            f"OpenVINO cannot run this model: {error.what}", found=error.found, remedy="use --device cpu"
        ) from error
    finally:
        shutil.rmtree(pending, ignore_errors=True)
    return compiled


def _keep(pending: Path, kept: Path) -> None:
    """Rename a folder to its final name. A folder with this name is damaged, or another process has just written it."""
    with suppress(OSError):
        pending.rename(kept)
        return
    damaged = Path(tempfile.mkdtemp(dir=kept.parent)) / "damaged"
    with suppress(OSError):
        kept.rename(damaged)
        pending.rename(kept)
    shutil.rmtree(damaged.parent, ignore_errors=True)
