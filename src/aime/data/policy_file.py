"""A user's own policy: a Python file, named by ``--policy-file``.

It defines either a function

    def policy(time_step, rng):             # time_step: dm_env.TimeStep; rng: numpy Generator, seeded for the episode
        return rng.uniform(-1, 1, 21)       # (A,) in [-1, 1]

or a factory, called at the start of each episode, where a policy has a memory or wants to know more (a `PolicyContext`:
task, names of the actuators, seconds per action, physics)

    def make_policy(context, rng):
        return lambda time_step, rng: ...

The file is run as Python, with all that it may do: name only files that you trust.
"""

from __future__ import annotations

import hashlib
import runpy
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from aime.data.policies import EpisodePolicy, PolicyContext
from aime.errors import ConfigError


class PolicyFile:
    """Policies from a file.

    Raises:
        ConfigError: the file is missing, does not run, or defines neither `policy` nor `make_policy`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ConfigError(f"--policy-file {path}: there is no such file")
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        names = self._run(lambda: runpy.run_path(str(path)))
        self._policy, self._factory = names.get("policy"), names.get("make_policy")
        if not callable(self._factory) and not callable(self._policy):
            raise ConfigError(
                f"--policy-file {path} must define policy(time_step, rng) -> action, or make_policy(context, rng) that "
                "returns one; it defines neither"
            )

    def make(self, context: PolicyContext, rng: np.random.Generator) -> EpisodePolicy:
        """The policy for one episode. Its actions are checked: (A,), finite, in [-1, 1]."""
        chosen: Any = self._policy
        if callable(self._factory):
            chosen = self._run(lambda: self._factory(context, rng))
            if not callable(chosen):
                raise ConfigError(
                    f"{self.path}: make_policy must return a function, it returned {type(chosen).__name__}"
                )

        def act(time_step: Any, rng: np.random.Generator) -> np.ndarray:
            raw = self._run(lambda: chosen(time_step, rng))
            try:
                action = np.asarray(raw, dtype=np.float64)
            except (TypeError, ValueError):
                raise ConfigError(f"{self.path}: an action must be numbers, the policy returned {raw!r}") from None
            if action.shape != (context.action_dim,):
                raise ConfigError(
                    f"{self.path}: an action of {context.task} has shape ({context.action_dim},), the policy returned "
                    f"{action.shape}"
                )
            if not np.isfinite(action).all() or np.abs(action).max() > 1.0 + 1e-6:
                raise ConfigError(
                    f"{self.path}: actions must be finite and in [-1, 1] (they are scaled to the environment's own "
                    f"bounds), the policy returned values from {action.min():.4g} to {action.max():.4g}"
                )
            return np.clip(action, -1.0, 1.0)

        return EpisodePolicy(f"file:{self.path.name}", act, {"sha256": self.sha256})

    def _run(self, action: Any) -> Any:
        """Runs the user's code; whatever it raises becomes a sentence with the line where it happened."""
        try:
            return action()
        except Exception as error:
            own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(self.path)]
            line = error.lineno if isinstance(error, SyntaxError) else own[-1].lineno if own else None
            where = f" at line {line}" if line else ""
            raise ConfigError(f"--policy-file {self.path} failed{where}: {type(error).__name__}: {error}") from error
