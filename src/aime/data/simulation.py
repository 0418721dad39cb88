"""Episodes of the DeepMind Control Suite: load a task by its name, act in it, and keep what was seen.

Importing this module needs no graphics library; `Simulation` imports dm_control, and the environment variables of the
renderer must be set before (see `aime.data.frames.renderer_environment`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from aime.data.frames import open_renderer, renderer_environment
from aime.data.policies import EpisodePolicy, PolicyContext
from aime.errors import unknown

MakePolicy = Callable[[PolicyContext, np.random.Generator], EpisodePolicy]

_CAMERAS = {"quadruped": 2, "dog-fetch": 2}
"""Where the first camera does not follow the body."""
_PACKAGES = ("aime", "dm_control", "mujoco", "mujoco-warp", "numpy", "h5py")


def suite_tasks() -> list[str]:
    """Names of all tasks of the suite, such as walker-walk or ball_in_cup-catch. Imports dm_control."""
    from dm_control import suite

    return [f"{domain}-{task}" for domain, task in suite.ALL_TASKS]


def require_tasks(*tasks: str) -> None:
    """Refuse a task that the suite does not have, with the nearest that it has, before anything is begun for it.

    The suite is asked in a process of its own, because importing dm_control settles what this process could draw with.

    Raises:
        ConfigError: no such task.
    """
    ask = "from aime.data.simulation import suite_tasks; print(*suite_tasks(), sep='\\n')"
    environment = {**os.environ, **renderer_environment("warp")}
    answer = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    known = answer.stdout.split()
    for task in tasks:
        if task not in known:
            raise unknown("task", task, known)


def package_versions() -> dict[str, str]:
    """Versions of what makes the frames."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "none"
    return versions


class Simulation:
    """A task with a renderer. Close it before the process ends.

    Args:
        task: domain-task, such as humanoid-walk.
        renderer: egl, osmesa or warp.
        image_size: height and width of the frames in pixels.
        action_repeat: control steps for which each action is held.
        segmentation: keep the number of the body at each pixel too.

    Raises:
        ConfigError: no such task.
        RenderError: the renderer cannot draw here.
    """

    def __init__(self, task: str, renderer: str, image_size: int, action_repeat: int, segmentation: bool) -> None:
        from dm_control import suite

        if task not in suite_tasks():
            raise unknown("task", task, suite_tasks())
        self.task, self.action_repeat, self.segmentation = task, action_repeat, segmentation
        domain, name = task.split("-", 1)
        # One generator, seeded anew for each episode, is all the randomness that the task has.
        self._random = np.random.RandomState(0)
        # Some tasks have no time limit to lift; none ends for reaching it.
        self._env = suite.load(domain, name, task_kwargs={"random": self._random, "time_limit": float("inf")})
        physics = self._env.physics
        camera = _CAMERAS.get(task, _CAMERAS.get(domain, 0))
        self._renderer = open_renderer(renderer, physics, image_size, camera)
        self.time_step = float(self._env.control_timestep()) * action_repeat
        spec = self._env.action_spec()
        self._low, self._high = _finite_bounds(np.asarray(spec.minimum), np.asarray(spec.maximum), spec.shape[0])
        self._actuators = tuple(physics.model.id2name(number, "actuator") for number in range(spec.shape[0]))

    @property
    def action_dim(self) -> int:
        """Numbers in one action."""
        return len(self._actuators)

    def describe(self) -> dict[str, Any]:
        """What the index should say about the numbers."""
        import mujoco

        physics = self._env.physics
        # A joint without limits turns for ever: its angle says how often, which no frame shows.
        hinges = (physics.model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & (physics.model.jnt_limited == 0)
        return {
            "actuators": list(self._actuators),
            "action_low": self._low.tolist(),
            "action_high": self._high.tolist(),
            "state": {"qpos": int(physics.model.nq), "qvel": int(physics.model.nv), "act": int(physics.model.na)},
            "turning": physics.model.jnt_qposadr[hinges].tolist(),
        }

    def episode(
        self, frames: int, make: MakePolicy, seed: int, id: int, tick: Callable[[], None] = lambda: None
    ) -> tuple[dict[str, np.ndarray], EpisodePolicy]:
        """One episode from a random pose: its columns, and the policy that acted.

        The result depends on (seed, id) alone. An episode is shorter than `frames` only where the task ends it, or
        where the physics diverges.

        Args:
            make: makes the policy for the episode.
            tick: called after each frame; what it raises ends the episode.
        """
        pose, start, noise = np.random.SeedSequence([seed, id]).spawn(3)
        self._random.seed(int(pose.generate_state(1)[0]))
        time_step = self._env.reset()
        rng = np.random.default_rng(start)
        if _randomise_pose(self.task, self._env.physics, rng):
            time_step = time_step._replace(observation=self._env.task.get_observation(self._env.physics))
        self._renderer.reset()
        context = PolicyContext(self.task, self._actuators, self.time_step, self._env.physics)
        policy = make(context, rng)
        rng = np.random.default_rng(noise)
        rows: dict[str, list[Any]] = {"pixels": [], "action": [], "reward": [], "state": []}
        if self.segmentation:
            rows["segmentation"] = []
        while len(rows["pixels"]) < frames:
            action = policy.act(time_step, rng).astype(np.float32)
            state = self._env.physics.get_state().astype(np.float32)
            picture = self._renderer.frame()
            mask = self._renderer.segmentation() if self.segmentation else None
            time_step, reward = self._advance(action, policy)
            rows["pixels"].append(picture)
            rows["action"].append(action)
            rows["state"].append(state)
            rows["reward"].append(reward)
            if mask is not None:
                rows["segmentation"].append(mask)
            tick()
            if time_step is None or time_step.last():
                break
        columns = {name: np.stack(values) for name, values in rows.items() if name != "reward"}
        columns["reward"] = np.array(rows["reward"], np.float32)
        columns["is_first"] = np.arange(len(columns["reward"])) == 0
        return columns, policy

    def close(self) -> None:
        """Frees the graphics context."""
        self._renderer.close()

    def _advance(self, action: np.ndarray, policy: EpisodePolicy) -> tuple[Any, float]:
        """The time step after an action is held for a frame (None if the physics diverged), and the reward in all."""
        from dm_control.rl.control import PhysicsError

        scaled = self._low + (action.astype(np.float64) + 1.0) / 2.0 * (self._high - self._low)
        reward = 0.0
        try:
            for _ in range(self.action_repeat):
                if policy.push is not None:
                    policy.push(self._env.physics)
                time_step = self._env.step(scaled)
                reward += float(time_step.reward or 0.0)
                if time_step.last():
                    break
        except PhysicsError:
            return None, reward
        return time_step, reward


def _finite_bounds(low: np.ndarray, high: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The environment's bounds; [-1, 1] for an actuator that has none (MuJoCo writes 1e10 for infinity)."""
    low, high = np.broadcast_to(low, size).astype(float), np.broadcast_to(high, size).astype(float)
    bounded = (np.abs(low) < 1e9) & (np.abs(high) < 1e9)
    return np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)


def _randomise_pose(task: str, physics: Any, rng: np.random.Generator) -> bool:
    """Starts from any pose where the task itself would always start from nearly the same one. True if it did."""
    domain = task.split("-")[0]
    if domain not in ("cartpole", "cheetah"):
        return False
    with physics.reset_context():
        if domain == "cartpole":
            poles = physics.model.nq - 1
            physics.data.qpos[0] = rng.uniform(-1.0, 1.0)
            physics.data.qpos[1:] = rng.uniform(-np.pi, np.pi, poles)
            physics.data.qvel[:] = rng.normal(0.0, 1.0, poles + 1)
        else:
            low, high = physics.model.jnt_range[3:].T
            physics.data.qpos[1] = rng.uniform(0.2, 0.5)  # metres above standing, so that no leg is in the ground
            physics.data.qpos[2] = rng.normal(0.0, 0.5)
            physics.data.qpos[3:] = rng.uniform(low, high)
    return True
