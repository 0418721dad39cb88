"""Every setting of AIME, once, with its default in sight.

Each part of the system has one small dataclass; `TrainConfig` composes them, and the command line is made from it
(flat flags: ``--latent-dim``, ``--learning-rate``, …). The defaults are the quickstart's, and the ``base`` preset is
made of them. What follows from another setting is derived in one place, as a property of the class that owns it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from aime.errors import ConfigError, unknown

Preset = Literal["tiny", "base", "large"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bf16"]
Renderer = Literal["auto", "egl", "osmesa", "warp"]
Policy = Literal["mixture", "ou", "cpg", "spline", "uniform", "assisted"]
WorldModelName = Literal["aime", "rssm"]
BalancerName = Literal["rgb", "mean", "sum", "upgrad", "pcgrad", "cagrad", "config", "alignedmtl"]

UNLIMITED_STEPS = 1_000_000_000
"""`max_steps` of a run that only its minutes end."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_choices(config: Any) -> None:
    """Every setting whose type is a `Literal` has one of its values."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise unknown(name, getattr(config, name), get_args(hint))


@dataclass(frozen=True)
class ModelSettings:
    """The size and shape of a world model, but for the size of an action, which only the data can tell."""

    input_dim: int = 64
    """Height and width of a frame in pixels: a multiple of 16."""
    sequence_length: int = 16
    """Frames in a training clip, and the span that the Perceiver looks back over."""

    # Perception
    img_perceiver_channels: int = 64
    """Width of the first stage of every convolutional stack; deeper stages double it."""
    num_codebook_perceiver: int = 1024
    """Codes in the tokenizer's codebook."""
    perceiver_code_dim: int = 256
    """Size of one code."""
    num_latent_perceiver: int = 128
    """Perceiver latents per clip, shared out evenly over its frames."""
    num_latent_channels_perceiver: int = 256
    """Width of the Perceiver."""
    perceiver_layers: int = 4
    """Blocks of self-attention over time."""
    perceiver_heads: int = 4
    """Heads of every attention in the Perceiver."""
    context_dim: int = 256
    """Size of the context c[t]."""
    perceiver_context: bool = True
    """Feed the Perceiver's context to dynamics; without it, it sees zeros."""

    # Belief
    max_components: int = 15
    """Truncation K of the Dirichlet-process mixture."""
    latent_dim: int = 36
    """Size of the latent state z[t]."""

    # Dynamics
    hidden_dim: int = 512
    """Size of the recurrent state h[t]."""

    # Attention
    attention_dim: int = 64
    """Size of one slot."""
    num_slots: int = 5
    """Slots that compete for each frame."""
    slot_iterations: int = 3
    """Rounds of slot attention."""
    attention_floor: float = 0.25
    """Share of the precision that is spread evenly over the frame, in (0, 1]: 1 switches attention as precision off."""
    enforce_diversity: bool = True
    """Keep each slot local and the slots apart; without it they collapse onto each other."""

    # Learning
    img_disc_layers: int = 4
    """Strided convolutions of the discriminator."""
    disc_num_heads: int = 4
    """Heads of the discriminator's temporal transformer."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.type == "int":
                _require(
                    isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                    f"{f.name} must be a whole number of at least 1, not {value!r}",
                )
        _require(self.input_dim % 16 == 0, f"input_dim must be a multiple of 16 (such as 64), not {self.input_dim}")
        _require(
            self.num_latent_perceiver % self.sequence_length == 0,
            f"num_latent_perceiver ({self.num_latent_perceiver}) must be a multiple of sequence_length "
            f"({self.sequence_length}), because the latents are shared out evenly over the frames",
        )
        _require(
            self.num_latent_channels_perceiver % (2 * self.perceiver_heads) == 0,
            f"num_latent_channels_perceiver ({self.num_latent_channels_perceiver}) must be a multiple of "
            f"2 × perceiver_heads ({2 * self.perceiver_heads})",
        )
        _require(0.0 < self.attention_floor <= 1.0, f"attention_floor must be in (0, 1], not {self.attention_floor}")

    @property
    def token_grid(self) -> int:
        """Height and width of the grid of codes (8 for 64×64 frames)."""
        return self.input_dim // 8

    @property
    def attention_grid(self) -> int:
        """Height and width of the attention maps (21 for 64×64 frames)."""
        return (self.input_dim - 4) // 3 + 1

    @property
    def latents_per_frame(self) -> int:
        """Perceiver latents that belong to one frame."""
        return self.num_latent_perceiver // self.sequence_length

    def for_actions(self, action_dim: int) -> ModelConfig:
        """The model that these settings make on data with actions of this size."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(ModelSettings)}
        return ModelConfig(action_dim=action_dim, **own)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelSettings):
    """A world model's size and shape, complete. `action_dim` comes from the data and has no default."""

    action_dim: int
    """Numbers in one action."""


@dataclass(frozen=True)
class LossConfig:
    """Weights inside the four objectives. All likelihoods and KLs are in nats per frame, so beta = 1 is the ELBO."""

    beta: float = 1.0
    """Weight of the KL terms once warmed up."""
    entropy_weight: float = 0.6
    """Bonus for the entropy of the mixture weights."""
    lambda_recon: float = 1.0
    """Weight of the likelihood of the frames."""
    sigma_floor: float = 0.2
    """Least σ of a pixel under an even map, as a share of its range, in the likelihood that latents learn from: a low
    one makes them tell what cannot be foreseen."""
    lambda_att_dyn: float = 0.1
    """Weight of the attention schema's dynamics: KL between posterior and prior map, and motion."""
    lambda_gram: float = 0.05
    """Weight of the slots' Gram matrix off its diagonal: the overlap between slots."""
    lambda_rollout: float = 1.0
    """Weight of the open-loop (dreamed) steps inside the ELBO."""
    rollout_steps: int = 40
    """Open-loop steps K of the best guesses that training makes, but never more than three quarters of a clip; 0 trains
    on filtered frames only."""
    sampled_steps: int = 4
    """Open-loop steps of the sampled dreams beside them, each of which waits for the last."""
    rollout_frames: int = 8
    """Frames of each best guess that are decoded, at most; all count by their latents."""
    rollout_starts: int = 1
    """Start frames sampled per clip for those dreams."""
    lambda_dream: float = 0.5
    """Weight of the likelihood of dreamed frames inside those steps."""
    lambda_guess: float = 4.0
    """Weight of the best guess's squared error beside the KL, while watching and in dreams."""
    lambda_context: float = 1.0
    """Weight of the head that predicts the next context for dreams."""
    lambda_foresight: float = 4.0
    """Weight, inside perception, of the context's error as a forecast of the latents to come."""
    free_nats: float = 0.0
    """KL per frame below which the latent is not pressed further."""
    kl_dynamics: float = 16.0
    """Factor on the gradient that the latent KL gives the prior; with this and the next at 1 it is the ELBO's own."""
    kl_representation: float = 0.5
    """Factor on the gradient that the latent KL gives the posterior; a high one leaves only what can be foreseen."""
    study_share: float = 0.25
    """Share of a batch's clips that all four objectives learn from; the others teach belief and dynamics alone."""
    decode_every: int = 4
    """Of how many frames one is decoded in training: neighbours are much alike."""
    adversary: bool = True
    """Train the decoder against the discriminator, too."""
    lambda_feature_matching: float = 1.0
    """Weight of feature matching inside the adversarial objective."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            _require(value >= 0, f"{f.name} must not be negative, got {value!r}")
        for name in ("rollout_frames", "sampled_steps"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1; rollout_steps 0 switches dreams off")
        _require(self.decode_every >= 1, f"decode_every must be at least 1, not {self.decode_every}")
        _require(0 < self.study_share <= 1, f"study_share must be in (0, 1], not {self.study_share}")


@dataclass(frozen=True)
class BalancerConfig:
    """How the gradients of the four objectives become one update."""

    balancer: BalancerName = "rgb"
    """Rotation-based balancing, or another aggregator to compare with."""
    mu: float = 0.9
    """Momentum of what RGB remembers: how the objectives' gradients stand to each other."""
    lambd: float = 1.0
    """Proximity weight λ: how strongly a rotated gradient is held to its own direction."""
    alpha_steps: int = 3
    """Newton or sweep iterations of the solver for the angles."""
    objective_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.1)
    """Say of each objective (ELBO, perception, attention, realism): in the consensus, and after the rotation; where it
    alone moves a part, the factor of its gradient."""

    def __post_init__(self) -> None:
        _require_choices(self)
        _require(0.0 <= self.mu < 1.0, f"mu must be in [0, 1), not {self.mu}")
        _require(self.lambd >= 0.0, f"lambd must not be negative, got {self.lambd}")
        _require(self.alpha_steps >= 1, f"alpha_steps must be at least 1, got {self.alpha_steps}")
        _require(
            len(self.objective_weights) == 4 and all(w >= 0 for w in self.objective_weights),
            f"objective_weights must be four numbers that are not negative, got {self.objective_weights}",
        )
        _require(any(self.objective_weights), "objective_weights must not all be zero: nothing would be learned")


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and schedules."""

    learning_rate: float = 0.0002
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon, which moves the filters and matrices of Perceiver, encoder, posterior, decoder,
    dynamics and prior."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    dynamics_decay: float = 4.0
    """Decoupled weight decay of the matrices of dynamics and prior, counted by learning_rate: with little they learn
    the clips by heart, with much they learn slowly."""
    dynamics_decay_step: float = 0.1
    """While perception rests, dynamics_decay moves by this much of its natural logarithm in each step, towards what
    would foretell the episodes of the validation split better, and so does how far dynamics believes the context. 0
    leaves both as they are."""
    grad_clip: float = 5.0
    """Largest norm of a parameter's gradient, as a multiple of the parameter's own (for a peer: of all in one)."""
    lr_warmup_steps: int = 100
    """Steps over which the learning rate rises from zero."""
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after its warm-up: for cosine it falls to a tenth when perception comes to rest (or
    at max_steps), and then, for consolidation, from half its peak to a hundredth of that."""
    average_power: float = 15.0
    """A checkpoint's weights are an average of those of all steps t so far, weighed by t to this power: the larger, the
    younger (15: 6% of the training, in the mean). A very large one hands on the last weights."""
    warmup_epochs: float = 25.0
    """Epochs over which beta rises from zero to its value."""
    second_looks: int = 3
    """Further updates of encoder, posterior and decoder after each update of the model, on frames watched lately."""
    rehearsals: int = 3
    """Further updates of dynamics and prior after those, on latents watched lately."""
    rehearsal_clips: int = 16
    """Clips in each of those."""
    consolidation: float = 0.5
    """Share of a run, its last part, in which perception rests: dynamics and prior learn from latents that no longer
    change, and the decoder from what they guess. 0 for none; 1 for nothing else, which makes the most of a
    --load-checkpoint whose perception is good."""
    consolidation_rehearsals: int = 8
    """Updates of dynamics and prior in that part for each of the decoder."""
    consolidation_clips: int = 64
    """Clips in each rehearsal of that part: what is left to learn there is less than the noise of a few clips."""
    consolidation_precision: Precision = "auto"
    """Precision of those rehearsals, whose recurrence may be faster in bf16 where the rest of a run is not. auto is as
    --precision where that is given, else measured where that comes to float32 on a CPU."""
    n_critic: int = 1
    """Discriminator updates per update of the model, at most."""
    critic_limit: float = 0.8
    """Share of patches judged rightly above which the discriminator takes no update: one that always wins teaches
    nothing. 1 for no such limit."""
    discriminator_learning_rate: float = 0.0002
    """Learning rate of the discriminator."""

    def __post_init__(self) -> None:
        _require_choices(self)
        for name in ("learning_rate", "muon_learning_rate", "grad_clip", "discriminator_learning_rate"):
            _require(getattr(self, name) > 0, f"{name} must be above zero, got {getattr(self, name)}")
        rates = ("learning_rate", "muon_learning_rate", "discriminator_learning_rate")  # of grad_clip inf is for none
        for name in (*rates, "weight_decay", "dynamics_decay"):
            _require(math.isfinite(getattr(self, name)), f"{name} must be finite, got {getattr(self, name)}")
        _require(
            self.dynamics_decay_step <= 1, f"dynamics_decay_step must be at most 1, got {self.dynamics_decay_step}"
        )
        for name in (
            "weight_decay",
            "dynamics_decay",
            "dynamics_decay_step",
            "lr_warmup_steps",
            "average_power",
            "warmup_epochs",
            "second_looks",
            "rehearsals",
        ):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("n_critic", "rehearsal_clips", "consolidation_rehearsals", "consolidation_clips"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        _require(0.5 <= self.critic_limit <= 1, f"critic_limit must be in [0.5, 1], not {self.critic_limit}")
        _require(0 <= self.consolidation <= 1, f"consolidation must be in [0, 1], not {self.consolidation}")


@dataclass(frozen=True)
class DataConfig:
    """Which video to train on, how it is read, and how it is collected where there is none yet."""

    env: str = "humanoid-walk"
    """The task, as domain-task of the dm_control suite: humanoid-walk, cartpole-swingup, …"""
    data_dir: Path | None = None
    """Folder of the episodes; by default data/<env>. Where it holds none, some are collected first."""
    batch_size: int = 8
    """Clips in one training step (of one process, where there are several)."""
    workers: int | None = None
    """Processes that read clips ahead; by default 2 for CUDA, and none on a CPU, where training is far slower."""
    episodes: int = 24
    """Episodes to collect where there are none."""
    episode_length: int = 250
    """Frames in each episode to collect."""
    renderer: Renderer = "auto"
    """What draws the frames to collect; auto takes the first that works here."""
    policy: Policy = "mixture"
    """What moves the body in the episodes to collect."""
    policy_file: Path | None = None
    """A Python file with a policy of your own, instead of --policy."""

    def __post_init__(self) -> None:
        _require_choices(self)
        _require(bool(self.env), "env must name a task, such as humanoid-walk")
        for name in ("batch_size", "episode_length"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        _require(self.workers is None or self.workers >= 0, f"workers must not be negative, got {self.workers}")
        _require(self.episodes >= 3, f"episodes must be at least 3 (train, validation, test), got {self.episodes}")

    @property
    def data_path(self) -> Path:
        """Where the episodes are."""
        return self.data_dir or Path("data") / self.env


@dataclass(frozen=True)
class TrainConfig:
    """A training run, complete: what `aime train` takes, and what the run's config.yaml holds.

    Every setting's name is unique over all the groups, so that each is one flat flag: --env, --latent-dim, --max-steps.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossConfig = field(default_factory=LossConfig)
    balancer: BalancerConfig = field(default_factory=BalancerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    world_model: WorldModelName = "aime"
    """Which world model to train: AIME, or rssm, a peer of as many parameters to compare it with (also --model)."""
    preset: Preset = "base"
    """Size of everything in one word; the other flags then change single values."""
    run_dir: Path | None = None
    """Folder of the run, by default runs/<env>. A run that is already there goes on from its last checkpoint."""
    max_steps: int = 10_000
    """Training steps of the whole run; raise it to train a finished run further."""
    max_minutes: float | None = None
    """Stop after so many minutes of training, with the learning rate's schedule at its end, if --max-steps is not
    reached before: for comparing runs at equal time. Looks at held-out episodes, pictures and checkpoints do not count,
    and a run that goes on counts the minutes before."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""
    precision: Precision = "auto"
    """auto is bf16 where it is supported and faster (on a CPU that is measured), else float32."""
    seed: int = 0
    """Decides the initial weights, the clips and all the noise: on one CPU the same seed is the same run to the bit."""
    load_checkpoint: str | None = None
    """Start from these weights (a run folder, a checkpoint folder or a hub name); with --eval-only: evaluate them."""
    eval_only: bool = False
    """Evaluate --load-checkpoint (or the run's last checkpoint) and train nothing."""

    log_every: int = 10
    """Steps between two lines of metrics.jsonl; a line is the mean over the steps since the one before."""
    tensorboard: bool = True
    """Write TensorBoard curves into the run folder as well."""
    wandb: bool = False
    """Send the metrics to Weights & Biases as well (needs the extra: pip install aime[wandb])."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; one more is written at the end, and on Ctrl-C."""
    keep_checkpoints: int = 3
    """Checkpoints to keep: the newest ones; 0 keeps all."""
    eval_every: int = 500
    """Steps between two looks at held-out episodes (quality of reconstructions and dreams); 0 for none."""
    eval_clips: int = 8
    """Held-out clips for that."""
    visualize_attention: bool = False
    """Draw the attention and the slots over the frames while training, too, every --picture-every steps."""
    save_visualizations: bool = False
    """Write pictures while training, too, every --picture-every steps; at the end they are always written."""
    picture_every: int = 1000
    """Steps between two sets of pictures, where they are asked for."""

    def __post_init__(self) -> None:
        _require_choices(self)
        for name in ("max_steps", "log_every", "checkpoint_every", "picture_every", "eval_clips"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        if self.world_model != "aime":
            self._require_nothing_of_aimes_alone()
        minutes = self.max_minutes
        _require(minutes is None or minutes > 0, f"max_minutes must be above zero, got {minutes}")
        for name in ("seed", "keep_checkpoints", "eval_every"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")

    def _require_nothing_of_aimes_alone(self) -> None:
        """A peer has one objective and no adversary: settings of AIME's would be ignored, and that in silence."""
        for group, names in AIMES_ALONE.items():
            ours = getattr(self, group)
            for name in names:
                _require(
                    getattr(ours, name) == getattr(type(ours)(), name),
                    f"{name} is a setting of AIME's objectives, which world_model {self.world_model} does not have",
                )

    @property
    def consolidation(self) -> float:
        """Share of the run, its last part, that is for consolidation: 0 for a peer."""
        return self.optimizer.consolidation if self.world_model == "aime" else 0.0

    @property
    def run_path(self) -> Path:
        """Where the run is."""
        return self.run_dir or Path("runs") / self.data.env


AIMES_ALONE: dict[str, tuple[str, ...]] = {
    "loss": tuple(f.name for f in dataclasses.fields(LossConfig)),
    "balancer": tuple(f.name for f in dataclasses.fields(BalancerConfig)),
    "optimizer": (
        "n_critic",
        "critic_limit",
        "discriminator_learning_rate",
        "muon_learning_rate",
        "dynamics_decay",
        "dynamics_decay_step",
        "second_looks",
        "rehearsals",
        "rehearsal_clips",
        "consolidation",
        "consolidation_rehearsals",
        "consolidation_clips",
        "consolidation_precision",
    ),
}
"""The settings that a peer does not have, by group."""


def replace(config: Any, **changes: Any) -> Any:
    """`dataclasses.replace` that names an unknown setting and the nearest known ones."""
    known = [f.name for f in dataclasses.fields(config)]
    for name in changes:
        if name not in known:
            raise unknown("setting", name, known)
    return dataclasses.replace(config, **changes)
