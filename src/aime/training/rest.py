"""The last part of a run: perception rests, and dynamics learns from whole episodes as it sees them."""

from __future__ import annotations

import logging

from aime.config import TrainConfig
from aime.data.store import EpisodeStore
from aime.errors import DataError
from aime.training.album import FIRST_FRAMES, Album, Page, watch_episode
from aime.training.device import autocast
from aime.training.update import Outcome, Updater

log = logging.getLogger("aime")


class Rest:
    """What a run learns from while its perception rests.

    Args:
        updater: of the model that rests.
        store: the episodes, of which those to train on are watched.
        config: the run's settings.
        seed: decides in which order episodes come.
    """

    def __init__(self, updater: Updater, store: EpisodeStore, config: TrainConfig, seed: int) -> None:
        self._updater, self._store, self._config, self._seed = updater, store, config, seed
        self._album: Album | None = None
        self._unseen: Album | None = None
        self.since: int | None = None
        """The step from which on perception rests; None while it learns."""

    @property
    def decay(self) -> float:
        """The weight decay that dynamics was found to need so far."""
        return float(self._updater.decay.value)

    @decay.setter
    def decay(self, decay: float) -> None:
        self._updater.decay.value.fill_(decay)

    def end(self) -> None:
        """Perception learns again, so what it saw is no longer what it sees."""
        self.since = self._album = self._unseen = None

    def step(self, step: int, *, lr_factor: float, beta: float) -> Outcome:
        """One step, in which perception rests; `step` is its number in the run (from 0)."""
        updater, model, config = self._updater, self._updater.model, self._config
        if self.since is None:
            self.since = step
            updater.average.settle()
            log.info("step %d: perception rests from here on, and dynamics learns from what it sees", step)
        if self._album is None:
            length = config.model.sequence_length
            frames = self.since * config.data.batch_size * length
            # A run that does nothing else goes on from a model that was trained before it.
            self._album = Album(self._store, length, self._seed, trained_on=frames or FIRST_FRAMES)
            self._unseen = self._of_validation(frames or FIRST_FRAMES)

        def watch(episode: int) -> Page:
            with autocast(model.device, config.precision):
                return watch_episode(model, self._store, episode, config.model.sequence_length)

        for album in (self._album, self._unseen):
            if album is not None:
                album.open(step - self.since, watch)
        model.train()
        return updater.consolidate(self._album, self._unseen, lr_factor=lr_factor, beta=beta)

    def _of_validation(self, frames: int) -> Album | None:
        """What weight decay, and how far the context is believed, are found by, if they are."""
        settings = self._config.optimizer
        if settings.dynamics_decay_step == 0 or settings.dynamics_decay == 0:
            return None
        try:
            return Album(self._store, self._config.model.sequence_length, self._seed, frames, split="validation")
        except DataError as error:
            log.info("the weight decay of dynamics stays as it is, and the context is believed in full: %s", error)
            return None
