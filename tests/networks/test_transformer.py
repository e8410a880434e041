"""Attention: the plain products are the fused kernel's result, and its gradient."""

import pytest
import torch
import torch.nn.functional as F

from medhybrid.networks.transformer import MAX_PLAIN_TOKENS, attend


@pytest.mark.parametrize("n_tokens", [1, 7, 175, MAX_PLAIN_TOKENS + 1])
def test_attention_by_plain_products_is_the_fused_one(n_tokens: int) -> None:
    q, k, v = (torch.randn(2, 3, n_tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    ours, theirs = attend(q, k, v), F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(ours, theirs)
    downstream = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), downstream),
        torch.autograd.grad(theirs, (q, k, v), downstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
