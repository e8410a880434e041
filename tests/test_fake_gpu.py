"""Rules for code that runs on a GPU, checked on a fake one: devices, waiting, memory formats, deterministic operations."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fake_gpu import KINDS, SCENARIOS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def notes() -> dict[str, Any]:
    """Return the notes of each scenario; they run once, in a process of their own."""
    command = [sys.executable, "-m", "tests.fake_gpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_tensor_is_left_on_the_cpu(notes: dict[str, Any], name: str) -> None:
    """Training steps of every kind with loss, gradients, optimiser and augmentation; pretraining; windows."""
    assert "error" not in notes[name], notes[name]["error"]
    assert any("convolution" in operation or "conv3d" in operation for operation in notes[name]["operations"])


FIRST_USE = re.compile(r"^networks/transformer\.py")
"""Biases of the attention are computed at their first use and kept."""


def waits_of(notes: dict[str, Any], name: str) -> list[str]:
    return [place for place in notes[name]["waits"] if not FIRST_USE.match(place)]


STEPS = [name for name in SCENARIOS if not name.startswith("windows")]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_for_the_gpu_only_for_its_inputs_and_to_check_the_loss(notes: dict[str, Any], name: str) -> None:
    """Network, loss and optimiser wait for nothing, so that they can be recorded."""
    waits = waits_of(notes, name)

    files = Counter(place.partition(":")[0] for place in waits)
    assert files.pop("training/loop.py") == 1, "one check of the loss"
    n_inputs = files.pop("training/objective.py", 0) + files.pop("training/pretraining.py", 0)
    n_augmenting = files.pop("data/augment.py", 0)
    assert not files, waits
    assert n_inputs <= 1, waits
    assert n_augmenting <= (18 if name == "step with augmentation" else 0), waits


@pytest.mark.parametrize(("name", "n_slabs"), [("windows hybrid", 2), ("windows transunet", 2)])
def test_windows_wait_for_the_gpu_once_for_each_row_of_windows(notes: dict[str, Any], name: str, n_slabs: int) -> None:
    """And once for the weights with which they are blended."""
    waits = waits_of(notes, name)

    assert len(waits) <= n_slabs + 1, waits


N_OTHER_LAYOUTS = {"hybrid": 13, "resnet": 12, "identity": 13, "interleave": 14, "transformer": 4, "transunet": 2}
"""Convolutions whose input has another memory format; most follow torch's instance norm.

Norms by samples would leave one, but made no step faster on a GPU (docs/lab-notes/performance.md).
"""


@pytest.mark.parametrize("kind", KINDS)
def test_no_further_convolution_gets_another_memory_format(notes: dict[str, Any], kind: str) -> None:
    """A GPU copies an input of another memory format before and after each convolution."""
    found = notes[f"step {kind}"]["other_layouts"]

    assert len(found) <= N_OTHER_LAYOUTS[kind], Counter(found)


LACKS_ALGORITHM = re.compile(
    r"aten\.(nll_loss|ctc_loss|avg_pool3d_backward|adaptive_|fractional_|max_unpool|reflection_pad|put_|histc|median|cumsum"
    r"|upsample_(linear|bilinear|bicubic|trilinear)\w*_backward|grid_sampler_\dd_backward|_embedding_bag.*backward)"
)
"""Operations that torch lists as not deterministic on CUDA (`torch.use_deterministic_algorithms`)."""


@pytest.mark.parametrize("kind", ["resnet", "transunet"])
def test_a_deterministic_step_has_no_operation_without_a_deterministic_algorithm(
    notes: dict[str, Any], kind: str
) -> None:
    plain, chosen = (
        {o for o in notes[f"{way} {kind}"]["operations"] if LACKS_ALGORITHM.match(o)}
        for way in ("step", "deterministic")
    )

    assert plain, "a step without the setting has some"
    assert not chosen
