"""Is every pillar alive? Readings, the range in which each is healthy, and what to do when one is not.

The readings come from a model and some clips (`read_health`), or from a line of a run's ``metrics.jsonl``: the names
are the same, and `check_health` judges those that are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from rich import box
from rich.table import Table
from torch import Tensor

from aime.inputs import to_unit_frames
from aime.observation import MOTION_THRESHOLD

ACTIVE_VARIANCE = 0.01
"""A latent dimension is active if its posterior mean varies by more than this (Burda et al. 2016, Importance weighted
autoencoders)."""

TABLE_STYLE: dict[str, Any] = {
    "title_justify": "left",
    "title_style": "bold",
    "box": box.SIMPLE_HEAD,
    "pad_edge": False,
    "padding": (0, 1, 0, 0),
}
"""Tables that fit into 80 columns."""


@dataclass(frozen=True)
class Rule:
    """When a reading is healthy."""

    reading: str
    name: str
    low: float = -math.inf
    high: float = math.inf
    remedy: str = ""

    @property
    def healthy(self) -> str:
        """The healthy range in words."""
        if math.isinf(self.low):
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


RULES = (
    Rule(
        "live_code_share",
        "codes in use, share of the codebook",
        low=0.5,
        remedy="lower num_codebook_perceiver; if it falls during training, lower learning_rate",
    ),
    Rule(
        "perplexity_share",
        "codebook perplexity, share of the codebook",
        low=0.05,
        remedy="the tokenizer uses few codes evenly: lower num_codebook_perceiver, or train longer",
    ),
    Rule(
        "context_variation",
        "what of the context varies with what is seen",
        low=0.01,
        remedy="the Perceiver tells dynamics nothing of the moment: raise lambda_foresight, or do without "
        "perceiver_context",
    ),
    Rule(
        "kl_latent",
        "KL of the latent, nats per frame",
        low=1.0,
        remedy="the posterior has collapsed onto the prior: warm beta up longer (warmup_epochs), or set free_nats to 1",
    ),
    Rule(
        "active_latents",
        "active latent dimensions",
        low=6.0,
        remedy="too little is carried by z: warm beta up longer (warmup_epochs), or lower beta",
    ),
    Rule(
        "effective_components",
        "effective mixture components",
        low=1.5,
        remedy="right for data of one kind; otherwise raise entropy_weight, or collect with several policies",
    ),
    Rule(
        "policy_information",
        "what components tell of the policy, nats at least",
        low=0.0,
        remedy="the mixture does not follow the situation: train longer, lower entropy_weight, or bring more episodes",
    ),
    Rule(
        "slot_overlap",
        "overlap between slots",
        high=0.2,
        remedy="slots collapse onto each other: set enforce_diversity, raise lambda_gram, or use fewer num_slots",
    ),
    Rule(
        "attention_density",
        "attention on the moving body, times that elsewhere",
        low=4.0,
        remedy="attention misses what moves: raise lambda_att_dyn, or lower attention_floor",
    ),
    Rule(
        "disc_accuracy",
        "discriminator accuracy",
        low=0.55,
        high=0.9,
        remedy="above 90% it wins: lower critic_limit or discriminator_learning_rate; below 55% it learns nothing: "
        "raise n_critic",
    ),
    Rule(
        "lowest_cosine",
        "lowest cosine between two objectives' gradients",
        low=-0.9,
        remedy="two objectives pull against each other: shift objective_weights towards the one that matters",
    ),
)


@dataclass(frozen=True)
class Check:
    """One reading and its judgement."""

    name: str
    value: float
    healthy: str
    alarm: bool
    remedy: str


def check_health(readings: Mapping[str, float]) -> list[Check]:
    """Judge the readings that are there, in the order of the pillars; one that is not a number raises its alarm."""
    values = {**derived(readings), **readings}
    checks = []
    for rule in RULES:
        if rule.reading in values:
            value = float(values[rule.reading])
            checks.append(Check(rule.name, value, rule.healthy, not rule.low <= value <= rule.high, rule.remedy))
    return checks


def derived(readings: Mapping[str, float]) -> dict[str, float]:
    """Readings that follow from others, such as one accuracy from that on real and that on made clips."""
    more: dict[str, float] = {}
    if "codebook_size" in readings:
        for source, target in (("live_codes", "live_code_share"), ("codebook_perplexity", "perplexity_share")):
            if source in readings:
                more[target] = readings[source] / readings["codebook_size"]
    if "disc_real_accuracy" in readings and "disc_fake_accuracy" in readings:
        more["disc_accuracy"] = (readings["disc_real_accuracy"] + readings["disc_fake_accuracy"]) / 2
    cosines = [value for name, value in readings.items() if name.startswith("gradient/cosine/")]
    if cosines:
        more["lowest_cosine"] = min(cosines)
    return more


def health_table(checks: Sequence[Check]) -> Table:
    """The checks as a table for the terminal; alarms in red, each with its remedy."""
    table = Table(title="\nHealth", **TABLE_STYLE)

    table.add_column("reading")
    table.add_column("value", justify="right")
    table.add_column("healthy", justify="right")
    table.add_column("remedy")
    for check in checks:
        style = "red" if check.alarm else ""
        table.add_row(check.name, f"{check.value:.3g}", check.healthy, check.remedy if check.alarm else "", style=style)
    return table


@torch.no_grad()
def read_health(
    model: Any,
    observations: Tensor,
    actions: Tensor,
    is_first: Tensor | None = None,
    segmentation: UInt8[Tensor, "batch time height width"] | None = None,
) -> dict[str, float]:
    """The readings of a model on some clips.

    Args:
        model: an `aime.WorldModel`; it should be in eval mode.
        observations, actions, is_first: the clips.
        segmentation: the number of the body at each pixel, 0 for what never moves. Without it, the pixels that change
            from one frame to the next stand for the body.
    """
    output = model.forward_sequence(observations, actions, is_first)
    # The adversary judges clips of the length that it was trained on.
    window = slice(0, model.config.sequence_length)
    first = None if is_first is None else is_first[:, window]
    parts, _ = model.compute_total_loss(observations[:, window], actions[:, window], first)
    wanted = (
        "live_codes",
        "codebook_perplexity",
        "context_variation",
        "kl_latent",
        "slot_overlap",
        "disc_real_accuracy",
        "disc_fake_accuracy",
    )
    readings = {name: float(parts[name]) for name in wanted if name in parts}
    readings["codebook_size"] = float(model.config.num_codebook_perceiver)
    readings["active_latents"] = float(active_latents(output.latent_mean))
    readings["effective_components"] = float(output.prior.effective_components().mean())
    body = segmentation > 0 if segmentation is not None else changing_pixels(to_unit_frames(observations))
    density = attention_density(output.attention_map, body)
    if not math.isnan(density):
        readings["attention_density"] = density
    return readings


def active_latents(latent_mean: Float[Tensor, "batch time latent"]) -> int:
    """How many latent dimensions vary with what is seen (see `ACTIVE_VARIANCE`)."""
    return int((latent_mean.flatten(0, 1).var(dim=0) > ACTIVE_VARIANCE).sum())


def changing_pixels(
    frames: Float[Tensor, "batch time 3 height width"], threshold: float = MOTION_THRESHOLD
) -> Bool[Tensor, "batch time height width"]:
    """Pixels that differ from the frame before by more than `threshold` in some channel; none in the first frame."""
    change = (frames[:, 1:] - frames[:, :-1]).abs().amax(dim=2) > threshold
    return F.pad(change, (0, 0, 0, 0, 1, 0))


def attention_density(
    attention: Float[Tensor, "batch time grid grid"], body: Bool[Tensor, "batch time height width"]
) -> float:
    """How many times denser attention lies on the body than elsewhere, over the frames that show both; NaN without any.

    (mass on the body / its area) / (mass elsewhere / the area elsewhere), from the mean mass and the mean area.
    """
    grid = attention.shape[-1]
    share = F.adaptive_avg_pool2d(body.float().flatten(0, 1), grid)
    attention = attention.float().flatten(0, 1)
    area = share.mean(dim=(-2, -1))
    shows = (area > 0) & (area < 1)
    if not shows.any():
        return math.nan
    on = (attention * share).sum(dim=(-2, -1))[shows].mean()
    off = (attention * (1 - share)).sum(dim=(-2, -1))[shows].mean()
    area = area[shows].mean()
    return float((on / area) / (off / (1 - area)).clamp_min(1e-9))
