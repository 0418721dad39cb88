"""The causal Perceiver: no peeking, streaming equals batch, cost linear in time, and it learns what needs memory."""

import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aime.errors import ConfigError
from aime.perception import CausalPerceiver, PerceiverCache, PerceiverOutput

WINDOW, LAYERS, TOKENS, CODE = 4, 2, 16, 12


def small(seed: int = 0, **changes: int) -> CausalPerceiver:
    torch.manual_seed(seed)
    sizes = {
        "token_dim": CODE,
        "tokens_per_frame": TOKENS,
        "codebook_size": 20,
        "dim": 32,
        "latents_per_frame": 3,
        "window": WINDOW,
        "layers": LAYERS,
        "heads": 2,
        "context_dim": 10,
    }
    return CausalPerceiver(**{**sizes, **changes})


def clip(frames: int, batch: int = 2, seed: int = 1, starts: float = 0.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    codes = torch.randn(batch, frames, TOKENS, CODE, generator=g)
    return codes, torch.rand(batch, frames, generator=g) < starts


def assert_unchanged_before(a: PerceiverOutput, b: PerceiverOutput, t: int) -> None:
    assert torch.equal(a.context[:, :t], b.context[:, :t])
    assert torch.equal(a.next_token_logits[:, :t], b.next_token_logits[:, :t])


@torch.no_grad()
@pytest.mark.parametrize("frames", [2, WINDOW, WINDOW + 1, 3 * WINDOW + 2])
def test_no_peeking_to_the_bit(frames: int) -> None:
    perceiver = small()
    codes, is_first = clip(frames, starts=0.2)
    before = perceiver(codes, is_first)
    for t in range(frames):
        perturbed = codes.clone()
        perturbed[:, t] = torch.randn(2, TOKENS, CODE) * 30
        after = perceiver(perturbed, is_first)
        assert_unchanged_before(before, after, t)
        assert not torch.allclose(before.context[:, t], after.context[:, t])
        assert not torch.allclose(before.next_token_logits[:, t], after.next_token_logits[:, t])


@torch.no_grad()
def test_no_peeking_at_the_default_sizes() -> None:
    torch.manual_seed(0)
    perceiver = CausalPerceiver(
        token_dim=256,
        tokens_per_frame=64,
        codebook_size=1024,
        dim=256,
        latents_per_frame=8,
        window=16,
        layers=4,
        heads=4,
        context_dim=256,
    )
    codes = torch.randn(1, 36, 64, 256)
    is_first = torch.zeros(1, 36, dtype=torch.bool)
    before = perceiver(codes, is_first)
    for t in (1, 15, 16, 17, 35):
        perturbed = codes.clone()
        perturbed[:, t:] *= -7
        assert_unchanged_before(before, perceiver(perturbed, is_first), t)


@torch.no_grad()
def test_an_episode_start_hides_the_past_to_the_bit() -> None:
    perceiver = small()
    codes, is_first = clip(11)
    is_first[0, 5] = True
    before = perceiver(codes, is_first)
    perturbed = codes.clone()
    perturbed[:, :5] += 3
    after = perceiver(perturbed, is_first)
    assert torch.equal(before.context[0, 5:], after.context[0, 5:])
    assert not torch.allclose(before.context[1, 5], after.context[1, 5])
    fresh = perceiver(codes[:1, 5:], is_first[:1, 5:])
    torch.testing.assert_close(fresh.context, before.context[:1, 5:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fresh.next_token_logits, before.next_token_logits[:1, 5:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_block_looks_back_over_the_window_and_no_further() -> None:
    perceiver = small()
    codes, is_first = clip(14)
    before = perceiver(codes, is_first)
    perturbed = codes.clone()
    perturbed[:, 0] += 3
    changed = (perceiver(perturbed, is_first).context != before.context).flatten(2).any(-1).any(0)
    reach = LAYERS * (WINDOW - 1)
    assert changed[: reach + 1].all()
    assert not changed[reach + 1 :].any()


@torch.no_grad()
def test_batch_elements_do_not_see_each_other() -> None:
    perceiver = small()
    codes, is_first = clip(9)
    before = perceiver(codes, is_first)
    codes[1] += 1
    is_first[1, 3] = True
    after = perceiver(codes, is_first)
    assert torch.equal(before.context[0], after.context[0])
    assert not torch.allclose(before.context[1], after.context[1])


@torch.no_grad()
@pytest.mark.parametrize("frames", range(1, 3 * WINDOW + 1))
def test_streaming_equals_batch(frames: int) -> None:
    perceiver = small()
    codes, is_first = clip(frames, batch=3, seed=frames, starts=0.15)
    whole = perceiver(codes, is_first)
    rng = random.Random(frames)
    for largest in (1, WINDOW, 2 * WINDOW + 1):
        cache, outputs, start = None, [], 0
        while start < frames:
            stop = min(frames, start + rng.randint(1, largest))
            out = perceiver(codes[:, start:stop], is_first[:, start:stop], cache)
            outputs.append(out)
            cache, start = out.cache, stop
        context = torch.cat([out.context for out in outputs], dim=1)
        logits = torch.cat([out.next_token_logits for out in outputs], dim=1)
        torch.testing.assert_close(context, whole.context, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits, whole.next_token_logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(outputs[-1].cache.visible, whole.cache.visible)
        seen = whole.cache.visible[:, None, :, None, None, None]
        torch.testing.assert_close(
            outputs[-1].cache.keys_values * seen, whole.cache.keys_values * seen, atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 2, 5])
def test_streaming_equals_batch_for_any_window(window: int) -> None:
    perceiver = small(window=window)
    codes, is_first = clip(11, starts=0.1)
    whole = perceiver(codes, is_first)
    cache = None
    for t in range(11):
        out = perceiver(codes[:, t : t + 1], is_first[:, t : t + 1], cache)
        cache = out.cache
        torch.testing.assert_close(out.context[:, 0], whole.context[:, t], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_long_stream_keeps_step_and_memory() -> None:
    """Far beyond the window a stream still equals the batch, with a cache that has not grown."""
    perceiver = small()
    codes, is_first = clip(40 * WINDOW, batch=1)
    whole = perceiver(codes, is_first)
    first = perceiver(codes[:, :1], is_first[:, :1]).cache
    cache = None
    for t in range(codes.shape[1]):
        out = perceiver(codes[:, t : t + 1], is_first[:, t : t + 1], cache)
        cache = out.cache
    torch.testing.assert_close(out.context[:, 0], whole.context[:, -1], atol=1e-5, rtol=1e-5)
    assert cache is not None and cache.keys_values.shape == first.keys_values.shape


def flops(perceiver: CausalPerceiver, frames: int, cache: PerceiverCache | None = None) -> int:
    codes, is_first = clip(frames)
    # The fused kernel of the CPU is not counted; its plain form is the same work.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        perceiver(codes, is_first, cache)
    return counter.get_total_flops()


def test_cost_is_linear_in_time() -> None:
    perceiver = small()
    cost = [flops(perceiver, chunks * WINDOW) for chunks in (2, 3, 4, 12)]
    each = cost[1] - cost[0]
    assert each > 0
    assert cost[2] - cost[1] == each
    assert cost[3] - cost[2] == 8 * each


@torch.no_grad()
def test_a_step_costs_the_same_forever() -> None:
    perceiver = small()
    early = perceiver(*clip(1)).cache
    late = perceiver(*clip(50)).cache
    assert flops(perceiver, 1, early) == flops(perceiver, 1, late) > 0


@torch.no_grad()
def test_a_cache_can_be_picked_repeated_and_detached() -> None:
    perceiver = small()
    codes, is_first = clip(7, batch=3)
    cache = perceiver(codes[:, :6], is_first[:, :6]).cache
    expected = perceiver(codes, is_first).context[:, -1]
    next_codes, next_first = codes[:, 6:], is_first[:, 6:]

    picked = perceiver(next_codes[[2, 0]], next_first[[2, 0]], cache[torch.tensor([2, 0])]).context[:, 0]
    torch.testing.assert_close(picked, expected[[2, 0]], atol=1e-5, rtol=1e-5)
    twice = perceiver(
        next_codes.repeat_interleave(2, 0), next_first.repeat_interleave(2, 0), cache.repeat_interleave(2).to("cpu")
    ).context[:, 0]
    torch.testing.assert_close(twice, expected.repeat_interleave(2, 0), atol=1e-5, rtol=1e-5)

    with torch.enable_grad():
        cache = perceiver(codes, is_first).cache
    assert cache.keys_values.requires_grad and not cache.detach().keys_values.requires_grad


def test_gradients_reach_every_parameter() -> None:
    perceiver = small()
    codes, is_first = clip(6)
    out = perceiver(codes, is_first)
    (out.context.square().mean() + out.next_token_logits.square().mean()).backward()
    for name, parameter in perceiver.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_bfloat16_autocast_streams_too() -> None:
    perceiver = small()
    codes, is_first = clip(9, starts=0.1)
    exact = perceiver(codes, is_first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head = perceiver(codes[:, :5], is_first[:, :5])
        tail = perceiver(codes[:, 5:], is_first[:, 5:], head.cache)
    assert tail.context.dtype == tail.next_token_logits.dtype == torch.float32
    torch.testing.assert_close(torch.cat([head.context, tail.context], 1), exact.context, atol=0.1, rtol=0.1)
    # A belief kept in float32 can be gone on with under autocast, and the other way round.
    assert perceiver(codes[:, 5:], is_first[:, 5:], head.cache).context.isfinite().all()


def test_it_learns_what_needs_memory() -> None:
    """A lit cell walks round a ring at a speed of +1 or -1 that one frame does not show and two frames do."""
    perceiver = small(codebook_size=2)
    embedding = torch.randn(2, CODE)
    g = torch.Generator().manual_seed(0)

    def walk(batch: int, frames: int) -> Tensor:
        start = torch.randint(0, TOKENS, (batch, 1), generator=g)
        speed = torch.randint(0, 2, (batch, 1), generator=g) * 2 - 1
        return F.one_hot((start + speed * torch.arange(frames + 1)) % TOKENS, TOKENS)

    def surprise(tokens: Tensor) -> Tensor:
        """Nats per frame for frames 1, 2, …"""
        codes = embedding[tokens[:, :-1]]
        out = perceiver(codes, torch.zeros(codes.shape[:2], dtype=torch.bool))
        return F.cross_entropy(out.next_token_logits.movedim(-1, 1), tokens[:, 1:], reduction="none").sum(-1).mean(0)

    optimiser = torch.optim.AdamW(perceiver.parameters(), lr=3e-3)
    for _ in range(300):
        loss = surprise(walk(32, 5)).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(perceiver.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        nats = surprise(walk(256, 12))
    unknowable = 2 * math.log(2)  # two cells that are lit or not, with even odds
    assert nats[0] > 0.99 * unknowable, "the speed cannot be known from one frame"
    assert nats[1:].max() < 0.75 * unknowable, "from two frames on it can, beyond the trained length too"
    assert nats[1:].mean() < 0.3 * unknowable


@pytest.mark.parametrize(
    ("change", "says"), [({"tokens_per_frame": 60}, "square"), ({"dim": 30}, "multiple of 2 × heads")]
)
def test_impossible_sizes_are_refused(change: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        small(**change)
