"""The world model: the one place where the five pillars meet. It watches, believes and dreams.

    p(o, z, A | a) = Π p(z[t] | h[t-1]) · p(A[t] | h[t-1], z[t]) · p(o[t] | z[t], A[t])

    q(z[t] | o[t])                                  the posterior, which does not need h: all frames run at once
    h[t] = LSTM(h[t-1], (z[t], Δz[t], c[t], a[t]))  the belief after frame t and action t

Whatever predicts frame t reads only frames and actions before t. See docs/architecture.md for the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aime import losses
from aime.attention import AttentionSchema, SlotAttention, Slots
from aime.belief import DPGMMPrior, MixturePrior, Posterior
from aime.config import LossConfig, ModelConfig
from aime.dynamics import RecurrentCore, RecurrentState
from aime.errors import ShapeError
from aime.inputs import check_clip, check_count, check_dream, to_unit_frames
from aime.learning import TemporalPatchDiscriminator
from aime.lesson import Lesson
from aime.observation import ObservationNoise
from aime.outputs import Belief, Dream, SequenceOutput
from aime.perception import (
    CausalPerceiver,
    FrameDecoder,
    FrameEncoder,
    FrameFeatures,
    VQTokenizer,
)
from aime.sight import Sight
from aime.transition import Transition, shifted, started
from aime.watched import Imagined, Watched

OBSERVE_CHUNK = 64
"""Frames per clip that `observe` runs at once: long videos are filtered piece by piece, in bounded memory."""


class WorldModel(nn.Module):
    """AIME's world model.

    >>> model = WorldModel(ModelConfig(action_dim=21))
    >>> belief = model.observe(observations, actions)    # (B, T, 3, 64, 64) uint8, (B, T, 21) in [-1, 1]
    >>> dream = model.imagine(belief, future_actions)    # (B, K, 21) -> dream.observations (B, K, 3, 64, 64)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels, grid = config.img_perceiver_channels, config.attention_grid
        # Perception
        self.tokenizer = VQTokenizer(
            channels=channels,
            code_dim=config.perceiver_code_dim,
            codebook_size=config.num_codebook_perceiver,
            image_size=config.input_dim,
        )
        self.perceiver = CausalPerceiver(
            token_dim=config.perceiver_code_dim,
            tokens_per_frame=config.token_grid**2,
            codebook_size=config.num_codebook_perceiver,
            dim=config.num_latent_channels_perceiver,
            latents_per_frame=config.latents_per_frame,
            window=config.sequence_length,
            layers=config.perceiver_layers,
            heads=config.perceiver_heads,
            context_dim=config.context_dim,
        )
        self.encoder = FrameEncoder(channels=channels, image_size=config.input_dim, embed_dim=config.hidden_dim)
        self.decoder = FrameDecoder(
            channels=channels,
            image_size=config.input_dim,
            latent_dim=config.latent_dim,
            hidden_dim=config.hidden_dim // 2,
            attention_grid=grid,
        )
        # Attention
        self.slot_attention = SlotAttention(
            in_channels=self.encoder.grid_channels,
            grid=grid,
            slot_dim=config.attention_dim,
            num_slots=config.num_slots,
            iterations=config.slot_iterations,
        )
        self.schema = AttentionSchema(grid=grid, condition_dim=config.hidden_dim + config.latent_dim)
        # Belief
        self.posterior = Posterior(
            places_dim=self.encoder.places_dim,
            evidence_dim=config.hidden_dim + self.slot_attention.summary_dim,
            hidden_dim=config.hidden_dim,
            latent_dim=config.latent_dim,
        )
        self.prior = DPGMMPrior(
            condition_dim=config.hidden_dim,
            latent_dim=config.latent_dim,
            max_components=config.max_components,
            hidden_dim=config.hidden_dim,
        )
        # Dynamics
        self.core = RecurrentCore(
            latent_dim=config.latent_dim,
            context_dim=config.context_dim,
            action_dim=config.action_dim,
            hidden_dim=config.hidden_dim,
        )
        self.context_head = nn.Sequential(
            nn.Linear(config.hidden_dim + config.latent_dim, config.hidden_dim),
            nn.LayerNorm(config.hidden_dim),
            nn.SiLU(),
            nn.Linear(config.hidden_dim, config.context_dim),
        )
        # Learning
        self.discriminator = TemporalPatchDiscriminator(
            channels=channels,
            image_size=config.input_dim,
            layers=config.img_disc_layers,
            heads=config.disc_num_heads,
            max_frames=config.sequence_length,
        )
        self.noise = ObservationNoise()

    # ------------------------------------------------------------------ the two verbs
    # Tensors that users hand in are annotated plainly: `aime.inputs` checks them, and says in words what is wrong.

    @torch.no_grad()
    def observe(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        belief: Belief | None = None,
    ) -> Belief:
        """Watch frames and the actions taken after them; return the belief after the last one.

        Fed frame by frame (`Belief.step`) it gives what it gives on the whole clip.

        Args:
            observations: (B, T, 3, H, W), uint8, or float in [0, 1]; any T.
            actions: (B, T, A) in [-1, 1].
            is_first: true where an episode starts; what was believed before is forgotten there.
            belief: go on from here; None starts afresh.

        Raises:
            ShapeError: if a shape, dtype or range does not fit, or `belief` has dreamed, holds another number of batch
                elements or is of another model.
        """
        check_clip(self.config, observations, actions, is_first)
        if belief is not None:
            self._check_mine(belief)
            check_count(len(belief), len(observations), "observations")
            if belief.perceiver is None:
                raise ShapeError(
                    "this belief has dreamed, so it has no frames to go on from; keep the belief from before the dream"
                )
        for start in range(0, observations.shape[1], OBSERVE_CHUNK):
            piece = slice(start, start + OBSERVE_CHUNK)
            first = None if is_first is None else is_first[:, piece]
            belief = self.watch(to_unit_frames(observations[:, piece]), actions[:, piece], first, belief).belief
        assert belief is not None  # T ≥ 1 was checked
        return belief

    @torch.no_grad()
    def imagine(
        self,
        belief: Belief,
        actions: Tensor,
        *,
        sample: bool = True,
        generator: torch.Generator | None = None,
    ) -> Dream:
        """Dream the K frames that follow a belief, using nothing of what is dreamed. Any K.

        Args:
            belief: after frame t and action a[t].
            actions: (B, K, A) in [-1, 1]: actions[:, k] is taken after dreamed frame o[t+1+k]. The last one changes no
                frame of this dream, only the belief that it ends with.
            sample: draw each z from the mixture, and let dynamics go on from what was drawn; False gives the best
                guess, the mean of each mixture, and dynamics goes on by the actions alone.
            generator: source of the draws, to repeat a dream.

        Raises:
            ShapeError: if the actions do not fit the model or the belief, or the belief is of another model.
        """
        self._check_mine(belief)
        check_dream(self.config, actions, len(belief))
        if sample:
            steps = self.dream(belief, actions, lambda prior: prior.sample(generator=generator))
        else:
            steps = self.foresee(belief, actions)
        maps = self.expect_attention(steps.before, steps.latents)
        pieces = [
            self.decode(
                steps.latents[:, piece],
                maps[:, piece],
                None if steps.doubt is None else steps.doubt[:, piece],
            )
            for piece in (slice(k, k + OBSERVE_CHUNK) for k in range(0, actions.shape[1], OBSERVE_CHUNK))
        ]
        return Dream(
            observations=torch.cat(pieces, dim=1).float().clamp(0, 1),
            attention_map=maps,
            dpgmm_weights=steps.prior.weights,
            context=steps.context,
            latents=steps.latents,
            hidden=steps.hidden,
            belief=steps.belief,
        )

    # ------------------------------------------------------------------ whole clips

    def forward_sequence(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        *,
        sample: bool | None = None,
    ) -> SequenceOutput:
        """Everything that the model makes of a clip, with gradients; the arguments are those of `observe`.

        Args:
            sample: draw z from the posterior; False takes its mean. By default it draws while training only.
        """
        check_clip(self.config, observations, actions, is_first)
        output = self._output(self.watch(to_unit_frames(observations), actions, is_first, sample=sample))
        if torch.is_grad_enabled():  # else it waits until it is asked for, if it ever is
            output.reconstruction_mean  # noqa: B018 - with the precision and the gradients of this call
        return output

    def compute_total_loss(
        self,
        observations: Tensor,
        actions: Tensor,
        is_first: Tensor | None = None,
        *,
        loss: LossConfig | None = None,
        **weights: float,
    ) -> tuple[dict[str, Tensor], SequenceOutput]:
        """The four objectives, the discriminator's loss, and their parts.

        Args:
            loss: the weights inside the objectives.
            weights: single fields of `LossConfig` by name (`beta=1.0, entropy_weight=0.6, lambda_recon=1.0,
                lambda_att_dyn=0.1, lambda_gram=0.05, …`), over those of `loss`.

        Returns:
            Scalars by name, and the output of `forward_sequence`. `total_vae_loss`, `perceiver_loss`, `attention_loss`,
            `adversarial_loss` and `discriminator_loss` carry gradients; the rest (see `aime.losses`) is for the log.
        """
        check_clip(self.config, observations, actions, is_first, ranges=not observations.is_cuda)
        settings = losses.loss_settings(loss, weights)
        frames = to_unit_frames(observations)
        draw = Lesson.draw if self.training else Lesson.whole
        lesson = draw(len(frames), frames.shape[1], settings)
        watched = self.watch(frames, actions, is_first, lesson=lesson)
        found, judged = losses.objectives(self, frames, actions, watched, lesson, settings)
        return found, replace(self._output(watched), judged=judged)

    def extract_context(self, videos: Tensor) -> Float[Tensor, "batch time context"]:
        """What the Perceiver understands of a video up to each frame: c[t], from frames ≤ t."""
        check_clip(self.config, videos, None, None)
        first = self._episode_starts(None, len(videos), videos.shape[1], fresh=True)
        return self.sight.read(to_unit_frames(videos), first)[2].context

    # ------------------------------------------------------------------ watching

    def watch(
        self,
        frames: Float[Tensor, "batch time 3 height width"],
        actions: Float[Tensor, "batch time action"],
        is_first: Bool[Tensor, "batch time"] | None = None,
        belief: Belief | None = None,
        *,
        sample: bool | None = None,
        lesson: Lesson | None = None,
    ) -> Watched:
        """Infer everything about a clip but its reconstruction, all frames at once.

        Args:
            lesson: what is learned from, where that is not everything; the rest is watched at a fraction of the price.
        """
        batch, time = frames.shape[:2]
        pauses = [] if lesson is None else lesson.starts
        first = self._episode_starts(is_first, batch, time, fresh=belief is None)
        sights = self.sight(frames, first, None if belief is None else belief.perceiver, lesson)
        transition = self.transition
        # As it is: what the context tells is perception's, or dynamics would make it what suits it now.
        context = transition.heeded(sights.context.detach())

        seen = self._infer(sights.features, sights.slots)
        mean, log_var = (x.unflatten(0, (batch, time)) for x in seen)
        drawn = self.training if sample is None else sample
        latents = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean) if drawn else mean

        state = self.core.initial(batch) if belief is None else belief.recurrent
        # Dynamics reads the posterior's mean: what was seen is better known than one draw of it tells; a velocity is
        # the difference of two such readings.
        last = None if belief is None else belief.latents
        hidden, states = transition.carry(mean, last, context, actions, state, is_first, [*pauses, time - 1])
        hidden_before = shifted(hidden, None if belief is None else belief.hidden, first)

        attended = [
            self._attend(look.slots, hidden_before[look.rows], latents[look.rows], learns=look.learns)
            for look in sights.looks
        ]
        expected, attention = (torch.cat(maps) for maps in zip(*attended, strict=True))

        def belief_at(t: int, state: RecurrentState) -> Belief:
            return Belief(
                model=self,
                recurrent=state,
                hidden=hidden[:, t],
                context=context[:, t],
                attention_map=attention[:, t],
                latents=mean[:, t],
                perceiver=sights.cache if t == time - 1 else None,
            )

        beliefs = [belief_at(t, state) for t, state in zip([*pauses, time - 1], states, strict=True)]
        return Watched(
            sights=sights,
            latent_mean=mean,
            latent_log_var=log_var,
            latents=latents,
            hidden=hidden,
            hidden_before=hidden_before,
            expect=lambda: self.prior(hidden_before),
            expected=expected,
            attention=attention,
            belief=beliefs[-1],
            paused=tuple(beliefs[:-1]),
        )

    def glance(
        self, frames: Float[Tensor, "n 3 height width"]
    ) -> tuple[Float[Tensor, "n latent"], Float[Tensor, "n latent"]]:
        """Mean and log-variance of the posterior of single frames; slots are taken as given."""
        features = self.encoder(frames)
        with torch.no_grad():
            slots = self.slot_attention(features.grid)
        return self._infer(features, slots)

    def _infer(self, features: FrameFeatures, slots: Slots) -> tuple[Tensor, Tensor]:
        return self.posterior(features.places, torch.cat([features.embedding, slots.summary()], dim=-1))

    def _episode_starts(self, is_first: Tensor | None, batch: int, time: int, *, fresh: bool) -> Tensor:
        """Where beliefs reset, on the model's device; a fresh clip starts one at its first frame."""
        if is_first is None:
            first = torch.zeros(batch, time, dtype=torch.bool, device=self.device)
        else:
            first = is_first.to(self.device, non_blocking=True)
        return started(first) if fresh else first

    def _attend(self, slots: Slots, hidden_before: Tensor, latents: Tensor, *, learns: bool) -> tuple[Tensor, Tensor]:
        """What the schema expected, and that fused with what the slots see: (B, T, G, G) each."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            expected = self.expect_attention(hidden_before, latents)
            attention = self.schema.fuse(slots.attention, expected.flatten(0, 1))
            return expected, attention.unflatten(0, expected.shape[:2])

    # ------------------------------------------------------------------ dreaming

    def dream(
        self,
        belief: Belief,
        actions: Float[Tensor, "batch k action"],
        draw: Callable[[MixturePrior], Tensor],
    ) -> Imagined:
        """Step the belief forward on its own predictions. `draw` takes a latent from each prior."""
        transition = self.transition
        state, hidden, z = belief.recurrent, belief.hidden, belief.latents
        priors: list[MixturePrior] = []
        taken: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for action in actions.unbind(dim=1):
            prior, last = self.prior(hidden), z
            z = draw(prior)
            # Detached: the head foretells the context. Open to the dream's losses it served as one more latent, far
            # from any context that was ever watched.
            context = transition.heeded(self.context_head(torch.cat([hidden, z], dim=-1)).detach())
            output, (state,) = transition.carry(z[:, None], last, context[:, None], action[:, None], state, None, [0])
            priors.append(prior)
            taken.append((z, context, hidden, output[:, 0]))
            hidden = output[:, 0]
        latents, contexts, before, hiddens = (torch.stack(x, dim=1) for x in zip(*taken, strict=True))
        end = self._dreamt(belief, state, before, latents, contexts, hiddens)
        return Imagined(MixturePrior.stack(priors, 1), latents, contexts, before, hiddens, None, end)

    def foresee(self, belief: Belief, actions: Float[Tensor, "batch k action"]) -> Imagined:
        """The best guess at what follows a belief: dynamics goes on with closed eyes, by the actions alone.

        A guess tells nothing that the belief did not know, so nothing is fed back, and no error of a guess is ever
        taken for an observation. All steps run at once.
        """
        ahead = self.transition.foresee(belief, actions)
        latents = ahead.prior.mean()
        context = self.transition.heeded(self.context_head(torch.cat([ahead.before, latents], dim=-1)))
        end = self._dreamt(belief, ahead.state, ahead.before, latents, context, ahead.hidden)
        doubt = self.prior.doubt(ahead.prior)
        return Imagined(ahead.prior, latents, context, ahead.before, ahead.hidden, doubt, end)

    def _dreamt(
        self,
        belief: Belief,
        state: RecurrentState,
        before: Tensor,
        latents: Tensor,
        context: Tensor,
        hidden: Tensor,
    ) -> Belief:
        """The belief at the end of a dream. Of its maps only this last one is made: latents do not depend on them."""
        return replace(
            belief,
            recurrent=state,
            hidden=hidden[:, -1],
            context=context[:, -1],
            attention_map=self.expect_attention(before[:, -1:], latents[:, -1:])[:, 0],
            latents=latents[:, -1],
            perceiver=None,
        )

    def expect_attention(
        self, before: Float[Tensor, "batch time hidden"], latents: Float[Tensor, "batch time latent"]
    ) -> Float[Tensor, "batch time grid grid"]:
        """The maps with which the schema expects frames to be attended; `before` is h before each of them."""
        return self.schema(before.flatten(0, 1), latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    def decode(
        self,
        latents: Float[Tensor, "batch time latent"],
        attention: Float[Tensor, "batch time grid grid"] | None,
        doubt: Float[Tensor, "batch time latent"] | None = None,
    ) -> Float[Tensor, "batch time 3 height width"]:
        """Mean of p(o | z, A), unclamped, from the latent and the map that the *schema* expects.

        It is the schema's map while watching, too: what the slots see of the very frame that is decoded would be a way
        around the latent.

        Args:
            attention: the map; None for attention at rest, an even one.
            doubt: how unsure a guess at each number of the latents is; the mean is then that over all that may be.
        """
        maps, unsure = (None if x is None else x.flatten(0, 1) for x in (attention, doubt))
        return self.decoder(latents.flatten(0, 1), maps, unsure).unflatten(0, latents.shape[:2])

    # ------------------------------------------------------------------ parts

    @property
    def sight(self) -> Sight:
        """How frames are looked at."""
        return Sight(self.encoder, self.tokenizer, self.perceiver, self.slot_attention)

    @property
    def transition(self) -> Transition:
        """How beliefs go from frame to frame."""
        return Transition(self.prior, self.core, hears=self.config.perceiver_context)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.noise.frame.device

    def _check_mine(self, belief: Belief) -> None:
        """Refuse a belief of a model of other settings, whose numbers mean nothing here; a copy's is welcome."""
        if belief.model.config != self.config:
            raise ShapeError(
                "this belief is of a model with other settings; watch the frames with the model that is to go on"
            )

    def _output(self, watched: Watched) -> SequenceOutput:
        sights = watched.sights
        per_frame = watched.hidden.shape[:2]
        return SequenceOutput(
            context=sights.context,
            latents=watched.latents,
            latent_mean=watched.latent_mean,
            latent_log_var=watched.latent_log_var,
            hidden=watched.hidden,
            prior=watched.prior,
            attention_map=watched.attention,
            attention_prior=watched.expected,
            attention_seen=sights.slots.attention.unflatten(0, per_frame),
            slot_maps=sights.slots.maps.unflatten(0, per_frame),
            tokens=sights.indices,
            perceived=tuple(look.perceived for look in sights.looks),
            belief=watched.belief,
        )
