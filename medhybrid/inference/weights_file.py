"""Files of our own weights (`.safetensors`), which say of themselves what they are, wherever they are copied to."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from medhybrid.errors import ModelError

FORMAT_VERSION = 2
"""Of model folders and of what the network computes: weights of an older version would fit, and mean something else."""

UNKNOWN = "unknown"
"""Among the hashes of what weights were learnt from: there is more, and nobody knows what."""

ABOUT = "medhybrid"
"""Key of `About` in the file's metadata."""

CHECKSUM = "checksum"
"""Key beside the fields of `About` in a file that has no record elsewhere to compare its tensors with."""


class About(BaseModel):
    """What is known of weights besides their values.

    Attributes
    ----------
    format_version : int
        Of what a network computes with them.
    channels, labels : tuple of str
        Names of the network's inputs and outputs.
    heads : int
        Attention heads that share a token's width: others cut it elsewhere.
    learnt_from : tuple of str
        Hashes of the pictures (`data.pictures`) that they were learnt from, and `UNKNOWN` where that is not all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    channels: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    heads: int | None = None
    learnt_from: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str, source: str) -> About:
        """From what a file says; raises `ModelError` if it cannot be understood or is of another version."""
        try:
            values = json.loads(text)
            values.pop(CHECKSUM, None)
            check_version(
                source, values.get("format_version")
            )  # before the fields, which another version may have more of
            return cls.model_validate(values)
        except (ValueError, AttributeError) as error:
            raise ModelError(f"{source} does not say what it is", found=str(error)[:200]) from error


def check_version(source: str, version: object) -> None:
    """Raises `ModelError` for weights of another version."""
    if version != FORMAT_VERSION:
        raise ModelError(
            f"the weights in {source} were made by another version of medhybrid",
            expected=f"format {FORMAT_VERSION}",
            found=f"format {version}",
            remedy="make them again",
        )


def write_weights(path: Path, tensors: Mapping[str, Tensor], about: About, *, with_checksum: bool = False) -> Path:
    """Write tensors and what is known of them, under the final name only when all is written.

    Parameters
    ----------
    with_checksum : bool
        Write a checksum of the tensors into the file, for `check_tensors`.
    """
    from safetensors.torch import save_file

    pending = path.with_name(f".{path.name}")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = about.model_dump_json()
    if with_checksum:
        text = json.dumps(json.loads(text) | {CHECKSUM: _checksum_of(plain)})
    save_file(plain, pending, metadata={ABOUT: text})
    pending.replace(path)
    return path


def read_about(path: Path) -> About | None:
    """What a `.safetensors` file says of itself; None for one of another program. Errors as `About.read`."""
    text = _about_text(path)
    return None if text is None else About.read(text, path.name)


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Compare tensors with the checksum in the file that they are from, if it has one; raises `ModelError`."""
    try:
        expected = json.loads(_about_text(path) or "{}").get(CHECKSUM)
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path.name} does not say what it is", found=str(error)[:200]) from error
    if expected is not None and _checksum_of(tensors) != expected:
        raise ModelError(
            f"{path.name} is damaged",
            expected=f"checksum {expected}",
            found=f"checksum {_checksum_of(tensors)}",
            remedy="copy it again",
        )


def check_archive(path: Path) -> None:
    """Compare the checksums in a file of `torch.save`, which `torch.load` does not.

    Files of torch before 1.6 are no zip archives and have none.

    Raises
    ------
    zipfile.BadZipFile
        If one differs.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} has another checksum than when it was written")


def _about_text(path: Path) -> str | None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get(ABOUT)


def _checksum_of(tensors: Mapping[str, Tensor]) -> str:
    """Compute the CRC-32 of tensors with their names and types, in the order of the names."""
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes(), crc)
    return f"{crc:08x}"
