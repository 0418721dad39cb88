"""A world so small that a perfect model of it can be written down: a square that moves as the actions say.

Stand-ins for a world model over it have the same verbs as `aime.WorldModel`: observe and imagine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SIZE = 32
SQUARE = 6
SPEED = 3
MOST = SIZE - SQUARE


def background() -> Tensor:
    """(3, SIZE, SIZE): something smooth that never moves, in steps of 1/255, so that 8 bits hold it exactly."""
    ramp = torch.linspace(25, 100, SIZE).round()
    channels = [ramp[None].expand(SIZE, SIZE), ramp[:, None].expand(SIZE, SIZE), torch.full((SIZE, SIZE), 51.0)]
    return torch.stack(channels) / 255


def render(positions: Tensor) -> Tensor:
    """Frames (..., 3, SIZE, SIZE) in [0, 1] of a white square whose corner is at (row, column)."""
    line = torch.arange(SIZE)
    inside = (line >= positions[..., None]) & (line < positions[..., None] + SQUARE)
    square = inside[..., 0, :, None] & inside[..., 1, None, :]
    return torch.where(square.unsqueeze(-3), torch.ones(()), background())


def move(position: Tensor, action: Tensor) -> Tensor:
    """Where the square is after an action (..., 2) in [-1, 1]."""
    return (position + (SPEED * action).round().long()).clamp(0, MOST)


def episode(length: int, seed: int, *, still: bool = False) -> dict[str, Tensor]:
    """One episode: uint8 observations (T, 3, SIZE, SIZE), actions (T, 2), is_first (T,), states (T, 2)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(length, 2, generator=generator)
    actions = torch.empty(length, 2)
    drift = torch.zeros(2)
    for t in range(length):
        drift = 0.8 * drift + 0.5 * noise[t]
        actions[t] = drift.clamp(-1, 1)
    if still:
        actions = torch.zeros_like(actions)
    position = torch.randint(MOST + 1, (2,), generator=generator)
    positions = []
    for t in range(length):
        positions.append(position)
        position = move(position, actions[t])
    states = torch.stack(positions)
    is_first = torch.zeros(length, dtype=torch.bool)
    is_first[0] = True
    frames = (render(states) * 255).round().to(torch.uint8)
    return {"observations": frames, "actions": actions, "is_first": is_first, "states": states.float()}


def find(frame: Tensor) -> Tensor:
    """The square's corner (B, 2) in frames (B, 3, SIZE, SIZE)."""
    frame = frame.float() / 255 if frame.dtype == torch.uint8 else frame
    white = (frame.amin(dim=1) > 0.9).float()
    return torch.stack([white.amax(dim=2).argmax(dim=1), white.amax(dim=1).argmax(dim=1)], dim=-1)


@dataclass(frozen=True)
class ToyBelief:
    """Where the square is, where it will be next, and the last frame."""

    position: Tensor
    frame: Tensor
    hidden: Tensor
    latents: Tensor


@dataclass(frozen=True)
class ToyDream:
    """The fields of a dream that the protocol reads."""

    observations: Tensor
    hidden: Tensor
    latents: Tensor


@dataclass(frozen=True)
class ToySequence:
    """The fields of a sequence's output that the protocol reads."""

    reconstructions: Tensor
    hidden: Tensor
    latents: Tensor


class PerfectModel(torch.nn.Module):
    """Knows the world: its dreams are what happens."""

    def observe(self, observations: Tensor, actions: Tensor, is_first: Tensor | None = None, belief: Any = None) -> Any:
        position = find(observations[:, -1])
        return self._belief(position, observations[:, -1], actions[:, -1])

    def imagine(
        self, belief: ToyBelief, actions: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> ToyDream:
        position, beliefs = belief.position, []
        for k in range(actions.shape[1]):
            beliefs.append(self._belief(position, belief.frame, self._act(actions[:, k])))
            position = beliefs[-1].position
        latents = torch.stack([b.latents for b in beliefs], dim=1)
        frames = self._draw(render(latents.round().long()), belief, sample, generator)
        return ToyDream(frames, torch.stack([b.hidden for b in beliefs], dim=1), latents)

    def forward_sequence(self, observations: Tensor, actions: Tensor, is_first: Tensor | None = None) -> ToySequence:
        beliefs = [
            self._belief(find(observations[:, t]), observations[:, t], actions[:, t])
            for t in range(observations.shape[1])
        ]
        frames = observations.float() / 255
        return ToySequence(
            frames, torch.stack([b.hidden for b in beliefs], dim=1), torch.stack([b.latents for b in beliefs], dim=1)
        )

    def _belief(self, position: Tensor, frame: Tensor, action: Tensor) -> ToyBelief:
        after = move(position, action)
        return ToyBelief(after, frame, hidden=after.float(), latents=position.float())

    def _act(self, action: Tensor) -> Tensor:
        return action

    def _draw(self, frames: Tensor, belief: ToyBelief, sample: bool, generator: torch.Generator | None) -> Tensor:
        return frames


class ActionIgnoringModel(PerfectModel):
    """Dreams as if nobody acted."""

    def _belief(self, position: Tensor, frame: Tensor, action: Tensor) -> ToyBelief:
        return super()._belief(position, frame, torch.zeros_like(action))

    def _act(self, action: Tensor) -> Tensor:
        return torch.zeros_like(action)


class CopyModel(PerfectModel):
    """Dreams the last frame it saw, again and again."""

    def _draw(self, frames: Tensor, belief: ToyBelief, sample: bool, generator: torch.Generator | None) -> Tensor:
        return (belief.frame.float() / 255)[:, None].expand(-1, frames.shape[1], -1, -1, -1)


class NoisyModel(PerfectModel):
    """Its samples are the truth and noise, of which it has as much as `sigma`."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def _draw(self, frames: Tensor, belief: ToyBelief, sample: bool, generator: torch.Generator | None) -> Tensor:
        if not sample:
            return frames
        noise = torch.randn(frames.shape, generator=generator)
        return (frames + self.sigma * noise).clamp(0, 1)
