"""Choice of device and precision: the fastest one in hardware, and float32 where the other is wrong."""

from __future__ import annotations

import pytest
import torch

from medhybrid.config import InferenceConfig, NetworkConfig
from medhybrid.errors import DeviceError
from medhybrid.inference import device, network
from medhybrid.inference.device import choose_device
from medhybrid.inference.model import Model
from medhybrid.inference.network import network_for
from medhybrid.inference.precision import Precision, choose_precision
from medhybrid.inference.windows import predict_windows
from medhybrid.networks.logits import Logits
from tests.synthetic import make_test_plan, make_test_record

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


HELD = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
"""Code of a build of torch for CUDA 13."""


def put_in_a_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], held: list[str] = HELD) -> None:
    """Give this host a GPU of a compute capability, and a build of torch with code for some capabilities."""
    device.say_once.cache_clear()
    properties = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_capability": lambda _device=None: capability,
        "get_device_name": lambda _device=None: "Card",
        "get_arch_list": lambda: held,
        "is_bf16_supported": lambda including_emulation=True: including_emulation,
    }
    for name, value in properties.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        ((6, 0), Precision.FLOAT32),
        ((6, 1), Precision.FLOAT32),
        ((7, 0), Precision.FP16),
        ((7, 5), Precision.FP16),
        ((8, 0), Precision.BF16),
        ((8, 6), Precision.BF16),
        ((8, 9), Precision.BF16),
        ((9, 0), Precision.BF16),
        ((10, 0), Precision.BF16),
    ],
)
def test_a_gpu_computes_in_the_fastest_precision_that_it_has_in_hardware(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: Precision
) -> None:
    put_in_a_card(monkeypatch, capability)

    assert choose_precision(CUDA, "auto") is precision
    assert choose_precision(CUDA, "float32") is Precision.FLOAT32


def test_bf16_on_a_gpu_that_emulates_it_is_kept_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_in_a_card(monkeypatch, (7, 5))

    assert choose_precision(CUDA, "bf16") is Precision.BF16
    assert "emulation" in caplog.text


@pytest.mark.parametrize(
    ("capability", "held", "has_code"),
    [
        ((7, 0), HELD, False),
        ((6, 1), HELD, False),
        ((7, 5), HELD, True),
        ((8, 9), HELD, True),  # code for 8.6 runs on later minor versions
        ((12, 1), HELD, True),
        ((13, 0), HELD, True),  # by intermediate code
        ((13, 0), ["sm_120"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a"], False),
        ((9, 0), ["gfx90a"], True),  # ROCm
    ],
)
def test_a_gpu_without_code_in_the_installed_torch_is_refused_and_not_chosen(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    held: list[str],
    has_code: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put_in_a_card(monkeypatch, capability, held)
    monkeypatch.setattr(torch.version, "hip", "7.1" if held[0].startswith("gfx") else None)

    if has_code:
        assert choose_device("auto").type == choose_device("cuda").type == "cuda"
        return
    assert choose_device("auto").type == "cpu"
    assert f"capability {capability[0]}.{capability[1]}" in caplog.text
    with pytest.raises(DeviceError, match="cannot compute on cuda"):
        choose_device("cuda")


@pytest.mark.parametrize(("setting", "words"), [("", "with PYTORCH_ENABLE_MPS_FALLBACK=1"), ("1", "on the CPU")])
def test_mps_is_used_on_request_only_and_says_that_it_is_not_tested(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, setting: str, words: str
) -> None:
    device.say_once.cache_clear()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", setting)

    assert choose_device("auto").type == "cpu"
    assert not caplog.text
    assert [choose_device("mps").type for _ in range(2)] == ["mps", "mps"]
    assert caplog.text.count("not tested on MPS") == 1
    assert words in caplog.text


def test_tf32_is_a_choice_that_auto_does_not_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without TF32 computes exactly."""
    put_in_a_card(monkeypatch, (8, 0))
    assert choose_precision(CUDA, "tf32") is Precision.TF32
    put_in_a_card(monkeypatch, (7, 5))
    assert choose_precision(CUDA, "tf32") is Precision.FLOAT32
    assert choose_precision(CPU, "tf32") is Precision.FLOAT32
    assert [str(p) for p in Precision] == ["bfloat16", "float16", "tf32", "float32"]


@pytest.mark.parametrize("precision", Precision)
def test_a_gpu_rounds_float32_products_only_in_tf32(precision: Precision) -> None:
    """By default torch rounds them; the caller's setting is restored."""
    settings = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [s.fp32_precision for s in settings]
    seen: list[set[str]] = []

    def predictor(batch: torch.Tensor) -> torch.Tensor:
        seen.append({s.fp32_precision for s in settings})
        return torch.cat((batch, batch), dim=1)

    window = {"window": (8, 8, 8), "n_classes": 2, "overlap": 0.5, "window_batch": 4}
    predict_windows(torch.ones(1, 8, 8, 8), predictor, **window, precision=precision)

    assert seen == [{"tf32" if precision is Precision.TF32 else "ieee"}]
    assert [s.fp32_precision for s in settings] == before


class Overflowing(torch.nn.Module):
    """A network whose logits overflow in fp16 for bright images."""

    def forward(self, image: torch.Tensor) -> Logits:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        full = torch.cat((image, 1000 * image), dim=1).to(dtype)
        return Logits(full, full)


def test_a_window_that_overflows_in_fp16_is_computed_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    network._say_overflow_once.cache_clear()
    plan, config = make_test_plan(mirror_axes=()), InferenceConfig(overlap=0.0, window_batch=1)
    image = torch.ones(1, 32, 16, 8)
    image[:, 16:] = 100.0  # the second window

    logits = network.predict_logits(Overflowing(), image, plan, config, Precision.FP16)

    assert logits.dtype is torch.float32
    torch.testing.assert_close(logits[1], 1000 * image[0])
    assert caplog.text.count("overflows in fp16") == 1


def test_a_thin_patch_is_computed_in_float32_on_a_cpu_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.say_once.cache_clear()
    assert choose_precision(CPU, "bf16") is Precision.BF16
    assert not caplog.text

    assert [choose_precision(CPU, "bf16", is_thin=True) for _ in range(2)] == [Precision.FLOAT32] * 2
    assert caplog.text.count("one token along Z") == 1
    put_in_a_card(monkeypatch, (8, 0))
    assert choose_precision(CUDA, "bf16", is_thin=True) is Precision.BF16


@pytest.mark.parametrize(("depth", "precision"), [(8, Precision.FLOAT32), (32, Precision.BF16)])
def test_a_model_of_a_thin_plan_computes_in_float32(depth: int, precision: Precision) -> None:
    plan = make_test_plan(patch_size=(32, 32, depth), strides=((2, 2, 2),) * 3)
    config = NetworkConfig(widths=(8, 8, 8), blocks=(1, 1, 1), token_width=24, heads=2, depth=1)
    asked = {"inference": InferenceConfig(precision="bf16")}
    record = make_test_record(plan, config).model_copy(update=asked)

    assert Model(network_for(config, plan), record, CPU).precision is precision


@pytest.mark.parametrize(
    ("patch_size", "strides", "is_thin"),
    [((32, 32, 1), (2, 2, 1), False), ((32, 32, 8), (2, 2, 2), True), ((8, 8, 32), (2, 2, 2), False)],
)
def test_only_a_patch_that_halving_leaves_one_token_along_z_is_thin(
    patch_size: tuple[int, int, int], strides: tuple[int, int, int], is_thin: bool
) -> None:
    assert make_test_plan(patch_size=patch_size, strides=(strides,) * 3).is_thin is is_thin
