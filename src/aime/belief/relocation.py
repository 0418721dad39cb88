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

from dataclasses import astuple, dataclass, fields

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
"""Fewer standard errors make components restless, more of them leave a split unmade that few latents speak for."""
UNUSED = 0.1
"""A component with less than this fraction of an equal share 1 / K of the latents is unused."""
ROWS, DIRECTIONS = 256, 16
"""Latents on which moves are proposed (one half) and judged (the other), and how many directions of splitting are
tried."""
ROUNDS = 3
"""Rounds of bisecting 2-means behind each proposed split."""
NARROWEST = 0.02
"""A split leaves at least this fraction of a variance."""


@dataclass
class Move:
    """`mover` copies `sibling`; then both are displaced, and their log-variances changed, by what the rest says."""

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
    unless: Bool[Tensor, ""] | None = None,
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
    # Halves, not alternate rows: of a batch of clips these are different clips, so neighbours do not judge each other.
    proposers, judges = slice(0, (len(z) + 1) // 2), slice(len(z) // 2, None)
    responsibilities = mixture.responsibilities(z).to(usage.dtype)
    usage.lerp_(responsibilities.mean(0), 1 - decay)
    # What the judging latents cannot judge stays: a component that is used, but by other latents than these.
    judged = responsibilities[judges].mean(0) > 0.5 * usage
    movable = (usage < UNUSED / components) | judged
    packed = best_move(Opinion.of(z, mixture), proposers, judges, movable).packed()
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(packed, src=0)
    move = Move.unpack(packed, latent)
    # Written whether or not the move is made, so that no value has to be fetched from the device.
    accepted = move.gain > MARGIN
    if unless is not None:
        accepted = accepted & ~unless
    mover, sibling = move.mover.reshape(1), move.sibling.reshape(1)
    for head, mover_change, sibling_change in (
        (mean_head, move.mover_shift, move.sibling_shift),
        (log_var_head, move.mover_log_var, move.sibling_log_var),
    ):
        weight, bias = head.weight.view(components, latent, -1), head.bias.view(components, latent)
        weight[mover] = torch.where(accepted, weight[sibling], weight[mover])
        bias[mover] = torch.where(accepted, bias[sibling] + mover_change, bias[mover])
        bias[sibling] += torch.where(accepted, sibling_change, 0.0)
    # A component that has moved is given time to prove itself.
    usage[mover] = torch.where(accepted, 1 / components, usage[mover])
    return accepted


@dataclass
class Opinion:
    """What the mixture, with the mean weights of its sticks, makes of some latents; the first dimension is theirs."""

    z: Tensor  # (rows, latent)
    mixture: MixturePrior  # of shape (rows,)
    weights: Tensor  # (rows, components): the sticks' own
    handed: Tensor  # (rows, components, components): of the weight of each (middle), what ends with each (last)
    relative: Tensor  # (rows, components): density of each, relative to that of the mixture
    log_p: Tensor  # (rows,)

    @classmethod
    def of(cls, z: Tensor, mixture: MixturePrior) -> Opinion:
        """The opinion of `mixture` on the latents that belong to it."""
        weights = torch.exp(log_stick_weights(kumaraswamy_mean(mixture.stick_a, mixture.stick_b)))
        handed = weights[..., None] * handover(mixture.means, mixture.log_vars)
        log_each = mixture.component_log_probs(z)
        log_p = torch.logsumexp(torch.log(handed.sum(-2)) + log_each, dim=-1)
        return cls(z, mixture, weights, handed, _relative(log_each, log_p), log_p)

    def displaced(self, component: Tensor, shift: Tensor, log_var: Tensor) -> Tensor:
        """(rows, candidates): relative density of components that are displaced and whose log-variance is changed."""
        log_var = self.mixture.log_vars[:, component] + log_var
        distance = (self.z[:, None] - self.mixture.means[:, component] - shift).square() * torch.exp(-log_var)
        return _relative(-0.5 * (distance + log_var + LOG_2PI).sum(-1), self.log_p)

    def __getitem__(self, rows: slice) -> Opinion:
        """The opinion on some of the latents."""
        return Opinion(*(getattr(self, f.name)[rows] for f in fields(self)))


def _relative(log_density: Tensor, log_p: Tensor) -> Tensor:
    """exp(log_density - log_p), kept finite."""
    return torch.exp((log_density - log_p[:, None]).clamp_max(60.0))


def best_move(opinion: Opinion, proposers: slice, judges: slice, movable: Bool[Tensor, " components"]) -> Move:
    """The join or split with the largest cautious gain in nats per latent, among the components that are movable."""
    splits = propose_splits(opinion[proposers])
    sibling = splits.sibling
    judge = opinion[judges]
    weights, handed, relative = judge.weights, judge.handed, judge.relative
    # A component's weight adds to the density wherever it has been handed; that goes when it moves.
    leaves = (handed * relative[:, None, :]).sum(-1)[:, :, None]
    joined = weights[:, :, None] * relative[:, None, :]
    # A split shares out the mover's weight and what the sibling holds without it. Weights follow later, by gradients.
    alone = handed.sum(-2)[:, None, sibling] - handed[:, :, sibling]
    there = judge.displaced(sibling, splits.mover_shift, splits.mover_log_var)
    here = judge.displaced(sibling, splits.sibling_shift, splits.sibling_log_var)
    pair = splits.gain * there + (1 - splits.gain) * here
    parted = (alone + weights[:, :, None]) * pair[:, None, :] - alone * relative[:, None, sibling]
    change = torch.cat([joined, parted], dim=-1) - leaves

    # Between -7 and 7 nats, so that no single latent decides.
    log_ratio = torch.log1p(change.clamp(-0.999, 999.0))
    gains = log_ratio.mean(0) - CAUTION * log_ratio.std(0, unbiased=False) / len(log_ratio) ** 0.5
    everyone = torch.arange(len(movable), device=movable.device)
    siblings = torch.cat([everyone, sibling])
    # A join leaves the sibling where it is; a split displaces it too.
    allowed = movable[:, None] & torch.cat([torch.ones_like(movable), movable[sibling]])
    gains = gains.masked_fill(~allowed | (everyone[:, None] == siblings), -torch.inf).flatten()
    best = gains.argmax()[None]  # an index of no dimension would be fetched from the device
    mover, place = best // len(siblings), best % len(siblings)
    nowhere = opinion.z.new_zeros(len(movable), opinion.z.shape[-1])
    changes = (splits.mover_shift, splits.mover_log_var, splits.sibling_shift, splits.sibling_log_var)
    return Move(gains[best], mover, siblings[place], *(torch.cat([nowhere, x])[place] for x in changes))


def propose_splits(opinion: Opinion) -> Move:
    """One split for each of the most surprising latents: of its owner, by 2-means that starts in its direction.

    The fields of the result have a leading dimension for the candidates; `gain` holds the mover's share of the pair's
    latents and `mover` has no meaning yet.
    """
    z, mixture = opinion.z, opinion.mixture
    start = torch.topk(-opinion.log_p, min(DIRECTIONS, len(z))).indices
    responsibilities = opinion.handed.sum(-2) * opinion.relative
    sibling = responsibilities[start].argmax(-1)
    r = responsibilities[:, sibling, None]
    offset = z[:, None] - mixture.means[:, sibling]
    scaled = offset * torch.exp(-0.5 * mixture.log_vars[:, sibling])
    direction = scaled[start, torch.arange(len(start), device=z.device)]
    for _ in range(ROUNDS):
        near = r * ((scaled * direction).sum(-1, keepdim=True) > 0)
        direction = _average(near, scaled) - _average(r - near, scaled)
    share = near.sum(0) / r.sum(0).clamp_min(1e-6)
    # What the distance between the two means explains need no longer be variance.
    total = _average(r, scaled.square()).clamp_min(1.0)
    log_var = torch.log((total - share * (1 - share) * direction.square()).clamp(NARROWEST, 1.0))
    near_shift, far_shift = _average(near, offset), _average(r - near, offset)
    # Weights change slowly, so the side with more latents is left to the sibling, which as a rule is the heavier one.
    swap = share > 0.5
    mover_shift, sibling_shift = (torch.where(swap, *x) for x in ((far_shift, near_shift), (near_shift, far_shift)))
    mover_share = torch.where(swap, 1 - share, share).squeeze(-1)
    return Move(mover_share, sibling, sibling, mover_shift, log_var, sibling_shift, log_var)


def _average(weight: Tensor, x: Tensor) -> Tensor:
    """(candidates, latent): mean over the rows."""
    return (weight * x).sum(0) / weight.sum(0).clamp_min(1e-6)
