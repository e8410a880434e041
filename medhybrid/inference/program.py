"""Export of a model's network as a program that other software can run without medhybrid.

The program takes any batch size and, except for TransUNet, any image size. Formats: `pt2` (`torch.export`), `onnx` (ONNX) and
`openvino` (the two files of OpenVINO). `inference.description` describes the steps before and after the network.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from medhybrid.errors import ConfigError, ModelError, OutputError
from medhybrid.inference.model import Model

Format = Literal["pt2", "onnx", "openvino"]

FORMATS: tuple[Format, ...] = get_args(Format)

FILES: dict[Format, str] = {"pt2": "network.pt2", "onnx": "network.onnx", "openvino": "network.xml"}

LARGEST = 256
"""Largest number of tokens along an axis, and of samples in a batch, that a program takes."""

TOLERANCE = 1e-3
"""Largest difference of a logit, as a share of the largest logit, at which a program counts as equal to the network."""

logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(
    logging.ERROR
)  # its warning is about torchvision, which is not needed

Runner = Callable[[np.ndarray], np.ndarray]


class FullLogits(nn.Module):
    """Network that returns only its full-size logits, without auxiliary outputs and without metadata of the study."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, K, X, Y, Z) of images (B, C, X, Y, Z)."""
        logits: Tensor = self.network(image).full
        return logits


def write_program(model: Model, folder: Path, format_: Format) -> Path:
    """Export the network as a program; return the path of its first file.

    Raises
    ------
    ConfigError
        If the libraries of the format are not installed.
    ModelError
        If the network cannot be exported for any size.
    OutputError
        If the file cannot be written.
    """
    stride, fixed = np.prod(model.plan.strides, axis=0), fixed_axes(model)
    free = [axis for axis in range(3) if axis not in fixed]
    dims = {axis + 2: int(stride[axis]) * torch.export.Dim("xyz"[axis], min=1, max=LARGEST) for axis in free}
    # torch.export treats sizes of 1 in the example as fixed: use two samples, and two tokens along free axes
    shape = [fixed.get(axis) or max(model.plan.patch_size[axis], 2 * int(stride[axis])) for axis in range(3)]
    random = torch.Generator().manual_seed(0)
    example = {"image": torch.rand(2, len(model.plan.channels), *shape, generator=random)}
    network, path = FullLogits(model.network).cpu().eval(), folder / FILES[format_]
    try:
        program = export_program(network, example, {"image": dims})
        if format_ == "pt2":
            content = io.BytesIO()  # in memory: torch ends the process if it cannot write the file itself
            with _quietly():
                torch.export.save(program, content)
            path.write_bytes(content.getbuffer())
        elif format_ == "onnx":
            save_onnx(program, example, path)
        else:
            save_openvino(program, example, path)
    except ConfigError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written", found=error.strerror or str(error)) from error
    except Exception as error:  # torch raises many kinds
        raise ModelError(
            f"a network of kind {model.record.network.kind} cannot be exported as {format_} for any size",
            found=str(error).splitlines()[0][:200],
        ) from error
    return path


def export_program(
    network: nn.Module, example: Mapping[str, Tensor], free: Mapping[str, Mapping[int, Any]]
) -> torch.export.ExportedProgram:
    """Export a network with inputs (B, C, X, Y, Z) as a program for any batch size.

    Parameters
    ----------
    example : mapping
        Example inputs by name, in the order of the network's arguments, with more than one sample.
    free : mapping
        For each input, its axes of variable size, each with a `torch.export.Dim`.
    """
    batch = torch.export.Dim("batch", min=1, max=LARGEST)
    sizes = {name: {0: batch, **free.get(name, {})} for name in example}
    with _quietly():
        return torch.export.export(network, tuple(example.values()), dynamic_shapes=sizes, strict=False)


def save_onnx(program: torch.export.ExportedProgram, example: Mapping[str, Tensor], path: Path) -> None:
    """Write a program as ONNX; raises `ConfigError`."""
    import_for("export", "onnxscript")
    with _quietly():
        made: Any = torch.onnx.export(
            program, tuple(example.values()), dynamo=True, external_data=False, input_names=list(example),
            output_names=["logits"], verbose=False,
        )  # fmt: skip
        made.save(path)


def save_openvino(program: torch.export.ExportedProgram, example: Mapping[str, Tensor], path: Path) -> None:
    """Write a program as the two files of OpenVINO; raises `ConfigError`."""
    openvino, onnx = import_for("export", "openvino"), path.with_name(".network.onnx")
    save_onnx(program, example, onnx)
    with _quietly():
        openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=False)
    onnx.unlink()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress warnings and output of the exporters, which are about their own internals."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def fixed_axes(model: Model) -> dict[int, int]:
    """Return the axes along which a program takes only one size, with that size: axes of one voxel, and all of TransUNet.

    TransUNet works slice by slice and interpolates its position embeddings to the size of the image. Export fixes that size.
    """
    is_fixed = model.record.network.kind == "transunet"
    return {axis: size for axis, size in enumerate(model.plan.patch_size) if is_fixed or size == 1}


def open_program(path: Path) -> Runner:
    """Load an exported program as a function from (B, C, X, Y, Z) to (B, K, X, Y, Z) float32; raises `ConfigError`."""
    if path.suffix == ".pt2":
        module: Any = torch.export.load(path).module()
        return lambda image: np.asarray(module(torch.from_numpy(image)).detach().numpy())
    if path.suffix == ".onnx":
        session = import_for("export", "onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda image: np.asarray(session.run(None, {"image": image})[0])
    compiled = (
        import_for("export", "openvino").Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    )
    return lambda image: np.asarray(compiled(image)[0])


def check_program(model: Model, path: Path) -> float:
    """Compare an exported program with the torch network at two image sizes and batch sizes.

    Returns
    -------
    float
        Largest difference of a logit, as a share of the largest logit.

    Raises
    ------
    ModelError
        If the difference is above `TOLERANCE`.
    """
    run, network = open_program(path), FullLogits(model.network).cpu().eval()
    window, stride = np.array(model.plan.patch_size), np.prod(model.plan.strides, axis=0)
    generator, differences = torch.Generator().manual_seed(0), []
    other = np.maximum(window // 2 // stride, 1) * stride + stride
    for axis, fixed in fixed_axes(model).items():
        other[axis] = fixed
    for batch, size in ((1, window), (2, other)):
        image = torch.rand((batch, len(model.plan.channels), *(int(n) for n in size)), generator=generator)
        with torch.inference_mode():
            expected = network(image).numpy()
        differences.append(np.abs(run(image.numpy()) - expected).max() / np.abs(expected).max())
    return refuse_other(path.name, differences)


def refuse_other(name: str, differences: Sequence[float]) -> float:
    """Return the largest of relative differences of logits; raises `ModelError` if it is above `TOLERANCE`."""
    worst = float(np.max(differences))  # NaN if any difference is NaN; `not worst <= TOLERANCE` refuses NaN as well
    if not worst <= TOLERANCE:
        raise ModelError(
            f"{name} does not give the logits of the model",
            expected=f"a difference of at most {TOLERANCE:g} of the largest logit",
            found=f"{worst:.2g}",
            remedy="export in another format, or with other versions of its libraries",
        )
    return worst


def import_for(extra: str, name: str) -> Any:
    """Import a library of one of medhybrid's extras; raises `ConfigError` if it is not installed."""
    if name == "openvino":
        # OpenVINO sends telemetry through this package; it sends none if the package cannot be imported.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed", remedy=f"pip install 'medhybrid[{extra}]'") from error
