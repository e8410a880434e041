"""Weights files of medhybrid (`.safetensors`) with a description of the weights in the file's metadata."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch import Tensor

from medhybrid.errors import ModelError

FORMAT_VERSION = 2
"""Version of model folders and of the network's arithmetic.

Weights of an older version can have the same shapes and still give wrong results.
"""

UNKNOWN = "unknown"
"""Entry of `About.training_images` for further training images that are not known."""

ABOUT = "medhybrid"
"""Key of `About` in the file's metadata."""

CHECKSUM = "checksum"
"""Key of the tensors' checksum, beside the fields of `About`, in files that have no separate record with a hash."""


class About(BaseModel):
    """Description of weights, besides their values.

    Attributes
    ----------
    format_version : int
        Version of the network's arithmetic; see `FORMAT_VERSION`.
    channels, labels : tuple of str
        Names of the network's inputs and outputs.
    heads : int
        Number of attention heads. Weights with another number have the same shapes, but split a token's width elsewhere.
    training_images : tuple of str
        Hashes of the images (`data.pictures`) on which the weights were trained, with `UNKNOWN` if the list is incomplete.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    channels: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    heads: int | None = None
    training_images: tuple[str, ...] = Field((), validation_alias=AliasChoices("training_images", "learnt_from"))

    @classmethod
    def read(cls, text: str, source: str) -> About:
        """Read a description from the metadata of a file; raises `ModelError` if it is invalid or of another version."""
        try:
            values = json.loads(text)
            values.pop(CHECKSUM, None)
            check_version(
                source, values.get("format_version")
            )  # before the fields, since another version may have other fields
            return cls.model_validate(values)
        except (ValueError, AttributeError) as error:
            raise ModelError(f"{source} has an invalid description of its weights", found=str(error)[:200]) from error


def check_version(source: str, version: object) -> None:
    """Raise `ModelError` for weights of another version."""
    if version != FORMAT_VERSION:
        raise ModelError(
            f"the weights in {source} were written by another version of medhybrid",
            expected=f"format {FORMAT_VERSION}",
            found=f"format {version}",
            remedy="train them again",
        )


def write_weights(path: Path, tensors: Mapping[str, Tensor], about: About, *, with_checksum: bool = False) -> Path:
    """Write tensors and their description. The file gets its final name when it is complete.

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
    """Read the description of weights in a `.safetensors` file; None for a file of another program.

    Raises the errors of `About.read`.
    """
    text = _about_text(path)
    return None if text is None else About.read(text, path.name)


def check_heads(path: Path, heads: int | None) -> None:
    """Raise `ModelError` if the description of weights has another number of heads than their model's record."""
    try:  # alone, since the record has the rest, and files of earlier versions may have other fields
        stated = json.loads(_about_text(path) or "{}").get("heads")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path.name} has an invalid description of its weights", found=str(error)[:200]) from error
    if stated not in (None, heads):
        raise ModelError(
            f"the record of {path.name} is of another network",
            expected=f"network.heads {stated}",
            found=f"network.heads {heads}",
            remedy="copy the whole model folder again",
        )


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Compare tensors with the checksum in their file, if it has one; raises `ModelError` if they differ."""
    try:
        expected = json.loads(_about_text(path) or "{}").get(CHECKSUM)
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path.name} has an invalid description of its weights", found=str(error)[:200]) from error
    if expected is not None and _checksum_of(tensors) != expected:
        raise ModelError(
            f"{path.name} is damaged",
            expected=f"checksum {expected}",
            found=f"checksum {_checksum_of(tensors)}",
            remedy="copy it again",
        )


def check_archive(path: Path) -> None:
    """Verify the checksums in a file of `torch.save`, which `torch.load` does not do.

    Files of torch before 1.6 are not zip archives and have no checksums.

    Raises
    ------
    zipfile.BadZipFile
        If a checksum differs.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not match its checksum")


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
