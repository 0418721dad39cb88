"""Actions of others as a store has them: the one taken after each frame, in [-1, 1].

Sources differ in where an action stands (after its frame, or with the frame it led to), in whether the last frame has
one, and in their units. What is done about it is decided here, for all formats alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from aime.data.formats.episode import Episode, Leads
from aime.errors import ConfigError, DataError

_ROUNDING = 1e-5
"""How far past its bounds, as a part of their range, an action may be and still count as at the bound."""


def align(episode: Episode, leads: Leads, last_invalid: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Actions (T, A) float64, each taken after its frame, in the source's units, and rewards (T,) float64.

    Where the source has none for the last frame (whose action leads nowhere), it is the episode's tail, or zeros.

    Raises:
        DataError: the numbers of actions, rewards and frames do not fit, or they are not numbers.
    """
    action = _actions(episode)
    reward = _rewards(episode, len(action))
    if leads == "before":
        if len(action) != episode.frames or np.any(action[0]):
            raise DataError(
                f"{episode.name}: key action does not begin with zeros, so its rows are not the actions that led to "
                "each frame; give --action-leads after"
            )
        action, reward = action[1:], reward[1:]
    elif len(action) == episode.frames and (last_invalid or not np.isfinite(action[-1]).all()):
        action, reward = action[:-1], reward[:-1]
    if len(action) == episode.frames - 1:
        last, gain = (episode.tail.action, episode.tail.reward) if episode.tail else (np.zeros(action.shape[1]), 0.0)
        action, reward = np.concatenate([action, last[None]]), np.append(reward, gain)
    if not (np.isfinite(action).all() and np.isfinite(reward).all()):
        raise DataError(f"{episode.name}: key {'reward' if np.isfinite(action).all() else 'action'} is not finite")
    return action, reward


def _actions(episode: Episode) -> np.ndarray:
    action, frames = np.asarray(episode.columns["action"]), episode.frames
    if action.ndim == 1 and action.dtype.kind in "iub":
        raise DataError(f"{episode.name}: key action holds one {action.dtype} a frame; AIME takes vectors of numbers")
    if action.dtype.kind not in "fiu" or action.ndim not in (1, 2) or action.shape[-1] == 0:
        raise DataError(f"{episode.name}: key action must be (frames, numbers), found {action.dtype} {action.shape}")
    if len(action) not in (frames, frames - 1):
        raise DataError(
            f"{episode.name}: {len(action)} actions for {frames} frames; there must be one for each, or for each but "
            "the last"
        )
    return action.reshape(len(action), -1).astype(np.float64)


def _rewards(episode: Episode, actions: int) -> np.ndarray:
    if "reward" not in episode.columns:
        return np.zeros(actions)
    reward = np.asarray(episode.columns["reward"])
    if reward.dtype.kind not in "fiub" or reward.size not in (actions, episode.frames):
        raise DataError(f"{episode.name}: key reward must be ({actions},) numbers, found {reward.dtype} {reward.shape}")
    return reward.reshape(-1)[:actions].astype(np.float64)


@dataclass(frozen=True)
class ActionScale:
    """Takes actions from [low, high] to [-1, 1]; without bounds it only checks that they are there already."""

    bounds: tuple[np.ndarray, np.ndarray] | None = None
    source: str = ""
    """Where the bounds come from, for messages."""

    @property
    def is_identity(self) -> bool:
        """Whether it leaves actions as they are."""
        return self.bounds is None or (bool(np.all(self.bounds[0] == -1.0)) and bool(np.all(self.bounds[1] == 1.0)))

    def __str__(self) -> str:
        if self.bounds is None:
            return "none"
        pairs = [f"{low:.4g} to {high:.4g}" for low, high in zip(*self.bounds, strict=True)]
        return pairs[0] if len(set(pairs)) == 1 else ", ".join(pairs)

    def __call__(self, action: np.ndarray, where: str) -> np.ndarray:
        """Actions (T, A) as float32 in [-1, 1].

        Raises:
            DataError: some lie outside the bounds.
        """
        if self.bounds is None:
            if np.abs(action).max() > 1.0:
                raise DataError(
                    f"{where}: actions go from {action.min():.4g} to {action.max():.4g}, outside [-1, 1]; give their "
                    "bounds with --action-low and --action-high, or --measure-actions to take them from the data"
                )
            return action.astype(np.float32)
        low, high = self.bounds
        if len(low) != action.shape[1]:
            raise DataError(f"{where}: actions of {action.shape[1]} numbers, but {len(low)} bounds {self.source}")
        scaled = action if self.is_identity else (action - low) / (high - low) * 2.0 - 1.0
        if np.abs(scaled).max() > 1.0 + _ROUNDING:
            worst = int(np.abs(scaled).max(axis=0).argmax())
            raise DataError(
                f"{where}: number {worst} of the action goes from {action[:, worst].min():.4g} to "
                f"{action[:, worst].max():.4g}, outside its bounds {low[worst]:.4g} to {high[worst]:.4g} {self.source}"
            )
        return scaled.clip(-1.0, 1.0).astype(np.float32)


def stated_scale(low: Sequence[float], high: Sequence[float], size: int) -> ActionScale:
    """The scale of bounds that a person gives: one number for all of an action, or one for each of its numbers.

    Raises:
        ConfigError: they are too few or too many, or the wrong way round.
    """
    for name, values in (("--action-low", low), ("--action-high", high)):
        if len(values) not in (1, size):
            raise ConfigError(f"{name} takes one number, or one for each of the {size} of an action, not {len(values)}")
    bounds = np.broadcast_to(low, size).astype(np.float64), np.broadcast_to(high, size).astype(np.float64)
    if not (np.isfinite(bounds).all() and (bounds[0] < bounds[1]).all()):
        raise ConfigError(f"--action-low must be less than --action-high, got {list(low)} and {list(high)}")
    return ActionScale(bounds, "given by --action-low and --action-high")


def measured_scale(actions: Iterable[np.ndarray]) -> ActionScale:
    """The scale of the lowest and highest of each number in the data. One that never changes becomes 0."""
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    for action in actions:
        if low is None or high is None:
            low, high = action.min(axis=0), action.max(axis=0)
        elif action.shape[1] == len(low):
            low, high = np.minimum(low, action.min(axis=0)), np.maximum(high, action.max(axis=0))
    if low is None or high is None:
        raise DataError("there are no actions to measure")
    still = low == high
    return ActionScale((low - still, high + still), "measured in the data")
