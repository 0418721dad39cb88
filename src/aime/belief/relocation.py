"""Components are moved to where they are needed: how the mixture finds modes that gradients cannot reach.

A component far from all latents gets no gradient, and two distant modes under one broad component are a minimum that
gradient descent does not leave. The remedy is that of split-and-merge EM (Ueda et al. 2000) and greedy mixture learning
(Verbeek et al. 2003), made amortised: the component that moves becomes the sibling of another one, whose read-outs it
copies, so that it stands in the same place relative to its sibling whatever the condition. There are two moves:

- join: it settles exactly where its sibling is, which gets its weight (`aime.belief.coalescence`);
- split: it and its sibling, displaced to either side, share between them what the sibling held alone.

A move is made only if it makes latents that had no part in proposing it likelier, by more than chance explains.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aime.belief.coalescence import handover
from aime.belief.kumaraswamy import kumaraswamy_mean
from aime.belief.mixture import LOG_2PI, MixturePrior
from aime.belief.stick_breaking import log_stick_weights

MARGIN = 0.005
"""Nats per latent that a move must gain, after CAUTION standard errors have been taken off."""
CAUTION = 1.7
UNUSED = 0.1
"""A component with less than this fraction of an equal share 1 / K of the latents is unused."""
ROWS, DIRECTIONS = 256, 16
"""Latents on which moves are proposed (one half) and judged (the other), and how many directions of splitting are
tried."""
ROUNDS = 3
"""Rounds of bisecting 2-means behind each proposed split."""
NARROWEST = 0.02
"""A split leaves at least this fraction of a variance."""

_PROPOSERS, _JUDGES = slice(0, None, 2), slice(1, None, 2)


@dataclass
class Move:
    """`mover` copies `sibling`; then both are displaced. Entries broadcast over candidates; log-variances are
    changes."""

    gain: Tensor
    mover: Tensor
    sibling: Tensor
    mover_shift: Tensor
    mover_log_var: Tensor
    sibling_shift: Tensor
    sibling_log_var: Tensor

    def packed(self) -> Tensor:
        """All of it in one float vector."""
        return torch.cat([x.to(self.gain.dtype).flatten() for x in astuple(self)])

    @classmethod
    def unpack(cls, packed: Tensor, latent: int) -> Move:
        """The inverse of `packed` for latents of this size."""
        gain, mover, sibling, *rest = packed.split([1, 1, 1, latent, latent, latent, latent])
        return cls(gain[0], mover[0].long(), sibling[0].long(), *rest)


@torch.no_grad()
def relocate(
    mean_head: nn.Linear,
    log_var_head: nn.Linear,
    usage: Float[Tensor, " components"],
    latents: Float[Tensor, "*batch latent"],
    mixture: MixturePrior,
    decay: float,
) -> Bool[Tensor, ""]:
    """Update `usage` and make the most gainful move, if any, both in place; see `DPGMMPrior.relocate`.

    With several processes all must call it; rank 0 decides for all.
    """
    components, latent = mixture.means.shape[-2:]
    batch = len(mixture.batch_shape)
    z = latents.reshape(-1, latent).to(mixture.means.dtype)
    mixture = mixture.map(lambda x: x.reshape(-1, *x.shape[batch:]))
    rows = torch.linspace(0, len(z) - 1, min(len(z), ROWS), device=z.device).round().long()
    z, mixture = z[rows], mixture[rows]
    responsibilities = mixture.responsibilities(z).to(usage.dtype)
    usage.lerp_(responsibilities.mean(0), 1 - decay)
    # What the judging latents cannot judge stays: a component that is used, but by other latents than these.
    judged = responsibilities[_JUDGES].mean(0) > 0.5 * usage
    packed = best_move(z, mixture, (usage < UNUSED / components) | judged).packed()
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(packed, src=0)
    move = Move.unpack(packed, latent)
    # Written whether or not the move is made, so that no value has to be fetched from the device.
    accepted = move.gain > MARGIN
    for head, mover_change, sibling_change in (
        (mean_head, move.mover_shift, move.sibling_shift),
        (log_var_head, move.mover_log_var, move.sibling_log_var),
    ):
        weight, bias = head.weight.view(components, latent, -1), head.bias.view(components, latent)
        weight[move.mover] = torch.where(accepted, weight[move.sibling], weight[move.mover])
        bias[move.mover] = torch.where(accepted, bias[move.sibling] + mover_change, bias[move.mover])
        bias[move.sibling] += torch.where(accepted, sibling_change, 0.0)
    # A component that has moved is given time to prove itself.
    usage[move.mover] = torch.where(accepted, 1 / components, usage[move.mover])
    return accepted


def best_move(z: Float[Tensor, "rows latent"], mixture: MixturePrior, movable: Bool[Tensor, " components"]) -> Move:
    """The join or split with the largest cautious gain in nats per latent."""
    components, latent = mixture.means.shape[-2:]
    weights = torch.exp(log_stick_weights(kumaraswamy_mean(mixture.stick_a, mixture.stick_b)))
    shares = handover(mixture.means, mixture.log_vars)
    handed = weights[..., None] * shares
    held = handed.sum(-2)
    log_each = mixture.component_log_probs(z)
    log_p = torch.logsumexp(torch.log(held) + log_each, dim=-1)
    children = _splits(z[_PROPOSERS], mixture[_PROPOSERS], held[_PROPOSERS], log_p[_PROPOSERS])

    # From here on the other half judges, everything relative to p(z).
    z, mixture, log_p = z[_JUDGES], mixture[_JUDGES], log_p[_JUDGES]
    weights, handed, held = weights[_JUDGES], handed[_JUDGES], held[_JUDGES]
    relative = torch.exp(log_each[_JUDGES] - log_p[:, None])
    adds = (handed * relative[:, None, :]).sum(-1)
    joins = weights[:, :, None] * relative[:, None, :] - adds[:, :, None]

    sibling = children.sibling
    alone = held[:, None, sibling] - handed[:, :, sibling]
    together = alone + weights[:, :, None]
    pair = children.gain * _density(z, mixture, sibling, children.mover_shift, children.mover_log_var, log_p)
    pair = pair + (1 - children.gain) * _density(
        z, mixture, sibling, children.sibling_shift, children.sibling_log_var, log_p
    )
    splits = together * pair[:, None, :] - alone * relative[:, None, sibling] - adds[:, :, None]

    # Between -7 and 7 nats, so that no single latent decides.
    log_ratio = torch.log1p(torch.cat([joins, splits], dim=-1).clamp(-0.999, 999.0))
    error = log_ratio.std(0, unbiased=False) / len(z) ** 0.5
    everyone = torch.arange(components, device=z.device)
    siblings = torch.cat([everyone, sibling])
    displaced = torch.cat([torch.ones_like(movable), movable[sibling]])
    forbidden = ~(movable[:, None] & displaced) | (everyone[:, None] == siblings)
    gains = (log_ratio.mean(0) - CAUTION * error).masked_fill(forbidden, -torch.inf)
    best = gains.flatten().argmax()
    mover, place = best // len(siblings), best % len(siblings)
    nowhere = z.new_zeros(components, latent)
    changes = (children.mover_shift, children.mover_log_var, children.sibling_shift, children.sibling_log_var)
    return Move(gains.flatten()[best], mover, siblings[place], *(torch.cat([nowhere, x])[place] for x in changes))


def _density(z: Tensor, mixture: MixturePrior, at: Tensor, shift: Tensor, log_var: Tensor, log_p: Tensor) -> Tensor:
    """(rows, candidates): density of the components `at`, displaced, relative to p(z)."""
    log_var = mixture.log_vars[:, at] + log_var
    distance = (z[:, None] - mixture.means[:, at] - shift).square() * torch.exp(-log_var)
    log_density = -0.5 * (distance + log_var + LOG_2PI).sum(-1)
    return torch.exp((log_density - log_p[:, None]).clamp_max(60.0))


def _splits(z: Tensor, mixture: MixturePrior, held: Tensor, log_p: Tensor) -> Move:
    """Candidate splits; `gain` holds the share of the sibling's latents that goes to the mover."""
    start = torch.topk(-log_p, min(DIRECTIONS, len(z))).indices
    responsibilities = torch.softmax(torch.log(held) + mixture.component_log_probs(z), dim=-1)
    sibling = responsibilities[start].argmax(-1)
    r = responsibilities[:, sibling, None]
    offset = z[:, None] - mixture.means[:, sibling]
    scaled = offset * torch.exp(-0.5 * mixture.log_vars[:, sibling])
    direction = scaled[start, torch.arange(len(start), device=z.device)]
    for _ in range(ROUNDS):
        r_near = r * ((scaled * direction).sum(-1, keepdim=True) > 0)
        r_far = r - r_near
        near, far = r_near.sum(0), r_far.sum(0)
        mean_near, mean_far = ((x * scaled).sum(0) / x.sum(0).clamp_min(1e-6) for x in (r_near, r_far))
        direction = mean_near - mean_far
    share = near / (near + far).clamp_min(1e-6)
    # What the distance between the two means explains need no longer be variance.
    total = ((r * scaled.square()).sum(0) / (near + far).clamp_min(1e-6)).clamp_min(1.0)
    log_var = torch.log((total - share * (1 - share) * direction.square()).clamp(NARROWEST, 1.0))
    shifts = [(x * offset).sum(0) / x.sum(0).clamp_min(1e-6) for x in (r_near, r_far)]
    # The weights are in the sticks and change slowly, so the side with more latents is left to the heavier sibling.
    swap = share > 0.5
    mover, stays = torch.where(swap, shifts[1], shifts[0]), torch.where(swap, shifts[0], shifts[1])
    share = torch.where(swap, 1 - share, share).squeeze(-1)
    return Move(share, sibling, sibling, mover, log_var, stays, log_var)
