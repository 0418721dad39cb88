"""The four objectives: what each one is made of.

All likelihoods and KLs are in nats per frame, so that beta = 1 is the evidence lower bound.

========================= ==================================================================================
`total_vae_loss`          recon_nll + β (kl_latent + kl_sticks + kl_alpha) − entropy bonus + context_loss
                          + λ_rollout (rollout_nll + β κ rollout_kl): open-loop steps, for a dream is trained
`perceiver_loss`          token_nll + commitment + next_token_ce
`attention_loss`          λ_att_dyn (attention_kl + motion_loss) + λ_gram (slot_overlap + slot_spread)
                          + λ_attended attended_error
`adversarial_loss`        the generator's side of the hinge loss + feature matching
`discriminator_loss`      the adversary's own side; it reaches the discriminator alone
========================= ==================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from aime.attention import gaussian_nll, map_kl, motion_target, precision_map, slot_overlap, slot_spread
from aime.belief import MixturePrior, compute_kl_divergence_mc
from aime.config import LossConfig, replace
from aime.learning import discriminator_loss, generator_loss

if TYPE_CHECKING:
    from aime.world_model import Imagined, Watched, WorldModel

Scalars = dict[str, Tensor]


class ObservationNoise(nn.Module):
    """Variances of the observation models, kept at their optimum: a running mean of the squared error.

    The optimal variance of a Gaussian decoder is its mean squared error (Rybkin et al., 2021, arXiv 2006.13202).
    Following it, rather than learning it by gradient, keeps the balance between likelihood and KL right from the first
    steps: once the background is explained the variance has shrunk, and a small moving body is worth many nats.
    """

    HORIZONS = 16
    """Dreamed steps with a variance of their own; later ones share the last."""

    def __init__(self, initial_sigma: float = 0.2, floor: float = 0.01, decay: float = 0.95) -> None:
        super().__init__()
        self.floor, self.decay = floor**2, decay
        self.register_buffer("frame", torch.tensor(initial_sigma**2))
        self.register_buffer("token", torch.tensor(initial_sigma**2))
        self.register_buffer("dream", torch.full((self.HORIZONS,), initial_sigma**2))
        self.frame: Tensor
        self.token: Tensor
        self.dream: Tensor

    def log_sigma(self, name: str) -> Tensor:
        """log σ of the observation model `name`: frame, token or dream (one per horizon)."""
        return 0.5 * getattr(self, name).log()

    def follow(self, name: str, mean_squared_error: Tensor) -> None:
        """Move a variance towards the error just seen. A step with a non-finite error moves nothing."""
        buffer = getattr(self, name)
        seen = mean_squared_error.detach().float()
        if name == "dream":  # horizons that were not dreamed share the last one that was
            seen = torch.cat([seen, seen[-1:].expand(max(0, self.HORIZONS - len(seen)))])[: self.HORIZONS]
        seen = torch.where(torch.isfinite(seen), seen, buffer)
        buffer.lerp_(seen.clamp_min(self.floor), 1 - self.decay)


def loss_settings(loss: LossConfig | None, weights: Mapping[str, float]) -> LossConfig:
    """The settings of one call: `loss`, with single fields replaced by name."""
    settings = loss or LossConfig()
    return replace(settings, **weights) if weights else settings


def draw_starts(time: int, settings: LossConfig) -> list[int]:
    """Frames after which training dreams, in order; one draw serves the whole batch, so that the core stays fused."""
    steps = rollout_length(time, settings)
    if steps == 0:
        return []
    count = min(settings.rollout_starts, time - steps)
    return torch.randperm(time - steps)[:count].sort().values.tolist()


def rollout_length(time: int, settings: LossConfig) -> int:
    """Open-loop steps that fit in a clip: at least one frame is watched first."""
    return min(settings.rollout_steps, time - 1)


def objectives(
    model: WorldModel,
    frames: Float[Tensor, "batch time 3 height width"],
    actions: Float[Tensor, "batch time action"],
    watched: Watched,
    shown: Float[Tensor, "batch time grid grid"],
    mean: Float[Tensor, "batch time 3 height width"],
    starts: Sequence[int],
    settings: LossConfig,
) -> Scalars:
    """The four objectives and the discriminator's loss (with gradients), and their parts and health (without).

    `mean` was decoded under the maps `shown`; the likelihood takes its precision from the same maps.
    """
    parts: Scalars = {}
    dreams = dreamed(model, frames, actions, watched, starts, settings, parts)
    total = {
        "total_vae_loss": elbo(model, frames, watched, shown, mean, settings, parts) + dreams[0],
        "perceiver_loss": perception(model, frames, watched, parts),
        "attention_loss": attention(model, frames, watched, shown, mean, settings, parts),
    }
    fake = splice(mean, dreams[1], starts)
    adversarial, matching = generator_loss(model.discriminator, frames, fake)
    total["adversarial_loss"] = adversarial + settings.lambda_feature_matching * matching
    total["discriminator_loss"], stats = discriminator_loss(model.discriminator, frames, fake.detach())
    parts |= {"generator_hinge": adversarial, "feature_matching": matching, **stats}
    health(model, frames, watched, mean, parts)
    return total | {name: value.detach() for name, value in parts.items()}


def elbo(
    model: WorldModel,
    frames: Tensor,
    watched: Watched,
    shown: Tensor,
    mean: Tensor,
    settings: LossConfig,
    parts: Scalars,
) -> Tensor:
    """Minus the evidence lower bound of the watched frames, in nats per frame."""
    prior = watched.prior
    parts["recon_nll"] = _frame_nll(model, "frame", frames, mean, shown).mean()
    parts["kl_latent"] = latent_kl(watched.latent_mean, watched.latent_log_var, watched.latents, prior, settings).mean()
    parts["kl_sticks"] = prior.kl_sticks().mean()
    parts["kl_alpha"] = prior.kl_alpha().mean()
    parts["mixture_entropy"] = prior.entropy().mean()
    predicted = model.context_head(torch.cat([watched.hidden_before, watched.latents], dim=-1))
    target = watched.perceived.context.detach()
    parts["context_loss"] = 0.5 * (predicted.float() - target.float()).square().sum(dim=-1).mean()
    return (
        settings.lambda_recon * parts["recon_nll"]
        + settings.beta * (parts["kl_latent"] + parts["kl_sticks"] + parts["kl_alpha"])
        - settings.entropy_weight * parts["mixture_entropy"]
        + settings.lambda_context * parts["context_loss"]
    )


def latent_kl(
    mean: Tensor, log_var: Tensor, latents: Tensor, prior: MixturePrior, settings: LossConfig
) -> Float[Tensor, "*batch"]:
    """KL(q(z) ‖ mixture) in nats; its gradient is weighed apart for prior and posterior (Hafner et al., 2021).

    The likelihood of a frame is worth thousands of nats, its latent's KL some ten: by the plain bound a latent tells
    the pixels to the last grey level, which no prior foresees.
    """
    to_prior = compute_kl_divergence_mc(mean.detach(), log_var.detach(), latents.detach(), prior)
    to_posterior = compute_kl_divergence_mc(mean, log_var, latents, prior.detach())
    kl = settings.kl_dynamics * to_prior + settings.kl_representation * to_posterior
    kl = kl - kl.detach() + to_prior.detach()  # the value stays that of the KL
    return kl.clamp_min(settings.free_nats) if settings.free_nats else kl


def dreamed(
    model: WorldModel,
    frames: Tensor,
    actions: Tensor,
    watched: Watched,
    starts: Sequence[int],
    settings: LossConfig,
    parts: Scalars,
) -> tuple[Tensor, list[Tensor]]:
    """The loss of the open-loop steps, and the dreamed frames for the adversary to judge.

    From the belief after each start frame the model is rolled on its own samples. Each dreamed prior must expect what
    the posterior saw (rollout_kl) and each dreamed frame must be the true one (rollout_nll).
    """
    steps = rollout_length(frames.shape[1], settings)
    if not starts:
        return frames.new_zeros(()), []
    nlls, kls, movies = [], [], []
    for start, belief in zip(starts, watched.paused, strict=True):
        steps_taken: Imagined = model.dream(belief, actions[:, start + 1 : start + 1 + steps], MixturePrior.rsample)
        ahead = slice(start + 1, start + 1 + steps)
        shown = model.veil(steps_taken.attention)
        movie = model.decode(steps_taken.latents, shown)
        nlls.append(_frame_nll(model, "dream", frames[:, ahead], movie, shown).mean())
        mean, log_var = watched.latent_mean[:, ahead].detach(), watched.latent_log_var[:, ahead].detach()
        latents = watched.latents[:, ahead].detach()
        kls += [
            compute_kl_divergence_mc(mean[:, k], log_var[:, k], latents[:, k], prior).mean()
            for k, prior in enumerate(steps_taken.priors)
        ]
        movies.append(movie)
    parts["rollout_nll"], parts["rollout_kl"] = torch.stack(nlls).mean(), torch.stack(kls).mean()
    parts["dream_psnr"] = _psnr(frames[:, starts[-1] + 1 : starts[-1] + 1 + steps], movies[-1])
    kl = settings.beta * settings.kl_dynamics * parts["rollout_kl"]
    loss = settings.lambda_recon * parts["rollout_nll"] + kl
    return settings.lambda_rollout * loss, movies


def splice(mean: Tensor, movies: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    """The reconstructed clip with its dreamed stretches in place: what the adversary is shown, in time's order."""
    pieces, at = [], 0
    for start, movie in zip(starts, movies, strict=True):
        begin = max(at, start + 1)  # dreams may overlap; the earlier one keeps its frames
        skipped = begin - (start + 1)
        if skipped < movie.shape[1]:
            pieces += [mean[:, at:begin], movie[:, skipped:]]
            at = start + 1 + movie.shape[1]
    return torch.cat([*pieces, mean[:, at:]], dim=1)


def perception(model: WorldModel, frames: Tensor, watched: Watched, parts: Scalars) -> Tensor:
    """The tokenizer's likelihood and commitment, and the cross-entropy of the next tokens, in nats per frame."""
    tokens, flat = watched.tokens, frames.flatten(0, 1)
    even = torch.ones_like(flat[:, 0])
    error = (flat - tokens.reconstruction.float()).square().mean()
    parts["token_nll"] = gaussian_nll(flat, tokens.reconstruction, model.noise.log_sigma("token"), even).mean()
    if model.training:
        model.noise.follow("token", error)
    parts["token_psnr"] = -10 * error.clamp_min(1e-10).log10()
    parts["commitment"] = tokens.commitment_loss * tokens.codes[0].numel()
    batch, time = frames.shape[:2]
    if time > 1:
        logits = watched.perceived.next_token_logits[:, :-1].flatten(0, 2).float()
        target = tokens.indices.unflatten(0, (batch, time))[:, 1:].flatten()
        parts["next_token_ce"] = F.cross_entropy(logits, target) * tokens.indices[0].numel()
        parts["next_token_accuracy"] = (logits.argmax(dim=-1) == target).float().mean()
    return parts["token_nll"] + parts["commitment"] + parts.get("next_token_ce", frames.new_zeros(()))


def attention(
    model: WorldModel,
    frames: Tensor,
    watched: Watched,
    shown: Tensor,
    mean: Tensor,
    settings: LossConfig,
    parts: Scalars,
) -> Tensor:
    """The schema's dynamics, the slots' diversity, and the error where attention lies (which reaches the decoder)."""
    config = model.config
    parts["attention_kl"] = map_kl(watched.attention, watched.expected).mean()
    target, weight = motion_target(frames, config.attention_grid)
    parts["motion_loss"] = (weight * map_kl(target, watched.attention)).mean()
    parts["slot_overlap"] = slot_overlap(watched.slots.maps).mean()
    parts["slot_spread"] = slot_spread(watched.slots.maps).mean()
    # Averaged under the map, so that its size is that of one attended pixel and the other terms are heard beside it.
    density = precision_map(shown.detach().flatten(0, 1), config.input_dim, floor=1e-3)
    error = (frames - mean.float()).flatten(0, 1).square().sum(dim=1)
    variance = torch.exp(2 * model.noise.log_sigma("frame"))
    parts["attended_error"] = 0.5 * (density * error).mean() / variance
    loss = (
        settings.lambda_att_dyn * (parts["attention_kl"] + parts["motion_loss"])
        + settings.lambda_attended * parts["attended_error"]
    )
    if config.enforce_diversity:
        loss = loss + settings.lambda_gram * (parts["slot_overlap"] + parts["slot_spread"])
    return loss


@torch.no_grad()
def health(model: WorldModel, frames: Tensor, watched: Watched, mean: Tensor, parts: Scalars) -> None:
    """What tells a healthy model from a collapsed one."""
    parts["psnr"] = _psnr(frames, mean)
    parts["codebook_perplexity"] = watched.tokens.perplexity
    parts["live_codes"] = watched.tokens.live_codes
    parts["effective_components"] = watched.prior.effective_components().mean()
    parts["active_latents"] = (watched.latent_mean.flatten(0, 1).var(dim=0, unbiased=False) > 0.01).float().sum()
    parts["sigma"] = model.noise.log_sigma("frame").exp()


def _frame_nll(model: WorldModel, name: str, frames: Tensor, mean: Tensor, attention: Tensor) -> Tensor:
    """−log p(o | z, A) of each frame (B, T), under attention's precision.

    The map is taken as given: it says which errors matter. If the likelihood could move it, attention would flee from
    whatever is hard to predict, since the precision that maximises a likelihood is the inverse of the error.
    """
    precision = precision_map(attention.detach().flatten(0, 1), model.config.input_dim, model.config.attention_floor)
    flat, flat_mean = frames.flatten(0, 1), mean.flatten(0, 1)
    log_sigma = model.noise.log_sigma(name)
    if name == "dream":
        horizon = torch.arange(frames.shape[1], device=frames.device).clamp_max(model.noise.HORIZONS - 1)
        log_sigma = log_sigma[horizon].repeat(frames.shape[0])
    nll = gaussian_nll(flat, flat_mean, log_sigma, precision).unflatten(0, frames.shape[:2])
    if model.training:
        error = precision.unsqueeze(1) * (flat - flat_mean.float()).square()
        per_frame = error.detach().mean(dim=(1, 2, 3)).unflatten(0, frames.shape[:2])
        model.noise.follow(name, per_frame.mean(dim=0) if name == "dream" else per_frame.mean())
    return nll


def _psnr(frames: Tensor, mean: Tensor) -> Tensor:
    error = (frames - mean.detach().float().clamp(0, 1)).square().mean(dim=(-3, -2, -1))
    return (-10 * error.clamp_min(1e-10).log10()).mean()
