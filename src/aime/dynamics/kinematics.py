"""Where things are and how they move: a pose and a velocity, read from latents and carried on by forces.

A latent winds as a body turns, so what it will be is a crooked function of what it is, and a recurrent core that has to
foretell latents spends itself on the crookedness. Here they are taken apart. A pose p is read from the latent, and the
latent from the pose; between them stands a motion of second order, as a body's is:

    v[t+1] = v[t] + force(p[t], v[t], a[t]),    p[t+1] = p[t] + v[t+1]

The recurrent core, which has seen more than the last two frames, corrects pose and velocity where a step begins. With
closed eyes the motion goes on by itself and the actions. All parts learn from latents alone: the reading, by giving
latents back; the motion, by what latents come true.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

SPEED = 5.0
"""A velocity per frame is that much smaller than a pose; networks are given, and give, both in one unit."""


@dataclass(frozen=True)
class Motion:
    """A pose and its velocity, per frame."""

    pose: Float[Tensor, "*batch pose"]
    velocity: Float[Tensor, "*batch pose"]

    def __getitem__(self, index: object) -> Motion:
        """The motion of some batch elements or frames."""
        return Motion(self.pose[index], self.velocity[index])  # type: ignore[index]

    def detach(self) -> Motion:
        """The same without its graph."""
        return Motion(self.pose.detach(), self.velocity.detach())


class Kinematics(nn.Module):
    """Reads poses from latents, moves them, and tells the latents that follow.

    Latents are those of the prior's units (zero mean, unit variance).

    Args:
        latent_dim: size of a latent. action_dim: numbers in an action. pose_dim: size of a pose.
        hidden_dim: size of h, and width of the networks.
    """

    def __init__(self, *, latent_dim: int, action_dim: int, hidden_dim: int, pose_dim: int) -> None:
        super().__init__()
        self.pose_dim = pose_dim
        self.to_pose = _network(latent_dim, hidden_dim, pose_dim)
        self.to_latents = _network(pose_dim, hidden_dim, latent_dim)
        self.force = _network(2 * pose_dim + action_dim, hidden_dim, pose_dim)
        self.correction = _Exact(nn.Linear(hidden_dim, 2 * pose_dim))
        # At first everything glides on as it was, which most things do from one frame to the next.
        for network in (self.force, self.correction):
            nn.init.normal_(network[-1].weight, std=0.1 / hidden_dim**0.5)  # type: ignore[arg-type]
            nn.init.zeros_(network[-1].bias)  # type: ignore[arg-type]

    def seen(self, pose: Float[Tensor, "*batch pose"], change: Float[Tensor, "*batch pose"], hidden: Tensor) -> Motion:
        """The motion at a frame: its pose and how that has changed, corrected by what the core knows."""
        to_pose, to_velocity = self.correction(hidden).chunk(2, dim=-1)
        return Motion(pose + to_pose, change + to_velocity / SPEED)

    def step(self, motion: Motion, action: Float[Tensor, "*batch action"]) -> Motion:
        """The motion a frame later, after an action."""
        state = torch.cat([motion.pose, SPEED * motion.velocity, action.to(motion.pose.dtype)], dim=-1)
        velocity = motion.velocity + self.force(state) / SPEED
        return Motion(motion.pose + velocity, velocity)

    def onward(
        self, motion: Motion, actions: Float[Tensor, "*batch k action"]
    ) -> tuple[Float[Tensor, "*batch k1 pose"], Motion]:
        """With closed eyes: the pose that was expected already and those after each of k actions (k + 1 in all), and
        the motion at the end."""
        poses = [motion.pose]
        for action in actions.unbind(dim=-2):
            motion = self.step(motion, action)
            poses.append(motion.pose)
        return torch.stack(poses, dim=-2), motion


class _Exact(nn.Sequential):
    """In float32, also within autocast: an acceleration is the small difference of nearly equal poses."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def _network(inputs: int, width: int, outputs: int) -> _Exact:
    return _Exact(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs))
