"""Files of our own weights (`.safetensors`), which say of themselves what they are, wherever they are copied to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from medhybrid.errors import ModelError

FORMAT_VERSION = 2
"""Of model folders and of what the network computes: weights of an older version would fit, and mean something else."""

UNKNOWN = "unknown"
"""Among the hashes of what weights were learnt from: there is more, and nobody knows what."""

ABOUT = "medhybrid"
"""Key of `About` in the file's metadata."""


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


def write_weights(path: Path, tensors: Mapping[str, Tensor], about: About) -> Path:
    """Write tensors and what is known of them, under the final name only when all is written."""
    from safetensors.torch import save_file

    pending = path.with_name(f".{path.name}")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, pending, metadata={ABOUT: about.model_dump_json()})
    pending.replace(path)
    return path


def read_about(path: Path) -> About | None:
    """What a `.safetensors` file says of itself; None for one of another program. Errors as `About.read`."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(ABOUT)
    return None if text is None else About.read(text, path.name)
