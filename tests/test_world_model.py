"""What the world model promises: shapes, dreams, which objective reaches which part, and refusals of bad input."""

from __future__ import annotations

import copy

import pytest
import torch

from aime.config import LossConfig
from aime.errors import ConfigError, ShapeError
from aime.inputs import check_repeats
from aime.learning import discriminator_loss
from aime.losses import outlook
from aime.observation import ObservationNoise
from aime.reach import generator_parameters, objective_reach
from aime.world_model import WorldModel
from tests.helpers import pushed_ball, random_clip, small_model

OBJECTIVES = ["total_vae_loss", "perceiver_loss", "attention_loss", "adversarial_loss"]


def test_card_3_shapes():
    model = small_model().eval()
    frames, actions = random_clip(batch=2, time=5)
    out = model.forward_sequence(frames, actions)
    for name, shape in {
        "context": (2, 5, 24),
        "latents": (2, 5, 8),
        "hidden": (2, 5, 48),
        "dpgmm_weights": (2, 5, 5),
        "attention_map": (2, 5, 10, 10),
        "slot_maps": (2, 5, 3, 10, 10),
        "reconstructions": (2, 5, 3, 32, 32),
        "tokens": (2, 5, 4, 4),
        "responsibilities": (2, 5, 5),
        "surprise": (2, 5),
    }.items():
        assert tuple(getattr(out, name).shape) == shape, name
    for name in ("dpgmm_weights", "responsibilities"):
        torch.testing.assert_close(getattr(out, name).sum(-1), torch.ones(2, 5))
    torch.testing.assert_close(out.attention_map.sum(dim=(-2, -1)), torch.ones(2, 5))
    assert bool(((out.reconstructions >= 0) & (out.reconstructions <= 1)).all())


def test_float_frames_equal_their_bytes():
    model = small_model().eval()
    frames, actions = random_clip()
    as_float = model.forward_sequence(frames.float() / 255, actions)
    assert torch.equal(as_float.latents, model.forward_sequence(frames, actions).latents)


def test_what_is_watched_without_gradients_is_decoded_when_asked_for():
    model = small_model().eval()
    frames, actions = random_clip()
    decoded = []
    model.decoder.register_forward_hook(lambda *_: decoded.append(True))
    with torch.no_grad():
        output = model.forward_sequence(frames, actions)
    assert not decoded
    assert not output.reconstructions.requires_grad and decoded
    taught = model.forward_sequence(frames, actions)
    assert len(decoded) == 2 and taught.reconstruction_mean.requires_grad
    assert torch.equal(taught.reconstructions, output.reconstructions)


# ---------------------------------------------------------------------- dreams


def test_dream_goes_on_beyond_the_trained_length_and_in_pieces():
    model = small_model().eval()
    frames, actions = random_clip()
    belief = model.observe(frames, actions)
    future = torch.rand(2, 70, 3) * 2 - 1
    whole = model.imagine(belief, future, sample=False)
    assert whole.observations.shape == (2, 70, 3, 32, 32)
    assert torch.isfinite(whole.observations).all()
    torch.testing.assert_close(whole.attention_map.sum(dim=(-2, -1)), torch.ones(2, 70))
    first = model.imagine(belief, future[:, :30], sample=False)
    rest = model.imagine(first.belief, future[:, 30:], sample=False)
    torch.testing.assert_close(
        torch.cat([first.observations, rest.observations], 1), whole.observations, atol=1e-5, rtol=1e-4
    )


def test_dream_repeats_with_its_generator_and_differs_without():
    model = small_model().eval()
    belief = model.observe(*random_clip())
    future = torch.rand(2, 4, 3)
    dream = lambda seed: model.imagine(belief, future, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(dream(1).observations, dream(1).observations)
    assert not torch.equal(dream(1).latents, dream(2).latents)


def test_actions_steer_the_dream_and_the_last_one_only_its_belief():
    model = small_model().eval()
    belief = model.observe(*random_clip())
    future = torch.rand(2, 5, 3)
    other = future.clone()
    other[:, -1] *= -1
    a, b = (model.imagine(belief, x, sample=False) for x in (future, other))
    assert torch.equal(a.observations, b.observations)
    assert not torch.equal(a.belief.hidden, b.belief.hidden)
    other[:, 0] *= -1
    assert not torch.equal(a.latents[:, 1], model.imagine(belief, other, sample=False).latents[:, 1])


def test_beliefs_branch():
    model = small_model().eval()
    belief = model.observe(*random_clip())
    many = belief.repeat(3)
    assert len(many) == 6
    future = torch.rand(2, 4, 3)
    dreams = model.imagine(many, future.repeat_interleave(3, 0), sample=False).observations
    alone = model.imagine(belief[1:], future[1:], sample=False).observations
    torch.testing.assert_close(dreams[3:4], alone, atol=1e-6, rtol=1e-5)
    frame, action = random_clip(batch=6, time=1, seed=8)
    assert len(many.step(frame[:, 0], action[:, 0])) == 6


def test_a_belief_that_dreamed_has_nothing_to_watch_on_from():
    model = small_model().eval()
    frames, actions = random_clip()
    dreamed = model.imagine(model.observe(frames, actions), actions).belief
    with pytest.raises(ShapeError, match="dreamed"):
        dreamed.step(frames[:, 0], actions[:, 0])


# ---------------------------------------------------------------------- the objectives


def awake_model() -> WorldModel:
    """With weights as after some training: heads that start at zero hide what is before them."""
    model = small_model().train()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def gradients() -> dict[str, dict[str, float]]:
    """Norm of each objective's gradient on each part, with the whole graph in view (no pruning)."""
    model = awake_model()
    frames, actions = pushed_ball(batch=2, time=6)
    torch.manual_seed(0)
    losses, _ = model.compute_total_loss(frames, actions, loss=LossConfig(study_share=1.0, decode_every=1))
    table: dict[str, dict[str, float]] = {}
    parts = {name: list(module.parameters()) for name, module in model.named_children() if list(module.parameters())}
    for objective in [*OBJECTIVES, "discriminator_loss"]:
        table[objective] = {}
        for part, parameters in parts.items():
            grads = torch.autograd.grad(losses[objective], parameters, retain_graph=True, allow_unused=True)
            table[objective][part] = float(sum(g.square().sum() for g in grads if g is not None)) ** 0.5
    return table


def test_every_loss_is_finite_and_every_part_scalar():
    model = small_model().train()
    losses, _ = model.compute_total_loss(*random_clip())
    for name, value in losses.items():
        assert value.ndim == 0 and torch.isfinite(value), name


@pytest.mark.parametrize(
    ("objective", "reached", "untouched"),
    [
        (
            "total_vae_loss",
            "encoder slot_attention schema posterior prior core context_head decoder",
            "tokenizer perceiver discriminator",
        ),
        (
            "perceiver_loss",
            "tokenizer perceiver",
            "encoder posterior decoder prior core schema slot_attention discriminator",
        ),
        ("attention_loss", "encoder slot_attention schema", "tokenizer prior decoder discriminator"),
        ("adversarial_loss", "decoder", "tokenizer discriminator"),
        ("discriminator_loss", "discriminator", "tokenizer perceiver encoder decoder prior core schema posterior"),
    ],
)
def test_which_objective_reaches_which_part(gradients, objective: str, reached: str, untouched: str):
    for part in reached.split():
        assert gradients[objective][part] > 0, f"{objective} does not reach {part}"
    for part in untouched.split():
        assert gradients[objective][part] == 0, f"{objective} reaches {part}"


def test_declared_reach_is_truly_reached_and_covers_the_model():
    """Every parameter that an objective claims to train gets a gradient from it; only the adversary's are left out."""
    model = awake_model()
    names = {id(p): name for name, p in model.named_parameters()}
    torch.manual_seed(0)
    losses, _ = model.compute_total_loss(
        *pushed_ball(batch=2, time=6), loss=LossConfig(study_share=1.0, decode_every=1)
    )
    covered: set[int] = set()
    for objective, parameters in objective_reach(model).items():
        covered |= {id(p) for p in parameters}
        grads = torch.autograd.grad(losses[objective], parameters, retain_graph=True, allow_unused=True)
        missing = [names[id(p)] for p, g in zip(parameters, grads, strict=True) if g is None]
        # Of guesses the adversary judges what is told with certainty, so doubt is nothing to it.
        untold = ["decoder.from_doubt.weight"] if objective == "adversarial_loss" else []
        assert missing == untold, f"{objective} says that it trains {missing}"
    left = {id(p) for p in generator_parameters(model)} - covered
    assert {names[each] for each in left} == {"core.from_context.weight"}, "which dynamics learns when perception rests"


def test_dreams_teach_what_dreams():
    """Open-loop steps teach prior and dynamics by their latents and by their frames, and by these the decoder."""
    clip = random_clip()

    def gradients(lambda_rollout: float, lambda_dream: float = 0.0) -> dict[str, list[torch.Tensor]]:
        torch.manual_seed(0)
        model = small_model().train()
        losses, _ = model.compute_total_loss(
            *clip, loss=LossConfig(decode_every=1), lambda_rollout=lambda_rollout, lambda_dream=lambda_dream
        )
        losses["total_vae_loss"].backward()
        parts = {name: getattr(model, name) for name in ("prior", "core", "decoder", "posterior")}
        return {name: [p.grad for p in part.parameters()] for name, part in parts.items()}

    without, latents, frames = gradients(0.0), gradients(1.0), gradients(1.0, lambda_dream=1.0)

    def differ(part: str, a: dict[str, list[torch.Tensor]], b: dict[str, list[torch.Tensor]]) -> bool:
        return any(not torch.equal(x, y) for x, y in zip(a[part], b[part], strict=True))

    assert differ("prior", without, latents) and differ("core", without, latents)
    assert not differ("decoder", without, latents)
    assert differ("prior", latents, frames) and differ("decoder", latents, frames)


def test_a_best_guess_is_decoded_with_its_doubt_and_a_draw_without():
    model = small_model().eval()
    torch.nn.init.normal_(model.decoder.from_doubt.weight)  # which a fresh decoder does not hear
    torch.nn.init.normal_(model.schema.to_logits.weight)  # a fresh schema expects nothing in particular
    frames, actions = random_clip()
    belief = model.observe(frames, actions)
    guess, draw = (model.imagine(belief, actions, sample=sample) for sample in (False, True))
    sure = model.decode(guess.latents, guess.attention_map).clamp(0, 1)
    assert not torch.allclose(guess.observations, sure, atol=1e-4)
    torch.testing.assert_close(draw.observations, model.decode(draw.latents, draw.attention_map).clamp(0, 1))
    for dream in (guess, draw):
        torch.testing.assert_close(dream.belief.attention_map, dream.attention_map[:, -1])


def test_dynamics_is_told_how_latents_changed_but_not_over_the_start_of_an_episode():
    model = small_model().eval()
    torch.nn.init.normal_(model.core.from_change.weight)
    frames, actions = random_clip()
    torch.nn.init.zeros_(model.core.from_latent.weight)  # so that latents are heard by their changes alone
    torch.nn.init.zeros_(model.core.from_context.weight)
    starts = torch.zeros(actions.shape[:2], dtype=torch.bool)
    starts[:, 2] = True
    other = frames.clone()
    other[:, 1] = 255 - other[:, 1]

    def hidden(clip: torch.Tensor, is_first: torch.Tensor | None) -> torch.Tensor:
        return model.forward_sequence(clip, actions, is_first).hidden

    same, new = hidden(frames, None), hidden(other, None)
    assert torch.equal(same[:, 0], new[:, 0]) and not torch.allclose(same[:, 2], new[:, 2])
    assert torch.equal(hidden(frames, starts)[:, 2:], hidden(other, starts)[:, 2:])


def test_latents_are_taught_at_no_smaller_sigma_than_the_floor():
    noise = ObservationNoise()
    noise.follow("frame", torch.tensor([0, 1]), torch.tensor([0.0004, 0.25]))
    torch.testing.assert_close(noise.log_sigma("frame").exp(), torch.tensor([0.02, 0.5]))
    # The frames of attention keep their place beside the others: each kind's errors weigh as much as the other's.
    torch.testing.assert_close(noise.taught("frame", 0.2).exp(), torch.tensor([0.2, 5.0]))
    torch.testing.assert_close(noise.taught("frame", 0.01).exp(), torch.tensor([0.02, 0.5]))
    model, clip = small_model().eval(), random_clip()
    model.noise.frame.fill_(0.0004)

    def gradient(floor: float) -> float:
        losses, _ = model.compute_total_loss(*clip, sigma_floor=floor, beta=0.0, entropy_weight=0.0, lambda_context=0.0)
        return float(torch.autograd.grad(losses["total_vae_loss"], model.decoder.background)[0].norm())

    assert gradient(0.01) / gradient(0.2) == pytest.approx(100.0, rel=0.1)


def test_a_variance_is_right_from_the_first_errors_and_then_follows_slowly():
    noise = ObservationNoise()
    kinds = torch.tensor([0, 0, 1])
    noise.follow("frame", kinds, torch.tensor([0.001, 0.003, 0.5]))
    torch.testing.assert_close(noise.frame, torch.tensor([0.002, 0.5]))
    for _ in range(40):
        noise.follow("frame", torch.tensor([0]), torch.tensor([0.002]))
    noise.follow("frame", kinds, torch.tensor([1.002, 1.002, torch.nan]))
    torch.testing.assert_close(noise.frame, torch.tensor([0.052, 0.5]), msg="a twentieth, and never what is no number")


def test_encoder_and_dynamics_learn_from_clips_that_are_not_studied():
    """What is saved on them is what they would teach the other pillars, not what they teach belief and dynamics."""
    frames, actions = random_clip(batch=4, time=8)

    def gradients(clips: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        model = awake_model()
        torch.manual_seed(0)
        losses, _ = model.compute_total_loss(clips, actions, loss=LossConfig(adversary=False))
        total = losses["total_vae_loss"] + losses["perceiver_loss"] + losses["attention_loss"]
        total.backward()
        return {n: [p.grad for p in getattr(model, n).parameters()] for n in ("encoder", "core", "tokenizer")}

    torch.manual_seed(0)
    other = frames.clone()
    other[1:] = frames[1:].flip(1)
    ours, theirs = gradients(frames), gradients(other)
    for part, alike in (("encoder", False), ("core", False), ("tokenizer", True)):
        same = all(torch.equal(a, b) for a, b in zip(ours[part], theirs[part], strict=True) if a is not None)
        assert same == alike, part


def test_a_frame_by_itself_has_the_posterior_that_its_clip_gave_it():
    model = awake_model().eval()
    frames, actions = random_clip(batch=2, time=7)
    with torch.no_grad():
        output = model.forward_sequence(frames, actions)
        mean, log_var = model.glance(frames.flatten(0, 1).float() / 255)
    torch.testing.assert_close(mean.unflatten(0, (2, 7)), output.latent_mean)
    torch.testing.assert_close(log_var.unflatten(0, (2, 7)), output.latent_log_var)


def test_weights_by_name_equal_weights_by_config_and_unknown_ones_are_named():
    model = small_model().train()
    clip = random_clip()

    def loss(**kwargs: object) -> torch.Tensor:
        torch.manual_seed(0)
        return small_model().train().compute_total_loss(*clip, **kwargs)[0]["total_vae_loss"]

    assert torch.equal(loss(beta=0.3), loss(loss=LossConfig(beta=0.3)))
    assert not torch.equal(loss(beta=0.3), loss(beta=0.6))
    with pytest.raises(ConfigError, match="lambda_recon"):
        model.compute_total_loss(*clip, lambda_reconn=1.0)


@pytest.mark.parametrize("changes", [{"max_components": 1}, {"num_slots": 1}, {"attention_floor": 1.0}])
def test_each_pillar_can_be_reduced(changes: dict[str, object]):
    losses, _ = small_model(**changes).train().compute_total_loss(*random_clip())
    assert all(torch.isfinite(losses[name]) for name in OBJECTIVES)


def test_without_an_adversary_nothing_is_judged():
    losses, _ = small_model().train().compute_total_loss(*random_clip(), loss=LossConfig(adversary=False))
    assert not {"adversarial_loss", "discriminator_loss", "disc_real_logit"} & losses.keys()
    assert torch.isfinite(losses["total_vae_loss"])


def test_the_adversarys_gradient_comes_from_the_clips_it_judged_alone():
    model = small_model().train()
    frames, actions = random_clip(batch=4)

    def gradient(clips: torch.Tensor) -> list[torch.Tensor]:
        torch.manual_seed(0)
        settings = LossConfig(study_share=0.5, rollout_steps=0)
        losses, _ = model.compute_total_loss(clips, actions, loss=settings)
        heard = [p for name, p in model.decoder.named_parameters() if not name.startswith("from_doubt")]
        return list(torch.autograd.grad(losses["adversarial_loss"], heard))

    other, judged = frames.clone(), frames.clone()
    other[2:], judged[:2] = 0, 0
    assert all(torch.equal(a, b) for a, b in zip(gradient(frames), gradient(other), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(gradient(frames), gradient(judged), strict=True))


def test_a_context_that_is_not_heard_is_not_foretold():
    model = small_model(perceiver_context=False).train()
    losses, _ = model.compute_total_loss(*random_clip())
    assert losses["context_loss"] == 0
    assert losses["context_foresight"] > 0, "the Perceiver learns all the same"


def test_the_head_that_foretells_the_context_bends_neither_belief_nor_latents():
    clip = random_clip()

    def gradients(weight: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = awake_model()
        losses, _ = model.compute_total_loss(*clip, lambda_context=weight)
        losses["total_vae_loss"].backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    without, much = gradients(0.0), gradients(100.0)
    moved = {name for name in without if not torch.equal(without[name], much[name])}
    assert moved and all(name.startswith("context_head.") for name in moved), moved


@pytest.mark.parametrize("size", [24, 16, 5])
def test_a_context_is_a_forecast_of_the_latents_to_come(size: int):
    """Its numbers are those of one frame on, of four frames on, and the first over again; each costs what it misses."""
    model = small_model(context_dim=size)
    latents = torch.randn(2, 9, dims := model.config.latent_dim)
    model.prior.follow(torch.randn(4, 50, dims) * 3 + 1)
    parts: dict[str, torch.Tensor] = {}

    def error(context: torch.Tensor) -> float:
        loss = outlook(model, context, latents, LossConfig(lambda_foresight=2.0), parts)
        torch.testing.assert_close(loss, 2 * parts["context_foresight"])
        return float(parts["context_foresight"])

    target, right = model.prior.standardised(latents), torch.zeros(2, 9, size)
    for number in range(size):
        ahead = (1, 4, 1)[number // dims]
        right[:, : 9 - ahead, number] = target[:, ahead:, number % dims]
    assert error(right) == pytest.approx(0, abs=1e-6)
    for number in range(size):
        wrong = right.clone()
        wrong[..., number] += 2
        assert error(wrong) == pytest.approx(2.0, rel=1e-4)
    assert outlook(model, right[:, :1], latents[:, :1], LossConfig(), parts) == 0, "of one frame nothing follows"


def test_what_the_adversary_judged_is_handed_on_for_its_further_steps():
    model = small_model().train()
    frames, actions = random_clip(batch=4)
    losses, output = model.compute_total_loss(frames, actions, loss=LossConfig(study_share=0.5, decode_every=2))
    assert output.judged is not None
    real, made = output.judged.real, output.judged.made
    assert real.shape == made.shape == (2, frames.shape[1] // 2, *frames.shape[2:])
    again, _ = discriminator_loss(model.discriminator, real, made.detach())
    assert model.compute_total_loss(frames, actions, loss=LossConfig(adversary=False))[1].judged is None
    assert torch.isfinite(again) and torch.isfinite(losses["discriminator_loss"])


def test_dreams_do_not_bend_the_head_that_foretells_the_context():
    """Open to the dreams' losses it was no context any more, but a latent that nothing had ever watched."""
    model = small_model().train()
    clip = random_clip()
    losses, _ = model.compute_total_loss(*clip, lambda_context=0.0)
    grads = torch.autograd.grad(losses["total_vae_loss"], list(model.context_head.parameters()), allow_unused=True)
    assert all(g is None or not g.any() for g in grads)


def test_a_best_guess_goes_on_by_the_actions_alone():
    """What is guessed is not fed back: with another prior the guesses differ, and dynamics does not."""
    model = small_model().eval()
    frames, actions = random_clip()
    belief = model.observe(frames, actions)
    before = model.imagine(belief, actions, sample=False)
    with torch.no_grad():
        model.prior.common_mean.bias += 1
    after = model.imagine(belief, actions, sample=False)
    assert torch.equal(before.hidden, after.hidden)
    assert not torch.allclose(before.latents, after.latents)
    drawn = model.imagine(belief, actions, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(drawn.hidden[:, 1:], after.hidden[:, 1:]), "a draw tells dynamics something"


def test_without_the_perceivers_context_belief_and_dynamics_do_not_hear_it():
    model = small_model(perceiver_context=False).eval()
    frames, actions = random_clip()
    before = model.observe(frames, actions)
    with torch.no_grad():
        for parameter in model.perceiver.parameters():
            parameter.add_(torch.randn_like(parameter))
    after = model.observe(frames, actions)
    assert torch.equal(before.hidden, after.hidden) and torch.equal(before.latents, after.latents)
    assert not before.context.any()


@pytest.mark.parametrize("time", [1, 2, 9])
def test_any_clip_length_trains(time: int):
    losses, _ = small_model().train().compute_total_loss(*random_clip(time=time))
    assert all(torch.isfinite(losses[name]) for name in OBJECTIVES)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda o, a: (o[0], a[0]), "batch dimension"),
        (lambda o, a: (o.permute(0, 1, 3, 4, 2), a), "channels seem to come last"),
        (lambda o, a: (o.float(), a), "divide by 255"),
        (lambda o, a: (o.int(), a), "uint8, or float"),
        (lambda o, a: (o[..., :16], a), r"\(batch, time, 3, 32, 32\)"),
        (lambda o, a: (o, a[..., :2]), "actions of size 3"),
        (lambda o, a: (o, a[:, :-1]), "to go with these observations"),
        (lambda o, a: (o, a * 5), r"\[-1, 1\]"),
        (lambda o, a: (o, a.long()), "must be float"),
        (lambda o, a: (o[:, :0], a[:, :0]), "empty"),
        (lambda o, a: (o.float() / 255 * torch.nan, a), r"\[0, 1\]"),
    ],
)
def test_bad_clips_are_refused_by_name(break_it, says: str):
    model = small_model().eval()
    with pytest.raises(ShapeError, match=says):
        model.observe(*break_it(*random_clip()))


def test_bad_dreams_are_refused():
    model = small_model().eval()
    belief = model.observe(*random_clip())
    for actions, says in [
        (torch.zeros(2, 4, 5), "size 3"),
        (torch.zeros(3, 4, 3), "batch elements"),
        (torch.zeros(2, 0, 3), "at least one action"),
    ]:
        with pytest.raises(ShapeError, match=says):
            model.imagine(belief, actions)


def test_beliefs_of_others_are_refused():
    model, (frames, actions) = small_model().eval(), random_clip()
    belief = model.observe(frames, actions)
    with pytest.raises(ShapeError, match="holds 2 batch elements, but the observations are for 3"):
        belief.step(*(x[:, 0] for x in random_clip(batch=3)))
    other = small_model(latent_dim=5).eval()
    for go_on in (lambda: other.observe(frames, actions, belief=belief), lambda: other.imagine(belief, actions)):
        with pytest.raises(ShapeError, match="a model with other settings"):
            go_on()
    copy.deepcopy(model).imagine(belief, actions)  # as good as its own
    with pytest.raises(ShapeError, match="0 times or more, not -1"):
        belief.repeat(-1)
    for part in (2.5, torch.tensor(2.5)):
        with pytest.raises(ShapeError, match=r"a whole number of times, not (tensor\()?2\.5"):
            check_repeats(part)
