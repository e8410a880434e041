"""A complete checkpoint is on disk at any moment, and loading it runs no code."""

import pickle
from pathlib import Path

import pytest
import torch

from medhybrid.errors import ModelError
from medhybrid.training.checkpoint import load_checkpoint, save_checkpoint


def test_saving_and_loading_is_identity(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"weights": {"a": torch.arange(3)}, "step": 7})

    state = load_checkpoint(tmp_path)

    assert state["step"] == 7
    assert torch.equal(state["weights"]["a"], torch.arange(3))


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(tmp_path: Path, damage: bytes) -> None:
    save_checkpoint(tmp_path, {"step": 1})
    save_checkpoint(tmp_path, {"step": 2})
    (tmp_path / "last.pt").write_bytes(damage)

    assert load_checkpoint(tmp_path)["step"] == 1


def test_a_changed_weight_is_detected_and_the_previous_checkpoint_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"step": 1})
    save_checkpoint(tmp_path, {"step": 2, "weights": torch.full((99,), 1.5)})
    content = bytearray((tmp_path / "last.pt").read_bytes())
    content[content.index(torch.full((2,), 1.5).numpy().tobytes()) + 42] ^= 1
    (tmp_path / "last.pt").write_bytes(bytes(content))

    assert load_checkpoint(tmp_path)["step"] == 1


def test_without_a_checkpoint_the_error_has_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no usable checkpoint.*Start a new run"):
        load_checkpoint(tmp_path)


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (Path.touch, (tmp_path / "pwned",))

    torch.save({"version": 1, "step": Evil()}, tmp_path / "last.pt", pickle_module=pickle)

    with pytest.raises(ModelError):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "pwned").exists()
