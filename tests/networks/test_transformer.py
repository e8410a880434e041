"""Plain attention equals the fused kernel with its gradient, and the attention bias follows distances in mm."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.networks.transformer import MAX_PLAIN_TOKENS, Transformer, attend, distance_bias, token_positions_mm


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("n_tokens", [1, 7, 175, MAX_PLAIN_TOKENS + 1])
def test_plain_attention_equals_the_fused_kernel(n_tokens: int, has_bias: bool) -> None:
    q, k, v = (torch.randn(2, 3, n_tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(3, n_tokens, n_tokens, dtype=torch.float64) if has_bias else None

    ours = attend(q, k, v, bias)
    theirs = F.scaled_dot_product_attention(q, k, v, None if bias is None else bias[None])

    torch.testing.assert_close(ours, theirs)
    downstream = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), downstream),
        torch.autograd.grad(theirs, (q, k, v), downstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_bias_is_minus_the_distance_over_the_reach_of_the_head() -> None:
    positions = token_positions_mm((2, 1, 3), (8.0, 8.0, 10.0))

    bias = distance_bias(positions, heads=6, shortest_mm=8.0)

    far = (8.0**2 + 20.0**2) ** 0.5  # from (0, 0, 0) to (1, 0, 2)
    torch.testing.assert_close(bias[:, 0, 5], torch.tensor([-far / 8, -far / 16, -far / 32, -far / 64, 0.0, 0.0]))
    assert torch.equal(bias, bias.transpose(1, 2))
    assert torch.all(bias.diagonal(dim1=1, dim2=2) == 0)


@given(st.integers(1, 12))
def test_at_least_one_head_is_local_and_with_several_at_least_one_is_global(heads: int) -> None:
    bias = distance_bias(token_positions_mm((3, 3, 3), (1.0, 1.0, 1.0)), heads, 1.0)

    is_free = (bias == 0).flatten(1).all(1)
    assert bias.shape == (heads, 27, 27)
    assert not is_free[0]
    assert is_free.any() == (heads > 1)


def test_a_token_depends_more_on_neighbours_than_on_distant_tokens() -> None:
    """An untrained network attends locally, which a short training could not achieve."""
    torch.manual_seed(0)
    net = Transformer(24, 1, 2, drop_path=0.0, token_mm=(8.0, 8.0, 8.0)).eval()
    x = torch.randn(1, 24, 9, 1, 1, requires_grad=True)

    net(x)[0, :, 4, 0, 0].square().sum().backward()

    heard = x.grad[0, :, :, 0, 0].norm(dim=0)  # type: ignore[index]
    assert heard[3] > heard[1]
    assert heard[5] > heard[8]


def test_metadata_tokens_have_no_position_and_influence_all_tokens() -> None:
    torch.manual_seed(0)
    net = Transformer(24, 1, 2, drop_path=0.0, token_mm=(8.0, 8.0, 8.0)).eval()
    x, context = torch.randn(1, 24, 9, 1, 1), torch.randn(1, 2, 24, requires_grad=True)

    alone, together = net(x), net(x, context)

    assert together.shape == alone.shape
    assert ((together - alone).abs().amax((0, 1, 3, 4)) > 1e-4).all()
