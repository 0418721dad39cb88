"""The schedules of a run, as pure functions of the step, the epoch or the time: nothing to save or restore."""

from __future__ import annotations

import math

from aime.config import LossConfig, OptimizerConfig

FINAL_SHARE = 0.1
"""Share of its peak at which the cosine schedule ends."""
REST_FROM, REST_TO = 0.5, 0.005
"""Shares of the peak between which that of consolidation falls. Dynamics is no longer after latents that move, so it
can learn with more care; and nothing learns on from where it ends: the noise that the last steps leave is in every
guess."""
LONGEST_WARMUP = 0.1
"""Share of a run, of its steps or of its time, within which the rate has risen at the latest."""


def consolidates(step: int, share: float, max_steps: int, time_over: float = 0.0) -> bool:
    """Whether step number `step` (from 0) is in the last `share` of the run, of its steps or of its time."""
    return share > 0 and max(step / max_steps, time_over) >= 1 - share


def lr_factor(
    step: int, config: OptimizerConfig, max_steps: int, time_over: float = 0.0, consolidation: float = 0.0
) -> float:
    """Share of the peak learning rate that update number `step` (from 0) takes, in (0, 1].

    It rises linearly over `lr_warmup_steps`, though never over more than a tenth of the run, of its steps or of its
    time, so that a short run trains, too, and one on a slow machine. Then it stays ("constant") or falls along half a
    cosine to a tenth at `max_steps` ("cosine"), or at the end of the time that the run has, of which the share
    `time_over` is over.

    Where the last share of the run, `consolidation`, is for what learns with eyes closed, all of that is over when it
    begins, and a second cosine (Loshchilov and Hutter, 2017, arXiv 1608.03983) falls from half of the peak to a
    hundredth of that at the run's end.
    """
    warmup = min(config.lr_warmup_steps, int(LONGEST_WARMUP * max_steps))
    if step < warmup and time_over < LONGEST_WARMUP:
        return max((step + 1) / warmup, time_over / LONGEST_WARMUP)
    if config.lr_schedule == "constant":
        return 1.0
    awake, first, last = 1 - consolidation, 1.0, FINAL_SHARE
    if consolidates(step, consolidation, max_steps, time_over):
        first, last = REST_FROM, REST_TO
        done = (max(step / max_steps, time_over) - awake) / consolidation
    else:
        done = max((step - warmup) / max(1.0, awake * max_steps - warmup), time_over / awake)
    done = min(1.0, done)
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * done))


def beta_at(epoch: float, loss: LossConfig, config: OptimizerConfig) -> float:
    """Weight of the KL terms at a point of training, in [0, beta].

    Args:
        epoch: passes over the data so far; a fraction of an epoch counts.
    """
    if config.warmup_epochs == 0:
        return loss.beta
    return loss.beta * min(1.0, epoch / config.warmup_epochs)
