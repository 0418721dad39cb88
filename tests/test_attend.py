"""Attention is the same attention whichever way it is computed."""

import pytest
import torch
import torch.nn.functional as F

from aime import attend as module
from aime.attend import attend


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("queries", "keys"), [(16, 16), (4, 64), (256, 256)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_fused_kernel(queries: int, keys: int, masked: bool) -> None:
    q, k, v = random(3, 2, queries, 8), random(3, 2, keys, 8), random(3, 2, keys, 8)
    visible = (random(3, 1, queries, keys) > 0) | (torch.arange(keys) == 0) if masked else None
    torch.testing.assert_close(attend(q, k, v, visible), F.scaled_dot_product_attention(q, k, v, attn_mask=visible))


def test_what_is_not_visible_changes_nothing_to_the_bit() -> None:
    q, k, v = random(1, 2, 6, 8), random(1, 2, 6, 8), random(1, 2, 6, 8)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    before = attend(q, k, v, causal)
    k[..., 4:, :] = 1e4
    v[..., 4:, :] = -1e4
    assert torch.equal(attend(q, k, v, causal)[..., :4, :], before[..., :4, :])


def test_a_query_that_sees_nothing_has_a_finite_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FUSED_FROM", 1 << 30)
    q = random(1, 1, 3, 8).requires_grad_()
    visible = torch.tensor([[True, False], [False, False], [True, True]])
    attend(q, random(1, 1, 2, 8), random(1, 1, 2, 8), visible).sum().backward()
    assert q.grad is not None and torch.isfinite(q.grad).all()
