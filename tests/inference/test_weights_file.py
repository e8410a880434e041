"""Weights files that were damaged after writing are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medhybrid.errors import ModelError
from medhybrid.inference.weights_file import About, read_about, write_weights
from medhybrid.starts.files import read_weights

TENSORS = {"b": torch.full((99,), 1.5), "a": torch.full((9, 2), 1.5, dtype=torch.bfloat16), "n": torch.tensor(3)}


def change_a_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((2,), 1.5).numpy().tobytes()) + 42] ^= 1
    path.write_bytes(bytes(content))


def test_a_checksum_detects_damage_and_leaves_the_weights_unchanged(tmp_path: Path) -> None:
    about = About(channels=("T1",))
    path = write_weights(tmp_path / "start.safetensors", TENSORS, about, with_checksum=True)

    assert read_about(path) == about
    assert torch.equal(read_weights(path).tensors["b"], TENSORS["b"])
    change_a_weight(path)
    with pytest.raises(ModelError, match=r"start\.safetensors is damaged"):
        read_weights(path)


def test_damaged_files_of_torch_and_numpy_are_refused(tmp_path: Path) -> None:
    torch.save({"b": TENSORS["b"]}, tmp_path / "x.pt")
    np.savez(tmp_path / "x.npz", b=TENSORS["b"].numpy())

    for name in ("x.pt", "x.npz"):
        assert read_weights(tmp_path / name).tensors["b"][0] == 1.5
        change_a_weight(tmp_path / name)
        with pytest.raises(ModelError, match="damaged"):
            read_weights(tmp_path / name)
