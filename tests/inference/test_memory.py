"""Memory of a prediction: logits are released early, and a device with too little memory gets smaller batches."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import medhybrid
from medhybrid.config import InferenceConfig
from medhybrid.errors import DeviceError
from medhybrid.inference import device_memory, to_grid, windows
from medhybrid.inference.device_memory import free_device_memory, on_device_or_cpu
from medhybrid.inference.memory import ACTIVATIONS, collected_bytes, needed_memory
from medhybrid.inference.rows import Rows, gather
from medhybrid.inference.windows import BatchSize, predict_slabs
from medhybrid.networks.logits import Logits
from tests.synthetic import StudyFolder, blob_case, make_test_plan, save_nifti


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=10),
)
def test_rows_taken_in_ascending_pieces_are_those_of_the_whole_tensor(
    sizes: list[int], steps: list[tuple[int, int]]
) -> None:
    whole = torch.arange(2 * sum(sizes) * 3.0).view(2, sum(sizes), 1, 3)
    told: list[Tensor] = []
    rows = Rows(torch.split(whole, sizes, dim=1), on_slab=told.append)

    first = longest = 0
    for ahead, length in steps:
        first = min(first + ahead, sum(sizes) - 1)
        last = min(first + length, sum(sizes))
        assert torch.equal(rows.take(first, last), whole[:, first:last])
        longest = max(longest, last - first)
        assert rows.n_held < longest + 2 * max(sizes)
    rows.rest()

    assert torch.equal(torch.cat(told, dim=1), whole)
    assert torch.equal(gather(torch.split(whole, sizes, dim=1), sum(sizes)), whole)


def test_released_rows_cannot_be_taken() -> None:
    rows = Rows(torch.split(torch.zeros(1, 10, 1, 1), 2, dim=1))
    rows.take(4, 6)

    with pytest.raises(IndexError, match="row 1 has been released; the first row in memory is 4"):
        rows.take(1, 3)


@settings(max_examples=30)
@given(n=st.integers(1, 60), overlap=st.sampled_from([0.0, 0.3, 0.5]))
def test_slabs_are_consecutive_and_at_most_as_long_as_a_window(n: int, overlap: float) -> None:
    image = torch.arange(1.0, n + 1).view(1, n, 1, 1).expand(1, n, 5, 4).contiguous()

    slabs = list(predict_slabs(image, lambda x: torch.cat([-x, x], 1), overlap=overlap, **SETTINGS))

    assert all(1 <= slab.shape[1] <= 8 for slab in slabs)
    torch.testing.assert_close(torch.cat(slabs, dim=1)[1], image[0])


SETTINGS: dict[str, Any] = {"window": (8, 8, 8), "n_classes": 2, "window_batch": 4}


def memory_for(n_windows: int, seen: list[int]) -> Any:
    """Return a predictor on a device that has memory for a number of windows."""

    def predictor(batch: Tensor) -> Tensor:
        if len(batch) > n_windows:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 2 GiB")
        seen.append(len(batch))
        return torch.cat([-batch, batch], 1)

    return predictor


def test_too_little_memory_for_a_batch_makes_batches_smaller(caplog: pytest.LogCaptureFixture) -> None:
    image, seen = torch.rand(1, 30, 16, 16), []

    slabs = predict_slabs(image, memory_for(1, seen), overlap=0.5, **SETTINGS)

    torch.testing.assert_close(gather(slabs, 30)[1], image[0])
    assert set(seen) == {1}
    assert [r.args[1:] for r in caplog.records if r.args] == [(4, 2), (2, 1)], (
        "said once for each size, not for each window"
    )


def test_too_little_memory_makes_mirrorings_run_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    image, seen = torch.rand(1, 8, 8, 8), []

    slabs = predict_slabs(image, memory_for(1, seen), overlap=0.5, mirror_axes=(0, 1), **SETTINGS)

    torch.testing.assert_close(gather(slabs, 8)[1], image[0])
    assert seen == [1, 1, 1, 1]
    assert [r.args[1:] for r in caplog.records if r.args] == [(4, 2), (2, 1)]


@pytest.mark.parametrize(
    "words",
    [
        "MPS backend out of memory (MPS allocated ...)",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "FIND was unable to find an engine to execute this computation",
        "GET was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.",
    ],
)
def test_out_of_memory_is_recognised_by_its_message_and_the_smaller_batch_is_kept(words: str) -> None:
    def predictor(batch: Tensor) -> Tensor:
        if len(batch) > 2:
            raise RuntimeError(words)
        return torch.cat([-batch, batch], 1)

    size = BatchSize(4)
    list(predict_slabs(torch.rand(1, 30, 16, 16), predictor, overlap=0.5, **(SETTINGS | {"window_batch": size})))

    assert size.n == 2


def test_another_error_is_not_treated_as_out_of_memory() -> None:
    def predictor(batch: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(predict_slabs(torch.rand(1, 9, 9, 9), predictor, overlap=0.5, **SETTINGS))


def test_windows_are_planned_for_the_free_memory_of_the_device(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The device has memory for two windows of 8 x 8 x 8, and no allocation fails."""
    monkeypatch.setattr(device_memory, "free_device_memory", lambda _: int(2.5 * 8**3 * ACTIVATIONS))
    image, seen = torch.rand(1, 30, 16, 16), []

    slabs = predict_slabs(image, memory_for(9, seen), overlap=0.5, **SETTINGS)

    torch.testing.assert_close(gather(slabs, 30)[1], image[0])
    assert max(seen) == 2
    assert caplog.text.count("has memory for 2 windows at once, not 4") == 1


def test_the_free_memory_of_a_gpu_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that torch has cached is free; the limit of the process counts as well."""
    answers = {"mem_get_info": (3 << 30, 8 << 30), "memory_reserved": 2 << 30, "memory_allocated": 1 << 30}
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)
    assert free_device_memory(torch.device("cuda")) == 4 << 30

    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 0.25)
    assert free_device_memory(torch.device("cuda")) == 1 << 30
    assert free_device_memory(torch.device("cpu")) is None


def test_a_scan_that_cannot_fit_is_not_tried_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "free_device_memory", lambda _: 1000)
    places: list[str] = []

    on_device_or_cpu(torch.device("cuda"), lambda place: places.append(place.type), needed=901, of="a")
    on_device_or_cpu(torch.device("cuda"), lambda place: places.append(place.type), needed=900, of="b")

    assert places == ["cpu", "cuda"]


# --- a whole scan -----------------------------------------------------------------------------------------------------


def test_the_memory_of_collected_logits_is_that_of_their_arrays() -> None:
    plan = make_test_plan()  # one channel, one label
    image = np.zeros((1, 20, 10, 5), np.float32)
    rows = 4 * 10 * 5 * 4  # bytes of four rows

    assert collected_bytes(image.shape, plan) == image.nbytes + 4 * image.nbytes
    assert collected_bytes(image.shape, plan, rows=4) == image.nbytes + 4 * rows


class Device:
    """Network whose device has memory for windows only if the scan is not on it as well."""

    def __init__(self, model: medhybrid.Model, n_failures: int) -> None:
        self.network, self.left = model.network, n_failures

    def __call__(self, image: Tensor) -> Logits:
        if self.left:
            self.left -= 1
            raise torch.OutOfMemoryError("out of memory")
        logits: Logits = self.network(image)
        return logits


@pytest.mark.slow
def test_a_scan_that_does_not_fit_is_collected_on_the_cpu_and_then_refused(
    trained: tuple[StudyFolder, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = medhybrid.read_scan(save_nifti(tmp_path / "a.nii.gz", blob_case(20)[0]))
    model = medhybrid.load_model(trained[1], device="cpu")
    expected = model.predict(scan)

    model.run = Device(model, n_failures=2)  # a batch of two, and of one
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(model.predict(scan), expected)
    assert "collected on the CPU" in caplog.text

    model.run = Device(model, n_failures=4)
    with pytest.raises(DeviceError, match="too little memory for one window"):
        model.predict(scan)


@pytest.mark.slow
def test_the_mask_is_the_same_with_and_without_probabilities(
    trained: tuple[StudyFolder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With probabilities all logits are in memory, without them only rows, here in many pieces."""
    monkeypatch.setattr(windows, "PIECE", 6000)
    monkeypatch.setattr(to_grid, "SLAB_VOXELS", 7000)
    model = medhybrid.load_model(trained[1], device="cpu")
    for seed in range(3):
        scan = medhybrid.read_scan(save_nifti(tmp_path / f"{seed}.nii.gz", blob_case(seed, (70, 50, 30))[0]))
        whole, rows = (model.segment(scan, with_probabilities=p) for p in (True, False))
        assert np.array_equal(whole.mask, rows.mask)
        assert whole.score == pytest.approx(rows.score, abs=1e-6)


@pytest.mark.slow
def test_a_scan_with_too_many_values_is_refused_before_they_are_read(
    trained: tuple[StudyFolder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_nifti(tmp_path / "scans" / "bomb.nii.gz", np.zeros((300, 300, 300)))  # 27 million values in a few hundred kB
    assert (tmp_path / "scans" / "bomb.nii.gz").stat().st_size < 1_000_000
    monkeypatch.setattr("medhybrid.inference.worklist.read_entry", lambda *_: pytest.fail("its values were read"))
    model = medhybrid.load_model(trained[1], device="cpu")

    (refused,) = medhybrid.predict(tmp_path / "scans", model=model, out=tmp_path / "out", max_memory=0.1).predictions

    assert "reading the scan of 300 x 300 x 300 values needs more memory than is available" in refused.message
    assert "0.2 GiB" in refused.message
    assert "0.1 GiB (--max-memory)" in refused.message


@pytest.mark.slow
def test_a_scan_that_needs_too_much_memory_fails_and_the_others_are_predicted(
    trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    for name, size in (("large", 160), ("small", 40)):
        save_nifti(tmp_path / "scans" / f"{name}.nii.gz", blob_case(1, (size, size, 60))[0])
    model = medhybrid.load_model(trained[1], device="cpu")
    large, small = (
        needed_memory(medhybrid.read_scan(tmp_path / "scans" / f"{name}.nii.gz"), model.plan, InferenceConfig()) / 2**30
        for name in ("large", "small")
    )

    result = medhybrid.predict(tmp_path / "scans", model=model, out=tmp_path / "out", max_memory=(large + small) / 2)

    refused, done = result.predictions
    assert (refused.case, refused.status, done.status) == ("large", "failed", "done")
    assert "needs more memory than is available" in refused.message
    assert "(--max-memory)" in refused.message


def test_needed_memory_grows_with_labels_windows_models_and_probabilities(tmp_path: Path) -> None:
    scan = medhybrid.read_scan(save_nifti(tmp_path / "a.nii.gz", np.zeros((200, 200, 200), np.int16), np.eye(4)))
    plan = make_test_plan(patch_size=(96, 96, 96), spacing_mm=(1.0, 1.0, 1.0))
    many = plan.model_copy(update={"labels": {f"l{i}": i for i in range(1, 41)}})

    config = InferenceConfig()
    one = needed_memory(scan, many, config)

    assert needed_memory(scan, plan, config) < one < needed_memory(scan, many, config, n_networks=3)
    assert needed_memory(scan, many, config, with_probabilities=True) > one + 40 * 200**3 * 8
    assert one > 41 * 96 * 200 * 200 * 4
