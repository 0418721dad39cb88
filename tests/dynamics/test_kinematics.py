"""Properties of poses and their motion."""

from __future__ import annotations

import torch
from torch import Tensor

from aime.dynamics import Kinematics, Motion, changes_of


def make(pose_dim: int = 3) -> Kinematics:
    torch.manual_seed(0)
    return Kinematics(latent_dim=6, action_dim=1, hidden_dim=32, pose_dim=pose_dim)


def without_force(kinematics: Kinematics) -> Kinematics:
    for network in (kinematics.force, kinematics.correction):
        torch.nn.init.zeros_(network[-1].weight)
    return kinematics


def test_what_no_force_moves_glides_on() -> None:
    kinematics = without_force(make())
    motion = Motion(torch.randn(2, 3), torch.randn(2, 3))
    poses, end = kinematics.onward(motion, torch.randn(2, 5, 1))
    k = torch.arange(6)[None, :, None]
    torch.testing.assert_close(poses, motion.pose[:, None] + k * motion.velocity[:, None])
    torch.testing.assert_close(end.pose, poses[:, -1])
    assert torch.equal(end.velocity, motion.velocity)


def test_onward_goes_on_in_pieces() -> None:
    kinematics, actions = make(), torch.randn(2, 5, 1)
    start = Motion(torch.randn(2, 3), torch.randn(2, 3))
    whole, end = kinematics.onward(start, actions)
    first, middle = kinematics.onward(start, actions[:, :2])
    rest, last = kinematics.onward(middle, actions[:, 2:])
    torch.testing.assert_close(torch.cat([first[:, :-1], rest], dim=1), whole)
    torch.testing.assert_close(last.velocity, end.velocity)


def test_a_core_that_knows_nothing_corrects_nothing() -> None:
    kinematics = without_force(make())
    pose, change = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    seen = kinematics.seen(pose, change, torch.randn(2, 4, 32))
    assert torch.equal(seen.pose, pose)
    assert torch.equal(seen.velocity, change)


def test_motion_is_exact_within_autocast() -> None:
    kinematics, motion = make(), Motion(torch.randn(8, 3), torch.randn(8, 3))
    exact = kinematics.step(motion, torch.ones(8, 1)).pose
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kinematics.step(motion, torch.ones(8, 1)).pose, exact)
        assert kinematics.to_latents(exact).dtype == torch.float32


def test_changes_are_zero_where_nothing_was_before() -> None:
    values, first = torch.randn(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool)
    first[1, 2] = True
    changes = changes_of(values, None, first)
    assert torch.equal(changes[:, 0], torch.zeros(2, 3))
    assert torch.equal(changes[1, 2], torch.zeros(3))
    torch.testing.assert_close(changes[0, 1:], values[0, 1:] - values[0, :-1])
    torch.testing.assert_close(changes_of(values, values[:, 1], None)[:, 0], values[:, 0] - values[:, 1])


def turning(clips: int, frames: int) -> tuple[Tensor, Tensor]:
    """A wheel pushed by its actions, told by latents that wind as it turns: (clips, frames, 6), (clips, frames, 1)."""
    angle, speed, angles = 6.3 * torch.rand(clips), 0.3 * torch.randn(clips), []
    actions = 2 * torch.rand(clips, frames, 1) - 1
    for action in actions[..., 0].unbind(dim=1):
        angles.append(angle)
        speed = speed + 0.05 * action
        angle = angle + speed
    turned = torch.stack(angles, dim=1)[..., None] * torch.tensor([1.0, 2.0, 3.0])
    return 1.4 * torch.cat([turned.sin(), turned.cos()], dim=-1), actions


def test_it_learns_where_a_winding_latent_goes() -> None:
    kinematics, steps = make(pose_dim=4), 8
    optimizer = torch.optim.AdamW(kinematics.parameters(), lr=0.005)

    def errors(clips: int) -> Tensor:
        latents, actions = turning(clips, steps + 2)
        pose = kinematics.to_pose(latents)
        seen = kinematics.seen(pose[:, 1], pose[:, 1] - pose[:, 0], torch.zeros(clips, 32))
        poses, _ = kinematics.onward(seen, actions[:, 1:-1])
        return (kinematics.to_latents(poses) - latents[:, 1:]).square().mean(dim=(0, 2))

    for _ in range(500):
        optimizer.zero_grad()
        errors(64).mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = errors(512)
    # The latents' variance is 1. Were they to glide on in their own numbers, errors would be 0.5 and 29.
    assert float(found[1]) < 0.05
    assert float(found[-1]) < 0.4
