"""The four laws that make this a world model rather than an autoencoder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aime.outputs import Belief
from tests.helpers import random_clip, small_model


@pytest.mark.parametrize("t", [1, 3, 5])
@pytest.mark.parametrize("training", [False, True])
def test_law_1_no_peeking(t: int, training: bool):
    """Changing frame t and all after it, and their actions, changes nothing that predicts frame t: to the bit."""
    model = small_model().train(training)
    frames, actions = random_clip()
    changed, other = frames.clone(), actions.clone()
    changed[:, t:] = 255 - changed[:, t:]
    other[:, t:] *= -1
    if training:  # what a training step updates must not tell about the future either
        model.tokenizer.eval()

    def run(o: torch.Tensor, a: torch.Tensor):
        torch.manual_seed(0)
        return model.forward_sequence(o, a)

    before, after = run(frames, actions), run(changed, other)
    for field in dataclasses.fields(before.prior):
        x, y = getattr(before.prior, field.name), getattr(after.prior, field.name)
        if isinstance(x, torch.Tensor):
            assert torch.equal(x[:, : t + 1], y[:, : t + 1]), f"the prior's {field.name} sees the future"
            if t + 2 <= 6:
                assert not torch.equal(x[:, t + 1], y[:, t + 1]), f"the prior's {field.name} ignores what it has seen"
    for name in ("context", "latents", "hidden", "attention_map", "next_token_logits", "reconstruction_mean"):
        x, y = getattr(before, name), getattr(after, name)
        assert torch.equal(x[:, :t], y[:, :t]), f"{name} sees the future"
        assert not torch.equal(x[:, t], y[:, t]), f"{name} ignores its own frame"


def test_law_1_the_schema_expects_without_the_action_it_leads_to():
    """The action taken after frame t changes what is expected of frame t+1, and nothing of frame t."""
    model = small_model().eval()
    frames, actions = random_clip()
    other = actions.clone()
    other[:, 3] *= -1
    before, after = model.forward_sequence(frames, actions), model.forward_sequence(frames, other)
    assert torch.equal(before.hidden[:, :3], after.hidden[:, :3])
    assert not torch.equal(before.hidden[:, 3], after.hidden[:, 3])
    assert torch.equal(before.dpgmm_weights[:, :4], after.dpgmm_weights[:, :4])
    assert not torch.equal(before.dpgmm_weights[:, 4], after.dpgmm_weights[:, 4])


def test_law_2_parallel_over_time(monkeypatch: pytest.MonkeyPatch):
    """Each module runs as often for a long clip as for a short one; no loop over frames hides anywhere."""

    def calls(time: int) -> dict[str, int]:
        model = small_model().train()
        counts: dict[str, int] = {}
        for name, module in model.named_modules():
            if not list(module.children()) and not name.startswith("discriminator"):
                module.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts.get(name, 0) + 1))
        frames, actions = random_clip(time=time)
        model.forward_sequence(frames, actions)
        return counts

    assert calls(3) == calls(6)
    assert max(calls(6).values()) <= 4  # slot attention runs its rounds; nothing runs once per frame


@pytest.mark.parametrize("portions", [[1] * 20, [5, 1, 9, 5], [13, 7]])
def test_law_3_streaming_equals_batch(portions: list[int]):
    """Fed in portions, far beyond the trained length, with an episode ending in between: the same belief."""
    model = small_model().eval()
    frames, actions = random_clip(time=20)
    is_first = torch.zeros(2, 20, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[1, 11] = True
    whole = model.forward_sequence(frames, actions, is_first)
    belief, start = None, 0
    for portion in portions:
        piece = slice(start, start + portion)
        belief = model.observe(frames[:, piece], actions[:, piece], is_first[:, piece], belief)
        start += portion
        for name, expected in (
            ("context", whole.context),
            ("latents", whole.latents),
            ("hidden", whole.hidden),
            ("attention_map", whole.attention_map),
        ):
            got = getattr(belief, name)
            torch.testing.assert_close(got, expected[:, start - 1], atol=2e-5, rtol=1e-4, msg=f"{name} at {start - 1}")


def test_law_3_a_frame_costs_the_same_however_many_came_before():
    model = small_model().eval().requires_grad_(False)
    frames, actions = random_clip(batch=1, time=40)

    def flops(belief: Belief, t: int) -> int:
        with FlopCounterMode(display=False) as counter:
            belief.step(frames[:, t], actions[:, t])
        return counter.get_total_flops()

    early = model.observe(frames[:, :2], actions[:, :2])
    late = model.observe(frames[:, :39], actions[:, :39])
    assert flops(early, 2) == flops(late, 39)
    size = lambda b: b.perceiver.keys_values.numel()  # noqa: E731
    assert size(early) == size(late)


def test_law_4_a_dream_uses_nothing_of_what_it_dreams():
    """With encoder, tokenizer, Perceiver and slots destroyed, the dream from a given belief is the same to the bit."""
    model = small_model().eval()
    frames, actions = random_clip()
    belief = model.observe(frames, actions)
    future = torch.rand(2, 12, 3) * 2 - 1

    def dream():
        return model.imagine(belief, future, generator=torch.Generator().manual_seed(3))

    before = dream()
    with torch.no_grad():
        for module in (model.encoder, model.tokenizer, model.perceiver, model.slot_attention, model.posterior):
            for parameter in module.parameters():
                parameter.fill_(float("nan"))
    after = dream()
    assert torch.equal(before.observations, after.observations)
    assert torch.equal(before.attention_map, after.attention_map)


def test_law_4_a_frame_is_decoded_from_latent_and_attention_alone():
    """The decoder's inputs carry all it knows: the same z and A give the same frame, whatever was watched."""
    model = small_model().eval()
    frames, actions = random_clip(seed=4)
    seen: list[tuple[torch.Tensor, ...]] = []
    model.decoder.register_forward_hook(lambda module, args, out: seen.append((*args, out)))
    model.forward_sequence(frames, actions)
    latents, attention, doubt, out = seen[0]
    assert latents.shape == (12, 8) and attention.shape == (12, 10, 10) and doubt is None
    torch.testing.assert_close(model.decoder(latents, attention), out)
    random = model.decoder(torch.randn_like(latents) * 3, attention)
    assert not torch.allclose(random, out, atol=1e-4)
