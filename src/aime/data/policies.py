"""What moves the body while video is collected.

Uniform random actions are dull video: their mean over a tenth of a second is nothing, so a cart stands still and a
humanoid lies down. These policies are smooth in time instead.

| name | what it is |
|---|---|
| `ou` | coloured noise: an Ornstein–Uhlenbeck process for each actuator |
| `cpg` | central pattern generator: sinusoids, left against right and front against back in antiphase |
| `spline` | smooth random curves through random points |
| `mixture` | one of those three, drawn for each episode (the default) |
| `uniform` | independent uniform actions |
| `assisted` | for humanoids: `cpg` while a spring holds the torso up: a harness, its forces follow from no action |

Actions are in [-1, 1]; the collector scales them to the environment's own bounds. Gains are drawn from 0.6–1 for each
episode.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from aime.errors import ConfigError, unknown

PolicyName = Literal["mixture", "ou", "cpg", "spline", "uniform", "assisted"]

MIXTURE = ("ou", "cpg", "spline")
"""What the mixture draws from, for each episode."""

_SLOWNESS: Mapping[str, float] = {"point_mass": 6.0}

Act = Callable[[Any, np.random.Generator], np.ndarray]
"""``policy(time_step, rng)``: from a dm_env TimeStep to an action (A,) in [-1, 1]."""


@dataclass(frozen=True)
class PolicyContext:
    """What a policy may know of the episode that it is made for."""

    task: str
    """Such as humanoid-walk."""
    actuators: tuple[str, ...]
    """Name of each number of an action."""
    step_seconds: float
    """Seconds that one action lasts."""
    physics: Any
    """The dm_control `Physics`, to look at."""

    @property
    def action_dim(self) -> int:
        """Numbers in one action."""
        return len(self.actuators)

    @property
    def domain(self) -> str:
        """The body: humanoid of humanoid-walk."""
        return self.task.split("-")[0]

    @property
    def paced_seconds(self) -> float:
        """Seconds that an action lasts by the body's own clock: a heavy body needs a push that lasts."""
        return self.step_seconds / _SLOWNESS.get(self.domain, 1.0)


@dataclass(frozen=True)
class EpisodePolicy:
    """A policy made for one episode."""

    name: str
    act: Act
    details: Mapping[str, Any] = field(default_factory=dict)
    """What was drawn for it; goes into the store."""
    push: Callable[[Any], None] | None = None
    """Applies outside forces to the physics, before each control step."""


def make_policy(name: str, context: PolicyContext, rng: np.random.Generator) -> EpisodePolicy:
    """A policy for one episode, its gains drawn from `rng`.

    Raises:
        ConfigError: no such policy, or `assisted` for a body that is not a humanoid.
    """
    if name not in get_args(PolicyName):
        raise unknown("policy", name, get_args(PolicyName))
    if name == "mixture":
        name = str(rng.choice(MIXTURE))
    makers = {"ou": _noise, "cpg": _oscillators, "spline": _splines, "uniform": _uniform, "assisted": _assisted}
    policy = makers[name](context, rng)
    return _centred(policy, context) if context.domain == "cartpole" and name != "uniform" else policy


def _gain(rng: np.random.Generator) -> float:
    return round(float(rng.uniform(0.6, 1.0)), 3)


def _centred(policy: EpisodePolicy, context: PolicyContext) -> EpisodePolicy:
    """Keeps a cart in the picture: left alone, any smooth force drives it to an end of its rail, and it stays there."""
    centring = 0.7

    def act(time_step: Any, rng: np.random.Generator) -> np.ndarray:
        position = float(context.physics.data.qpos[0])
        return np.clip(policy.act(time_step, rng) - centring * position, -1.0, 1.0)

    return replace(policy, act=act, details={**policy.details, "centring": centring})


def _noise(context: PolicyContext, rng: np.random.Generator) -> EpisodePolicy:
    """Ornstein–Uhlenbeck noise with correlation time tau and the gain as its standard deviation."""
    gain, tau = _gain(rng), 0.3
    keep = float(np.exp(-context.paced_seconds / tau))
    spread = gain * float(np.sqrt(1.0 - keep**2))
    noise = gain * rng.standard_normal(context.action_dim)

    def act(time_step: Any, rng: np.random.Generator) -> np.ndarray:
        nonlocal noise
        noise = keep * noise + spread * rng.standard_normal(context.action_dim)
        return np.clip(noise, -1.0, 1.0)

    return EpisodePolicy("ou", act, {"gain": gain, "tau": tau})


def _oscillators(context: PolicyContext, rng: np.random.Generator) -> EpisodePolicy:
    """A sinusoid for each actuator at one frequency of 0.5–2 Hz. Actuators that differ only in their side share
    amplitude and phase, but for half a period: left against right, front against back (four legs go diagonally)."""
    gain = _gain(rng)
    frequency = round(float(rng.uniform(0.5, 2.0)), 3)
    families: dict[str, tuple[float, float, float]] = {}
    amplitude, phase, offset = (np.zeros(context.action_dim) for _ in range(3))
    for number, name in enumerate(context.actuators):
        family, opposite = split_side(name, context.actuators)
        if family not in families:
            families[family] = (rng.uniform(0.6, 1.0), rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3))
        amplitude[number], phase[number], offset[number] = families[family]
        phase[number] += np.pi * opposite
    frame = 0

    def act(time_step: Any, rng: np.random.Generator) -> np.ndarray:
        nonlocal frame
        angle = 2 * np.pi * frequency * frame * context.paced_seconds + phase
        frame += 1
        return np.clip(gain * (amplitude * np.sin(angle) + offset), -1.0, 1.0)

    return EpisodePolicy("cpg", act, {"gain": gain, "frequency": frequency})


def split_side(actuator: str, actuators: Collection[str]) -> tuple[str, bool]:
    """An actuator's name without its side, and whether it is on the side that moves in antiphase.

    >>> split_side("left_knee", []), split_side("right_knee", [])
    (('knee', False), ('knee', True))
    >>> split_side("bthigh", ["bthigh", "fthigh"])
    ('thigh', True)
    """
    for one, other in ("lr", "fb"):
        if (actuator[0] == one and other + actuator[1:] in actuators) or (
            actuator[0] == other and one + actuator[1:] in actuators
        ):
            return actuator[1:], actuator[0] == other
    sides = {"left": 0, "l": 0, "front": 0, "right": 1, "r": 1, "back": 1}
    tokens = actuator.split("_")
    opposite = sum(sides.get(token.lower(), 0) for token in tokens) % 2 == 1
    return "_".join(token for token in tokens if token.lower() not in sides), opposite


def _splines(context: PolicyContext, rng: np.random.Generator) -> EpisodePolicy:
    """Cubic curves (Catmull–Rom) through uniform random points, one every 0.2–0.6 s."""
    gain = _gain(rng)
    spacing = round(float(rng.uniform(0.2, 0.6)), 3)
    knots = rng.uniform(-1.0, 1.0, (4, context.action_dim))
    place = 0.0

    def act(time_step: Any, rng: np.random.Generator) -> np.ndarray:
        nonlocal knots, place
        while place >= 1.0:
            knots = np.concatenate([knots[1:], rng.uniform(-1.0, 1.0, (1, context.action_dim))])
            place -= 1.0
        before, here, there, after = knots
        u = place
        curve = 0.5 * (
            2 * here
            + (there - before) * u
            + (2 * before - 5 * here + 4 * there - after) * u**2
            + (3 * here - before - 3 * there + after) * u**3
        )
        place += context.paced_seconds / spacing
        # Points drawn uniformly lie inside by more than a half on average; stretched, the curve uses the whole range.
        return np.clip(gain * 1.5 * curve, -1.0, 1.0)

    return EpisodePolicy("spline", act, {"gain": gain, "spacing": spacing})


def _uniform(context: PolicyContext, rng: np.random.Generator) -> EpisodePolicy:
    def act(time_step: Any, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1.0, 1.0, context.action_dim)

    return EpisodePolicy("uniform", act)


def _assisted(context: PolicyContext, rng: np.random.Generator) -> EpisodePolicy:
    """`cpg` while a damped spring holds the torso at standing height and another turns it upright."""
    if context.domain not in _STANDING_HEIGHT:
        raise ConfigError(
            f"the policy assisted holds up the torso of a humanoid; {context.task} has none. Choose "
            "another policy, or one of the tasks of humanoid or humanoid_CMU"
        )
    steps = _oscillators(context, rng)
    body, height, upright_axis = _STANDING_HEIGHT[context.domain]
    model = context.physics.model
    torso = model.name2id(body, "body")
    mass = float(np.sum(model.body_mass))
    # The damping belongs to the root joint, where MuJoCo integrates it implicitly: as a force that is renewed at each
    # control step it would be unstable. 16/s is critical for the spring below.
    model.dof_damping[2] = 16.0 * mass
    model.dof_damping[3:6] = 0.5 * mass

    def push(physics: Any) -> None:
        rise = height - physics.data.xpos[torso, 2]
        up = physics.data.xmat[torso].reshape(3, 3)[:, upright_axis]
        weight = 9.81 * mass
        physics.data.xfrc_applied[torso, 2] = np.clip(0.8 * weight + 64.0 * mass * rise, 0.0, 3.0 * weight)
        physics.data.xfrc_applied[torso, 3:] = 4.0 * mass * np.cross(up, [0.0, 0.0, 1.0])

    details = {**steps.details, "harness": f"damped spring on {body} to a height of {height} m and to upright"}
    return EpisodePolicy("assisted", steps.act, details, push)


_STANDING_HEIGHT: Mapping[str, tuple[str, float, int]] = {
    "humanoid": ("torso", 1.3, 2),
    "humanoid_CMU": ("thorax", 1.2, 1),
}
"""Of each humanoid: the body that the harness holds, its height in metres when standing, its axis that points up."""
