"""The four objectives: what each one is made of.

All likelihoods and KLs are in nats per frame, so that beta = 1 is the evidence lower bound.

========================= ==================================================================================
`total_vae_loss`          recon_nll + β (kl_latent + kl_sticks + kl_alpha) − entropy bonus + context_loss
                          + β κ λ_guess guess_loss: the best guess is where all components move together
                          + λ_rollout β (κ rollout_kl + rollout_nll + …): open-loop steps, for a dream is trained
`perceiver_loss`          token_nll + commitment + next_token_ce + λ_foresight context_foresight
`attention_loss`          λ_att_dyn (attention_kl + motion_loss) + λ_gram (slot_overlap + slot_spread)
`adversarial_loss`        the generator's side of the hinge loss + feature matching
`discriminator_loss`      the adversary's own side; it reaches the discriminator alone
========================= ==================================================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from aime.attention import (
    gaussian_nll_of,
    map_kl,
    motion_target,
    precision_map,
    slot_overlap,
    slot_spread,
    weighted_error,
)
from aime.belief import MixturePrior, compute_kl_divergence_mc
from aime.config import LossConfig, replace
from aime.learning import discriminator_loss, generator_loss
from aime.lesson import Lesson, placed, rollout_length
from aime.observation import Shown, veil
from aime.outputs import Judged

if TYPE_CHECKING:
    from aime.watched import Watched
    from aime.world_model import WorldModel

Scalars = dict[str, Tensor]

FORESEEN = (1, 4)
"""How many frames on the latents are that the context foretells: what comes next, and where that leads."""


def loss_settings(loss: LossConfig | None, weights: Mapping[str, float]) -> LossConfig:
    """The settings of one call: `loss`, with single fields replaced by name."""
    settings = loss or LossConfig()
    return replace(settings, **weights) if weights else settings


@dataclass(frozen=True)
class Decoded:
    """Decoded clips; those that the adversary looks at have a graph of their own, so that its gradient is cheap."""

    whole: Float[Tensor, "batch time 3 height width"]
    judged: Float[Tensor, "judged time 3 height width"]

    @classmethod
    def of(cls, model: WorldModel, latents: Tensor, shown: Tensor, judged: int) -> Decoded:
        """Decode latents (B, T, Z) under maps (B, T, G, G)."""
        first = model.decode(latents[:judged], shown[:judged])
        if judged == len(latents):
            return cls(first, first)
        return cls(torch.cat([first, model.decode(latents[judged:], shown[judged:])]), first)


def objectives(
    model: WorldModel,
    frames: Float[Tensor, "batch time 3 height width"],
    actions: Float[Tensor, "batch time action"],
    watched: Watched,
    lesson: Lesson,
    settings: LossConfig,
) -> tuple[Scalars, Judged | None]:
    """The four objectives and the discriminator's loss (with gradients), their parts and health (without); and what
    the adversary judged, if there is one."""
    parts: Scalars = {}
    studied, at = lesson.studied, placed(lesson.decoded, frames)
    seen = frames[:, at]
    # The likelihood takes its precision from the same maps that the frames were decoded under.
    shown = veil(watched.expected[:, at])
    decoded = Decoded.of(model, watched.latents[:, at], shown.maps, studied)
    open_loop, dreams = dreamed(model, frames, actions, watched, lesson, settings, parts)
    total = {
        "total_vae_loss": elbo(model, seen, watched, shown, decoded.whole, settings, parts) + open_loop,
        "perceiver_loss": perception(model, frames[:studied], watched, settings, parts),
        "attention_loss": attention(model, frames[:studied], watched, settings, parts),
    }
    judged = None
    if settings.adversary:
        judged = Judged(seen[:studied], splice(decoded.judged, lesson.decoded, dreams))
        total |= realism(model, judged, settings, parts)
    health(model, seen, watched, decoded.whole, parts)
    return total | {name: value.detach() for name, value in parts.items()}, judged


def elbo(
    model: WorldModel,
    frames: Tensor,
    watched: Watched,
    shown: Shown,
    mean: Tensor,
    settings: LossConfig,
    parts: Scalars,
) -> Tensor:
    """Minus the evidence lower bound of the watched frames, in nats per frame; `frames` are those that were decoded."""
    prior = watched.prior
    parts["recon_nll"] = frame_nll(model, "frame", frames, mean, shown, settings).mean()
    parts["kl_latent"] = latent_kl(watched.latent_mean, watched.latent_log_var, watched.latents, prior, settings).mean()
    parts["guess_loss"] = guess_loss(model, watched.latent_mean, prior).mean()
    parts["kl_sticks"] = prior.kl_sticks().mean()
    parts["kl_alpha"] = prior.kl_alpha().mean()
    parts["mixture_entropy"] = prior.entropy().mean()
    context_loss = frames.new_zeros(())
    if model.config.perceiver_context:  # else nobody is to hear it
        context_loss = context_nll(model, watched.hidden_before, watched.latents, watched.sights.context)
    parts["context_loss"] = context_loss
    return (
        settings.lambda_recon * parts["recon_nll"]
        + settings.beta * (parts["kl_latent"] + parts["kl_sticks"] + parts["kl_alpha"])
        + settings.beta * settings.kl_dynamics * settings.lambda_guess * parts["guess_loss"]
        - settings.entropy_weight * parts["mixture_entropy"]
        + settings.lambda_context * parts["context_loss"]
    )


def context_nll(
    model: WorldModel,
    before: Float[Tensor, "batch time hidden"],
    latents: Float[Tensor, "batch time latent"],
    context: Float[Tensor, "batch time context"],
) -> Float[Tensor, ""]:
    """½‖error‖² of the head that foretells the context. It moves that head alone: what belief and latents are, the
    frames decide."""
    foretold = model.context_head(torch.cat([before, latents], dim=-1).detach())
    return 0.5 * (foretold.float() - context.detach().float()).square().sum(dim=-1).mean()


def latent_kl(
    mean: Tensor, log_var: Tensor, latents: Tensor, prior: MixturePrior, settings: LossConfig
) -> Float[Tensor, "*batch"]:
    """KL(q(z) ‖ mixture) in nats; its gradient is weighed apart for prior and posterior (Hafner et al., 2021).

    The likelihood of a frame is worth thousands of nats, its latent's KL some ten: by the plain bound a latent tells
    the pixels to the last grey level, which no prior foresees.
    """
    to_prior = compute_kl_divergence_mc(mean.detach(), log_var.detach(), latents.detach(), prior)
    to_posterior = compute_kl_divergence_mc(mean, log_var, latents, prior.detach())
    pressed = to_posterior.clamp_min(settings.free_nats) if settings.free_nats else to_posterior
    kl = settings.kl_dynamics * to_prior + settings.kl_representation * pressed
    return kl - kl.detach() + to_prior.detach()  # the value stays that of the KL


def guess_loss(model: WorldModel, mean: Tensor, prior: MixturePrior) -> Float[Tensor, "*batch"]:
    """Squared error of the best guess at what was seen, in units of the latents' own variance; it moves the prior.

    A mixture can explain latents by standing still where they tend to be, and choosing among its components. That is a
    minimum of the KL that gradients leave slowly. Here the means are asked to move: the weights are taken as given.
    """
    guess = (prior.weights.detach()[..., None] * prior.means).sum(dim=-2)
    return 0.5 * (model.prior.standardised(mean.detach()) - model.prior.standardised(guess)).square().sum(dim=-1)


@dataclass(frozen=True)
class DreamedFrames:
    """Frames of one dream that were decoded."""

    at: Int64[Tensor, " decoded"]
    """Their places in the clip."""
    frames: Float[Tensor, "judged decoded 3 height width"]


def dreamed(
    model: WorldModel,
    frames: Tensor,
    actions: Tensor,
    watched: Watched,
    lesson: Lesson,
    settings: LossConfig,
    parts: Scalars,
) -> tuple[Tensor, list[DreamedFrames]]:
    """The loss of the open-loop steps, and dreamed frames for the adversary to judge in place of the decoded ones.

    After each start frame every clip is foreseen as a best guess, and the first half also dreamed on samples, for fewer
    steps, since those run one by one. Every prior on the way must expect what the posterior saw (rollout_kl), and some
    of the guessed frames must be the true ones (rollout_nll): that weighs errors by what they do to the picture, and
    lets a guess hedge where it cannot know. A sample need not be what happened, so its pixels are not compared.

    The decoder is told how unsure each guess is. Not told, it learns from wrong ones to heed its latent less, and
    latents never wake. All of it grows with β.
    """
    steps = rollout_length(frames.shape[1], settings)
    if not lesson.starts:
        return frames.new_zeros(()), []
    sampled, judged, at = (len(frames) + 1) // 2, lesson.studied, lesson.decoded

    kls, guesses, sampled_kls, nlls, psnrs, dreams = [], [], [], [], [], []
    for start, belief in zip(lesson.starts, watched.paused, strict=True):
        ahead = actions[:, start + 1 : start + 1 + steps]
        foreseen = model.transition.foresee(belief, ahead)
        kls.append(_expected(watched, foreseen.prior, start))
        guesses.append(guess_loss(model, watched.latent_mean[:, start + 1 : start + 1 + steps], foreseen.prior).mean())
        draws = model.dream(belief[:sampled], ahead[:sampled, : settings.sampled_steps], MixturePrior.rsample)
        sampled_kls.append(_expected(watched, draws.prior, start))
        there = at[(at > start) & (at <= start + steps)]
        there = there[torch.randperm(len(there))[: settings.rollout_frames].sort().values]
        if len(there):
            ahead_by, truth = placed(there - start - 1, frames), frames[:, placed(there, frames)]
            guessed = guessed_frames(model, truth, foreseen.prior[:, ahead_by], foreseen.before[:, ahead_by], settings)
            nlls.append(guessed.nll)
            psnrs.append(guessed.psnr)
            if settings.adversary:
                # It asks what is told with certainty to look real, not what is soft for want of knowing.
                latents, maps = guessed.latents[:judged].detach(), guessed.shown.maps[:judged]
                dreams.append(DreamedFrames(there, model.decode(latents, maps)))
    losses = {"rollout_kl": kls, "rollout_guess": guesses, "sampled_kl": sampled_kls}
    parts |= {name: torch.stack(values).mean() for name, values in losses.items()}
    if nlls:
        parts["rollout_nll"] = torch.stack(nlls).mean()
        parts["dream_psnr"] = torch.stack(psnrs).mean()
    unexpected = parts["rollout_kl"] + parts["sampled_kl"] + settings.lambda_guess * parts["rollout_guess"]
    loss = settings.kl_dynamics * unexpected
    if nlls:
        loss = loss + settings.lambda_dream * parts["rollout_nll"]
    return settings.lambda_rollout * settings.beta * loss, dreams


@dataclass(frozen=True)
class GuessedFrames:
    """Frames of best guesses, decoded with their doubt, beside what came true."""

    latents: Float[Tensor, "batch guessed latent"]
    shown: Shown
    nll: Float[Tensor, ""]
    psnr: Float[Tensor, ""]


def guessed_frames(
    model: WorldModel,
    truth: Float[Tensor, "batch guessed 3 height width"],
    expected: MixturePrior,
    before: Float[Tensor, "batch guessed hidden"],
    settings: LossConfig,
) -> GuessedFrames:
    """Decode best guesses: the means of what was expected of each frame, given h before it."""
    latents = expected.mean()
    with torch.no_grad():
        maps = model.expect_attention(before, latents)
        # How unsure a guess is, the latents that come true decide, not its picture.
        doubt = model.prior.doubt(expected)
    shown = veil(maps)
    guessed = model.decode(latents, shown.maps, doubt)
    nll = frame_nll(model, "dream", truth, guessed, shown, settings).mean()
    return GuessedFrames(latents, shown, nll, _psnr(truth, guessed))


def _expected(watched: Watched, prior: MixturePrior, start: int) -> Tensor:
    """Mean KL from what the posterior saw of the first clips after frame `start` to what was expected there."""
    clips, steps = prior.batch_shape
    there = (slice(0, clips), slice(start + 1, start + 1 + steps))
    mean, log_var = watched.latent_mean[there].detach(), watched.latent_log_var[there].detach()
    return compute_kl_divergence_mc(mean, log_var, watched.latents[there].detach(), prior).mean()


def splice(mean: Tensor, at: Tensor, dreams: Sequence[DreamedFrames]) -> Tensor:
    """The reconstructed frames `at`, with dreamed ones in place: what the adversary is shown, in time's order."""
    for dream in dreams:
        places = placed(torch.searchsorted(at, dream.at), mean)
        mean = mean.index_copy(1, places, dream.frames.to(mean.dtype))
    return mean


def realism(model: WorldModel, judged: Judged, settings: LossConfig, parts: Scalars) -> Scalars:
    """Both sides of the game with the adversary."""
    adversarial, matching = generator_loss(model.discriminator, judged.real, judged.made)
    against, stats = discriminator_loss(model.discriminator, judged.real, judged.made.detach())
    parts |= {"generator_hinge": adversarial, "feature_matching": matching, **stats}
    return {
        "adversarial_loss": adversarial + settings.lambda_feature_matching * matching,
        "discriminator_loss": against,
    }


def perception(model: WorldModel, frames: Tensor, watched: Watched, settings: LossConfig, parts: Scalars) -> Tensor:
    """The tokenizer's likelihood and commitment, the cross-entropy of the next tokens, and what makes the context tell
    something, in nats per frame."""
    studied = watched.sights.studied
    tokens, flat = studied.tokens, frames.flatten(0, 1)
    assert tokens is not None  # these clips are studied
    even = torch.ones_like(flat[:, 0])
    squared = weighted_error(flat, model.tokenizer.reconstruct(tokens.codes), even)
    parts["token_nll"] = gaussian_nll_of(squared, model.noise.log_sigma("token"), even, flat.shape[1]).mean()
    error = squared.detach().mean() / flat[0].numel()
    if model.training:
        model.noise.follow("token", torch.zeros(1, dtype=torch.int64, device=error.device), error[None])
    parts["token_psnr"] = -10 * error.clamp_min(1e-10).log10()
    parts["commitment"] = tokens.commitment_loss * tokens.codes[0].numel()
    parts["codebook_perplexity"], parts["live_codes"] = tokens.perplexity, tokens.live_codes
    batch, time = frames.shape[:2]
    if time > 1:
        logits = studied.perceived.next_token_logits[:, :-1].flatten(0, 2).float()
        target = tokens.indices.unflatten(0, (batch, time))[:, 1:].flatten()
        parts["next_token_ce"] = F.cross_entropy(logits, target) * tokens.indices[0].numel()
        parts["next_token_accuracy"] = (logits.argmax(dim=-1) == target).float().mean()
    loss = parts["token_nll"] + parts["commitment"] + parts.get("next_token_ce", frames.new_zeros(()))
    return loss + outlook(model, studied.perceived.context, watched.latent_mean[: len(frames)], settings, parts)


def outlook(
    model: WorldModel,
    context: Float[Tensor, "clips time context"],
    latents: Float[Tensor, "clips time latent"],
    settings: LossConfig,
    parts: Scalars,
) -> Tensor:
    """½‖error‖² of the context as a forecast: its numbers are those of the latents to come, a block for each of
    `FORESEEN`, and over again from the first if there are more of them.

    Being these numbers themselves it needs no head. Merely asked to vary, it told the time since the clip began.
    """
    time = context.shape[1]
    target = model.prior.standardised(latents.detach())
    error = context.new_zeros(())
    blocks = context.split(latents.shape[-1], dim=-1)
    for block, ahead in zip(blocks, itertools.cycle(FORESEEN), strict=False):
        if ahead < time:
            missed = block[:, : time - ahead] - target[:, ahead:, : block.shape[-1]]
            error = error + 0.5 * missed.square().sum(dim=-1).mean()
    parts["context_foresight"] = error
    return settings.lambda_foresight * error


def attention(model: WorldModel, frames: Tensor, watched: Watched, settings: LossConfig, parts: Scalars) -> Tensor:
    """The schema's dynamics and the slots' diversity."""
    config, clips, slots = model.config, len(frames), watched.sights.studied.slots
    fused, expected = watched.attention[:clips], watched.expected[:clips]
    parts["attention_kl"] = map_kl(fused, expected).mean()
    target, weight = motion_target(frames, config.attention_grid)
    parts["motion_loss"] = (weight * map_kl(target, fused)).mean()
    parts["slot_overlap"] = slot_overlap(slots.maps).mean()
    parts["slot_spread"] = slot_spread(slots.maps).mean()
    loss = settings.lambda_att_dyn * (parts["attention_kl"] + parts["motion_loss"])
    if config.enforce_diversity:
        loss = loss + settings.lambda_gram * (parts["slot_overlap"] + parts["slot_spread"])
    return loss


@torch.no_grad()
def health(model: WorldModel, frames: Tensor, watched: Watched, mean: Tensor, parts: Scalars) -> None:
    """What tells a healthy model from a collapsed one."""
    parts["psnr"] = _psnr(frames, mean)
    parts["effective_components"] = watched.prior.effective_components().mean()
    parts["active_latents"] = (watched.latent_mean.flatten(0, 1).var(dim=0, unbiased=False) > 0.01).float().sum()
    parts["sigma"] = model.noise.log_sigma("frame")[0].exp()
    if model.config.perceiver_context:
        parts["context_variation"] = context_variation(watched.sights.context)


def context_variation(context: Float[Tensor, "batch time context"]) -> Float[Tensor, ""]:
    """Share of the context's mean square that is variance between clips at one time in them, in [0, 1]: 0 for a
    constant and for a clock, which tell nothing of what is seen. Of one clip alone the variance is over its frames."""
    values = context.detach().float()
    between = 0 if len(values) > 1 else 1
    return values.var(dim=between, unbiased=False).mean() / values.square().mean().clamp_min(1e-12)


def frame_nll(model: WorldModel, name: str, frames: Tensor, mean: Tensor, shown: Shown, settings: LossConfig) -> Tensor:
    """−log p(o | z, A) of each frame (B, T), under attention's precision.

    The map is taken as given: it says which errors matter. If the likelihood could move it, attention would flee from
    whatever is hard to predict, since the precision that maximises a likelihood is the inverse of the error.
    """
    precision = precision_map(shown.maps.detach().flatten(0, 1), model.config.input_dim, model.config.attention_floor)
    error = weighted_error(frames.flatten(0, 1), mean.flatten(0, 1), precision)
    kinds = shown.attended.long().flatten()
    log_sigma = model.noise.taught(name, settings.sigma_floor)[kinds]
    if model.training:
        model.noise.follow(name, kinds, error / frames[0, 0].numel())
    return gaussian_nll_of(error, log_sigma, precision, frames.shape[2]).unflatten(0, frames.shape[:2])


def _psnr(frames: Tensor, mean: Tensor) -> Tensor:
    error = (frames - mean.detach().float().clamp(0, 1)).square().mean(dim=(-3, -2, -1))
    return (-10 * error.clamp_min(1e-10).log10()).mean()
