"""TransUNet equals independent implementations with the same ImageNet weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medhybrid.config import NetworkConfig
from medhybrid.errors import ConfigError
from medhybrid.networks import TransUNet, build_network
from medhybrid.networks.transunet import resize_positions
from medhybrid.starts.fit import Names, fit
from medhybrid.starts.layouts import to_our_names

SMALL = NetworkConfig(
    kind="transunet", widths=(32, 128, 256, 384), blocks=(1, 2, 1, 2), token_width=48, depth=2, heads=4, head_width=8
)


def network(config: NetworkConfig = SMALL, channels: int = 3, labels: int = 1) -> TransUNet:
    torch.manual_seed(0)
    n = len(config.widths)
    made = build_network(
        config, n_channels=channels, n_labels=labels, strides=((2, 2, 1),) * n, token_mm=(1.0, 1.0, 1.0)
    )
    assert isinstance(made, TransUNet)
    return made.eval()


def imagenet_arrays(config: NetworkConfig) -> dict[str, Tensor]:
    """Generate random arrays with the names and shapes of the `.npz` of R50+ViT."""
    torch.manual_seed(1)
    width, heads = config.token_width, config.heads
    arrays = {"conv_root/kernel": torch.randn(7, 7, 3, config.widths[0])}

    def norm(name: str, n: int) -> None:
        arrays[f"{name}/scale"], arrays[f"{name}/bias"] = (
            1 + 0.1 * torch.randn(1, 1, 1, n),
            0.1 * torch.randn(1, 1, 1, n),
        )

    norm("gn_root", config.widths[0])
    before = config.widths[0]
    for block in range(1, len(config.widths)):
        for unit in range(1, config.blocks[block] + 1):
            name, wide = f"block{block}/unit{unit:02d}", config.widths[block]
            for n, shape in enumerate(
                ((1, 1, before, wide // 4), (3, 3, wide // 4, wide // 4), (1, 1, wide // 4, wide)), 1
            ):
                arrays[f"{name}/conv{n}/kernel"] = torch.randn(shape)
                norm(f"{name}/gn{n}", shape[-1])
            if unit == 1:
                arrays[f"{name}/conv_proj/kernel"] = torch.randn(1, 1, before, wide)
                norm(f"{name}/gn_proj", wide)
            before = wide
    arrays |= {"embedding/kernel": 0.05 * torch.randn(1, 1, before, width), "embedding/bias": torch.randn(width)}
    arrays["Transformer/posembed_input/pos_embedding"] = torch.randn(1, 1 + 14 * 14, width)
    for n in range(config.depth):
        block, attention = (
            f"Transformer/encoderblock_{n}",
            f"Transformer/encoderblock_{n}/MultiHeadDotProductAttention_1",
        )
        for k in (0, 2):
            arrays[f"{block}/LayerNorm_{k}/scale"] = 1 + 0.1 * torch.randn(width)
            arrays[f"{block}/LayerNorm_{k}/bias"] = 0.1 * torch.randn(width)
        for x in ("query", "key", "value"):
            arrays[f"{attention}/{x}/kernel"] = 0.2 * torch.randn(width, heads, width // heads)
            arrays[f"{attention}/{x}/bias"] = 0.1 * torch.randn(heads, width // heads)
        arrays[f"{attention}/out/kernel"] = 0.2 * torch.randn(heads, width // heads, width)
        arrays[f"{attention}/out/bias"] = 0.1 * torch.randn(width)
        for k, (rows, columns) in enumerate(((width, 4 * width), (4 * width, width))):
            arrays[f"{block}/MlpBlock_3/Dense_{k}/kernel"] = 0.1 * torch.randn(rows, columns)
            arrays[f"{block}/MlpBlock_3/Dense_{k}/bias"] = 0.1 * torch.randn(columns)
    arrays["Transformer/encoder_norm/scale"] = 1 + 0.1 * torch.randn(width)
    arrays["Transformer/encoder_norm/bias"] = 0.1 * torch.randn(width)
    return arrays | {"cls": torch.zeros(1, 1, width), "head/kernel": torch.zeros(width, 1000)}


# --- reference implementation in 2-D, from the arrays of the `.npz` ---------------------------------------------------


def same_conv(x: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    w = kernel.permute(3, 2, 0, 1)
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), correction=0, keepdim=True) + 1e-8).sqrt()
    k = w.shape[-1]
    total = [max((math.ceil(n / stride) - 1) * stride + k - n, 0) for n in x.shape[2:]]
    x = F.pad(x, [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2])
    return F.conv2d(x, w, stride=stride)


def group_norm(x: Tensor, arrays: dict[str, Tensor], name: str) -> Tensor:
    return F.group_norm(x, 32, arrays[f"{name}/scale"].flatten(), arrays[f"{name}/bias"].flatten(), eps=1e-5)


def reference_features(arrays: dict[str, Tensor], x: Tensor, config: NetworkConfig) -> tuple[list[Tensor], Tensor]:
    """Compute the maps of the ResNet and the output of the Transformer as a map."""
    x = F.relu(group_norm(same_conv(x, arrays["conv_root/kernel"], 2), arrays, "gn_root"))
    maps = [x]
    x = F.max_pool2d(F.pad(x, [0, 1, 0, 1], value=-math.inf), 3, 2)  # even sizes: one at the end
    for block in range(1, len(config.widths)):
        for unit in range(1, config.blocks[block] + 1):
            name, stride = f"block{block}/unit{unit:02d}", 2 if unit == 1 and block > 1 else 1
            residual = x
            if unit == 1:
                residual = group_norm(
                    same_conv(x, arrays[f"{name}/conv_proj/kernel"], stride), arrays, f"{name}/gn_proj"
                )
            y = F.relu(group_norm(same_conv(x, arrays[f"{name}/conv1/kernel"]), arrays, f"{name}/gn1"))
            y = F.relu(group_norm(same_conv(y, arrays[f"{name}/conv2/kernel"], stride), arrays, f"{name}/gn2"))
            y = group_norm(same_conv(y, arrays[f"{name}/conv3/kernel"]), arrays, f"{name}/gn3")
            x = F.relu(residual + y)
        maps.append(x)
    size = x.shape[2:]
    t = torch.einsum("bcxy,cd->bxyd", x, arrays["embedding/kernel"][0, 0]).flatten(1, 2) + arrays["embedding/bias"]
    t = t + arrays["Transformer/posembed_input/pos_embedding"][:, 1:]
    for n in range(config.depth):
        t = reference_block(arrays, t, f"Transformer/encoderblock_{n}", config)
    t = layer_norm(t, arrays, "Transformer/encoder_norm")
    return maps, t.transpose(1, 2).unflatten(2, size)


def layer_norm(x: Tensor, arrays: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], arrays[f"{name}/scale"], arrays[f"{name}/bias"], eps=1e-6)


def reference_block(arrays: dict[str, Tensor], t: Tensor, block: str, config: NetworkConfig) -> Tensor:
    a = f"{block}/MultiHeadDotProductAttention_1"
    y = layer_norm(t, arrays, f"{block}/LayerNorm_0")
    q, k, v = (
        torch.einsum("btd,dhe->bhte", y, arrays[f"{a}/{x}/kernel"]) + arrays[f"{a}/{x}/bias"][:, None]
        for x in ("query", "key", "value")
    )
    weights = (torch.einsum("bhte,bhse->bhts", q, k) / math.sqrt(config.token_width // config.heads)).softmax(-1)
    y = torch.einsum("bhts,bhse->bthe", weights, v)
    t = t + torch.einsum("bthe,hed->btd", y, arrays[f"{a}/out/kernel"]) + arrays[f"{a}/out/bias"]
    y = layer_norm(t, arrays, f"{block}/LayerNorm_2")
    y = F.gelu(y @ arrays[f"{block}/MlpBlock_3/Dense_0/kernel"] + arrays[f"{block}/MlpBlock_3/Dense_0/bias"])
    return t + y @ arrays[f"{block}/MlpBlock_3/Dense_1/kernel"] + arrays[f"{block}/MlpBlock_3/Dense_1/bias"]


def reference_decoder(net: TransUNet, x: Tensor, maps: list[Tensor]) -> Tensor:
    """Compute the cascaded decoder in 2-D, with the weights of the network."""
    weights = {n: (w[..., 0] if w.ndim == 5 else w) for n, w in net.decoder.state_dict().items()}

    def conv(x: Tensor, name: str) -> Tensor:
        x = F.conv2d(x, weights[f"{name}.0.weight"], padding=1)
        moments = (weights[f"{name}.1.running_mean"], weights[f"{name}.1.running_var"])
        return F.relu(F.batch_norm(x, *moments, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"]))

    x = conv(x, "first")
    for n, skip in enumerate([*reversed(maps[:-1]), None]):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = x if skip is None else torch.cat((x, skip), 1)
        x = conv(conv(x, f"ups.{n}.0"), f"ups.{n}.1")
    return F.conv2d(x, weights["logits.weight"], weights["logits.bias"], padding=1)


# --- tests ------------------------------------------------------------------------------------------------------------


def test_every_pretrained_weight_of_resnet_and_transformer_is_used() -> None:
    arrays = imagenet_arrays(SMALL)
    net = network()

    _, ours = to_our_names(arrays)
    rows = fit(net, ours, Names(), Names(("R", "G", "B"), ("a",)))

    missing = {row.weight for row in rows if row.what not in ("taken", "adapted")}
    assert missing == {n for n, _ in net.named_parameters() if n.startswith("decoder.")}
    places = {"encoder.stem.0.weight", "bottleneck.positions", "bottleneck.transformer.blocks.1.attention.qkv.bias"}
    assert places <= ours.keys()
    assert (
        sum(x.numel() for x in ours.values())
        == sum(x.numel() for n, x in arrays.items() if n not in ("cls", "head/kernel")) - SMALL.token_width
    )  # the class token's position


def test_logits_equal_the_reference_implementation_with_the_same_arrays() -> None:
    arrays, net = imagenet_arrays(SMALL), network()
    fit(net, to_our_names(arrays)[1], Names(), Names(("R", "G", "B"), ("a",)))
    image = torch.randn(2, 3, 224, 224)

    with torch.no_grad():
        maps, tokens = reference_features(arrays, image, SMALL)
        expected = reference_decoder(net, tokens, maps)
        logits = net(image[..., None]).full[..., 0]

    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_resnet_and_transformer_equal_those_of_timm() -> None:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision, which it imports, may be built for another torch
        pytest.skip(f"timm cannot be imported: {error}")
    torch.manual_seed(0)
    theirs = timm.create_model("vit_base_r50_s16_224", num_classes=0, class_token=False, global_pool="").eval()
    config = NetworkConfig(
        kind="transunet", widths=(64, 256, 512, 1024), blocks=(1, 3, 4, 9), token_width=768, depth=12, heads=12
    )
    net = network(config)
    fit(net, to_our_names(theirs.state_dict())[1], Names(), Names(("R", "G", "B"), ("a",)))
    image = torch.randn(1, 3, 224, 224)

    with torch.no_grad():
        expected = theirs.forward_features(image)
        ours = net.bottleneck(net.encoder(image[..., None])[-1]).flatten(2).transpose(1, 2)

    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_published_size_has_the_published_number_of_weights() -> None:
    config = NetworkConfig(
        kind="transunet", widths=(64, 256, 512, 1024), blocks=(1, 3, 4, 9), token_width=768, depth=12, heads=12
    )
    with torch.device("meta"):
        net = build_network(config, n_channels=3, n_labels=8, strides=((2, 2, 1),) * 4, token_mm=(1.0, 1.0, 1.0))

    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(105.28, abs=0.01)


@pytest.mark.parametrize("size", [(32, 48), (64, 64), (240, 16)])
def test_any_multiple_of_the_stride_is_a_valid_size(size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = network()(torch.randn(1, 3, *size, 2))

    assert logits.full.shape == (1, 2, *size, 2)
    assert logits.auxiliary.shape == (1, 2, size[0] // 2, size[1] // 2, 2)


def test_slices_are_images_without_leakage() -> None:
    net, image = network(), torch.randn(1, 3, 32, 32, 3)

    with torch.no_grad():
        together = net(image).full
        alone = net(image[..., 1:2]).full

    torch.testing.assert_close(together[..., 1:2], alone, rtol=1e-4, atol=1e-5)


def test_positions_are_interpolated_in_the_plane() -> None:
    ramp = torch.arange(14.0)[:, None].expand(14, 14).reshape(1, 196, 1)

    resized = resize_positions(ramp, 28, 7).reshape(28, 7)

    assert resize_positions(ramp, 14, 14) is ramp
    torch.testing.assert_close(resized[4:-4, 3], torch.arange(28.0)[4:-4] / 2 - 0.25, rtol=0, atol=0.06)
    torch.testing.assert_close(resized[:, 0], resized[:, 6])


def test_bf16_on_the_cpu_agrees_for_maps_of_one_slice() -> None:
    net, image = network(), torch.randn(1, 3, 64, 64, 1)

    with torch.no_grad():
        plain = net(image).full
        with torch.autocast("cpu", torch.bfloat16):
            quick = net(image).full

    assert (plain - quick.float()).abs().mean() < 0.05 * plain.std()


def test_other_strides_and_narrow_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"never pools over slices.*\[224, 224, 1\]"):
        build_network(SMALL, n_channels=1, n_labels=1, strides=((2, 2, 2),) * 4, token_mm=(1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match="widths does not fit transunet"):
        network(SMALL.model_copy(update={"widths": (32, 64, 96, 128)}))
