"""A recurrent state-space model with DreamerV3's world-model objective: the peer that AIME is measured against.

    h[t] = GRU(h[t-1], z[t-1], a[t-1])          deterministic state
    ẑ[t] ~ p(z[t] | h[t])                       prior, 32 categoricals of 32 classes
    z[t] ~ q(z[t] | h[t], o[t])                 posterior
    loss = ‖o − ô(h, z)‖² + 1.0 max(1, KL(sg q ‖ p)) + 0.1 max(1, KL(q ‖ sg p))

From the paper (Hafner et al., 2023, arXiv 2301.04104) are: the categorical latent with 1% of the uniform distribution
mixed in and straight-through gradients, the objective above with its free nat and its two factors, the squared error
summed over the pixels of frames in [0, 1], convolutions of kernel 4 and stride 2 down to 4×4 with layer norm and SiLU,
a layer-normed GRU, and Adam at 1e-4 with gradients clipped at a norm of 1000 (`aime.presets.peer_config`). Ours are:
the widths, chosen so that it has as many parameters as AIME at the same settings; the learning rate's schedule, which
is AIME's; and that rewards and episode ends are not predicted, which AIME does not do either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from aime.config import ModelConfig
from aime.inputs import check_clip, check_count, check_dream, check_repeats, to_unit_frames
from aime.reach import generator_parameters
from aime.world_model import WorldModel

GROUPS, CLASSES, UNIMIX = 32, 32, 0.01
FREE_NATS, DYNAMICS, REPRESENTATION = 1.0, 1.0, 0.1
GUESSES = 16
"""Draws whose mean is the best guess."""


@dataclass(frozen=True)
class PeerBelief:
    """What the peer believes after frame t and action a[t]."""

    hidden: Float[Tensor, "batch hidden"]
    latents: Float[Tensor, "batch latent"]
    action: Float[Tensor, "batch action"]
    """a[t], not yet acted upon."""

    def __len__(self) -> int:
        return len(self.hidden)

    def repeat(self, times: int) -> PeerBelief:
        """Every element `times` over, neighbours alike."""
        check_repeats(times)
        return PeerBelief(*(x.repeat_interleave(times, dim=0) for x in (self.hidden, self.latents, self.action)))


@dataclass(frozen=True)
class PeerOutput:
    """What the peer makes of a clip, or dreams; all (batch, time, …)."""

    observations: Float[Tensor, "batch time 3 height width"]
    """Mean of the frames, in [0, 1]."""
    hidden: Float[Tensor, "batch time hidden"]
    latents: Float[Tensor, "batch time latent"]
    belief: PeerBelief

    @classmethod
    def mean(cls, draws: Sequence[PeerOutput]) -> PeerOutput:
        """The mean of several dreams of the same actions. Its belief is that at the end of the last one: no state that
        was ever trained is a mean of several."""

        def of(name: str) -> Tensor:
            return torch.stack([getattr(draw, name) for draw in draws]).mean(dim=0)

        return cls(of("observations"), of("hidden"), of("latents"), draws[-1].belief)

    @property
    def reconstructions(self) -> Tensor:
        """The frames, as a watched clip's are called."""
        return self.observations


@dataclass(frozen=True)
class _Watched:
    hidden: Tensor
    latents: Tensor
    prior: Tensor
    posterior: Tensor
    belief: PeerBelief


class RSSM(nn.Module):
    """The peer at AIME's number of parameters.

    Args:
        config: AIME's settings: frames, actions, and how many parameters to have.

    >>> peer = RSSM(ModelConfig(action_dim=1))
    >>> dream = peer.imagine(peer.observe(frames, actions), future_actions)
    """

    def __init__(self, config: ModelConfig, sizes: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.config = config
        self.depth, self.hidden_dim = depth, width = sizes or _sizes_for(config)
        stages = _stages(config.input_dim)
        channels = [depth * 2**i for i in range(stages)]
        base = config.input_dim >> stages
        self.encoder = nn.Sequential(
            *(_Down(a, b) for a, b in zip([3, *channels[:-1]], channels, strict=True)), nn.Flatten()
        )
        embed, stochastic = channels[-1] * base * base, GROUPS * CLASSES
        self.act_in = _dense(stochastic + config.action_dim, width)
        self.gru = _NormedGRU(width)
        self.to_prior = nn.Sequential(_dense(width, width), nn.Linear(width, stochastic))
        self.to_posterior = nn.Sequential(_dense(width + embed, width), nn.Linear(width, stochastic))
        self.decoder = nn.Sequential(
            nn.Linear(width + stochastic, embed),
            nn.Unflatten(1, (channels[-1], base, base)),
            *(_Up(b, a) for a, b in zip(reversed(channels[:-1]), reversed(channels[1:]), strict=True)),
            nn.ConvTranspose2d(channels[0], 3, kernel_size=4, stride=2, padding=1),
        )
        self.register_buffer("variance", torch.tensor(0.04))
        self.variance: Tensor

    # ------------------------------------------------------------------ the two verbs

    @torch.no_grad()
    def observe(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        belief: PeerBelief | None = None,
    ) -> PeerBelief:
        """Watch frames and the actions taken after them; as `WorldModel.observe`."""
        check_clip(self.config, observations, actions, is_first)
        if belief is not None:
            check_count(len(belief), len(observations), "observations")
        return self._watch(to_unit_frames(observations), actions, is_first, belief).belief

    @torch.no_grad()
    def imagine(
        self,
        belief: PeerBelief,
        actions: Tensor,
        *,
        sample: bool = True,
        generator: torch.Generator | None = None,
    ) -> PeerOutput:
        """Dream the K frames that follow a belief; as `WorldModel.imagine`.

        Without `sample` it is the mean of `GUESSES` draws, frames and states alike: a best guess by squared error, as
        AIME's is. Following the most likely classes is worse than one draw (walker-walk: 14.2 dB on moving pixels, one
        draw 14.5, the mean of eight 15.4).

        Raises:
            ShapeError: if the actions do not fit the model or the belief.
        """
        check_dream(self.config, actions, len(belief))
        if not sample:
            generator = generator or torch.Generator(self.device).manual_seed(0)
            return PeerOutput.mean([self.imagine(belief, actions, generator=generator) for _ in range(GUESSES)])
        hiddens, latents = [], []
        for action in actions.unbind(dim=1):
            hidden = self._act(belief.hidden, belief.latents, belief.action)
            latent = _draw(self._logits(self.to_prior(hidden)), sample=True, generator=generator)
            belief = replace(belief, hidden=hidden, latents=latent, action=action)
            hiddens.append(hidden)
            latents.append(latent)
        hidden, latent = torch.stack(hiddens, dim=1), torch.stack(latents, dim=1)
        return PeerOutput(self._decode(hidden, latent).float().clamp(0, 1), hidden, latent, belief)

    def forward_sequence(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        *,
        sample: bool | None = None,
    ) -> PeerOutput:
        """Watch a clip and reconstruct it; as `WorldModel.forward_sequence`."""
        check_clip(self.config, observations, actions, is_first)
        watched = self._watch(to_unit_frames(observations), actions, is_first, None, sample=sample)
        mean = self._decode(watched.hidden, watched.latents).float().clamp(0, 1)
        return PeerOutput(mean, watched.hidden, watched.latents, watched.belief)

    # ------------------------------------------------------------------ learning

    def compute_loss(
        self, observations: Tensor, actions: Tensor, is_first: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """DreamerV3's world-model loss per frame, and its parts for the log."""
        check_clip(self.config, observations, actions, is_first, ranges=not observations.is_cuda)
        frames = to_unit_frames(observations)
        watched = self._watch(frames, actions, is_first, None)
        error = (frames - self._decode(watched.hidden, watched.latents).float()).square()
        to_prior = _kl(watched.posterior.detach(), watched.prior)
        to_posterior = _kl(watched.posterior, watched.prior.detach())
        if self.training:
            self.variance.lerp_(error.detach().mean().clamp_min(1e-4), 0.05)
        squared = error.sum(dim=(-3, -2, -1)).mean()
        dynamics, representation = (kl.clamp_min(FREE_NATS).mean() for kl in (to_prior, to_posterior))
        loss = squared + DYNAMICS * dynamics + REPRESENTATION * representation
        mean_squared = error.detach().mean(dim=(-3, -2, -1)).clamp_min(1e-10)
        parts = {
            "total_vae_loss": loss,
            "squared_error": squared,
            "kl_latent": to_prior.mean(),
            "psnr": (-10 * mean_squared.log10()).mean(),
            "sigma": self.variance.sqrt(),
        }
        return loss, {name: value.detach() for name, value in parts.items()}

    @torch.no_grad()
    def nll_bound(
        self, observations: Tensor, actions: Tensor, is_first: Tensor | None = None
    ) -> Float[Tensor, "batch time"]:
        """Minus the evidence lower bound of each frame in nats, at the variance that its training errors had."""
        frames = to_unit_frames(observations)
        watched = self._watch(frames, actions, is_first, None, sample=True)
        error = (frames - self._decode(watched.hidden, watched.latents).float()).square()
        pixels = frames[0, 0].numel()
        constant = 0.5 * pixels * torch.log(2 * torch.pi * self.variance)
        nll = error.sum(dim=(-3, -2, -1)) / (2 * self.variance) + constant
        return nll + _kl(watched.posterior, watched.prior)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.variance.device

    # ------------------------------------------------------------------ parts

    def _watch(
        self,
        frames: Tensor,
        actions: Tensor,
        is_first: Tensor | None,
        belief: PeerBelief | None,
        *,
        sample: bool | None = None,
    ) -> _Watched:
        batch, time = frames.shape[:2]
        embedded = self.encoder((frames.flatten(0, 1) - 0.5).contiguous(memory_format=torch.channels_last))
        embedded = embedded.unflatten(0, (batch, time))
        if belief is None:
            belief = PeerBelief(
                frames.new_zeros(batch, self.hidden_dim),
                frames.new_zeros(batch, GROUPS * CLASSES),
                torch.zeros_like(actions[:, 0]),
            )
        drawn = self.training if sample is None else sample
        kept = None if is_first is None else (~is_first).to(frames.device, frames.dtype, non_blocking=True)
        hiddens, latents, priors, posteriors = [], [], [], []
        for t in range(time):
            if kept is not None:
                keep = kept[:, t, None]
                belief = PeerBelief(belief.hidden * keep, belief.latents * keep, belief.action * keep)
            hidden = self._act(belief.hidden, belief.latents, belief.action)
            prior = self._logits(self.to_prior(hidden))
            posterior = self._logits(self.to_posterior(torch.cat([hidden, embedded[:, t]], dim=-1)))
            latent = _draw(posterior, sample=drawn)
            belief = PeerBelief(hidden, latent, actions[:, t].to(hidden))
            hiddens.append(hidden)
            latents.append(latent)
            priors.append(prior)
            posteriors.append(posterior)
        h, z, p, q = (torch.stack(x, dim=1) for x in (hiddens, latents, priors, posteriors))
        return _Watched(h, z, p, q, belief)

    def _act(self, hidden: Tensor, latents: Tensor, action: Tensor) -> Tensor:
        return self.gru(self.act_in(torch.cat([latents, action], dim=-1)), hidden).float()

    @staticmethod
    def _logits(raw: Tensor) -> Tensor:
        """Log-probabilities of the classes with 1% of the uniform distribution mixed in."""
        shares = raw.float().unflatten(-1, (GROUPS, CLASSES)).softmax(dim=-1)
        return ((1 - UNIMIX) * shares + UNIMIX / CLASSES).log()

    def _decode(self, hidden: Tensor, latents: Tensor) -> Tensor:
        state = torch.cat([hidden, latents], dim=-1)
        return self.decoder(state.flatten(0, 1)).unflatten(0, state.shape[:2]) + 0.5


def _draw(logits: Tensor, *, sample: bool, generator: torch.Generator | None = None) -> Tensor:
    """One class of each group, one-hot and flat, with the straight-through gradient of its probabilities."""
    shares = logits.exp()
    if sample:
        flat = shares.detach().flatten(0, -2)
        # Of exponential races with these rates each class wins in proportion to its share. Unlike `multinomial` this
        # waits for no GPU, and what is not finite is left to those who look for it.
        index = (flat / torch.empty_like(flat).exponential_(generator=generator)).argmax(dim=-1)
        index = index.view(shares.shape[:-1])
    else:
        index = shares.argmax(dim=-1)
    hot = F.one_hot(index, CLASSES).to(shares.dtype)
    return (hot + shares - shares.detach()).flatten(-2)


def _kl(left: Tensor, right: Tensor) -> Tensor:
    """KL between two rows of categoricals given by log-probabilities (…, groups, classes), in nats."""
    return (left.exp() * (left - right)).sum(dim=(-2, -1))


def _stages(image_size: int) -> int:
    """Halvings that lead to a grid of about 4×4."""
    return max(1, (image_size // 4).bit_length() - 1)


def _sizes_for(config: ModelConfig) -> tuple[int, int]:
    """Channels of the first convolution, and width of the state, at which the peer is nearest to AIME's number of
    parameters, the adversary's not counted: first with the width at 16 times the channels, then by the width alone.
    """

    def size(parameters: Iterable[nn.Parameter]) -> int:
        return sum(p.numel() for p in parameters)

    with torch.random.fork_rng(devices=[]):  # counting draws no number that training would
        wanted = size(generator_parameters(WorldModel(config)))
    with torch.device("meta"):
        candidates: list[tuple[int, int]] = [(depth, 16 * depth) for depth in range(1, 257)]
        for _ in range(2):
            best, distance = candidates[0], float("inf")
            for sizes in candidates:
                off = abs(size(RSSM(config, sizes).parameters()) - wanted)
                if off > distance:
                    break
                best, distance = sizes, off
            depth, width = best
            candidates = [(depth, each) for each in range(max(8, width - 8 * depth), width + 8 * depth, 8)]
    return best


def _dense(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.LayerNorm(outputs), nn.SiLU())


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Down(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=False)
        super().__init__(convolution, _ChannelNorm(outputs), nn.SiLU())


class _Up(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        convolution = nn.ConvTranspose2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=False)
        super().__init__(convolution, _ChannelNorm(outputs), nn.SiLU())


class _NormedGRU(nn.Module):
    """A GRU whose three gates are layer-normed together, with an update gate that starts closed (as DreamerV3's)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.Linear(2 * width, 3 * width, bias=False)
        self.norm = nn.LayerNorm(3 * width)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        reset, candidate, update = self.norm(self.gates(torch.cat([x, hidden.to(x.dtype)], dim=-1))).chunk(3, dim=-1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return update * candidate + (1 - update) * hidden
