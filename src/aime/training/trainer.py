"""Train a world model: collect what is missing, resume what was begun, learn, log, save, draw.

    aime train --env humanoid-walk                                   the base preset
    aime train --preset tiny --env cartpole-swingup --max-steps 600  the laptop-sized variant: minutes on two cores

The same command again goes on where the last one stopped. On one CPU the continued run equals the uninterrupted one to
the bit: model, optimizers, balancer, random states, the place in the data and the means for the log are all in the
checkpoint, and the schedules are functions of the step.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from aime.config import UNLIMITED_STEPS, TrainConfig
from aime.data.dataset import BatchStream, WindowDataset
from aime.errors import ConfigError
from aime.perception import full_trust
from aime.pictures import plot_metrics, write_run_pictures
from aime.training.build import build_model, build_updater
from aime.training.calibrate import calibrate
from aime.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from aime.training.device import resolve_device
from aime.training.disk import disk_errors
from aime.training.distributed import World, any_rank, broadcast_from_first, join_world
from aime.training.guard import NotFinite, SkippedSteps, diagnosis
from aime.training.heldout import heldout_clips, look, picture_clip
from aime.training.locate import locate
from aime.training.meter import MeanMeter
from aime.training.metrics import MetricsLog, require_wandb
from aime.training.prepare import open_episodes, resolve_settings
from aime.training.progress import Display, Pace
from aime.training.random_state import random_state, restore_random_state, seed_everything
from aime.training.rest import Rest
from aime.training.runs import RunFolder
from aime.training.schedule import beta_at, consolidates, lr_factor
from aime.training.stop import StopWish, stop_on_signal
from aime.training.update import Outcome, Updater
from aime.world_model import WorldModel

log = logging.getLogger("aime")


def train(config: TrainConfig) -> Path:
    """Train, from the start or from where the run in `config.run_path` stopped, to `config.max_steps`.

    Ctrl-C and SIGTERM end it after the step at hand, with a checkpoint.

    Returns:
        The run's folder.

    Raises:
        AimeError: a sentence for the user: settings, data or checkpoint do not fit, the disk is full, or the loss
            stayed non-finite.
    """
    if config.eval_only:
        raise ConfigError("eval_only asks for no training; evaluate with aime evaluate, or leave eval_only out")
    with join_world(config.device) as world, ExitStack() as stack:
        if config.max_minutes is not None and world.size > 1:
            raise ConfigError("max_minutes is for one process, whose clock decides; give several --max-steps")
        run = RunFolder(config.run_path)
        if world.writes:
            stack.enter_context(run.lock())
        trainer = Trainer(config, world)
        try:
            trainer.run()
        finally:
            trainer.close()
    return run.path


class Trainer:
    """A run: its model, data, update, log and folder, at some step.

    Args:
        config: the settings; ``auto`` is resolved here and what it came to is written into the run's config.yaml.
        world: this process among those that train together.
    """

    def __init__(self, config: TrainConfig, world: World | None = None) -> None:
        self.world = world or World()
        self.folder = RunFolder(config.run_path)
        if config.wandb and self.world.writes:  # before it is written down, or anything is collected
            require_wandb()
        found = self.folder.to_go_on_from()
        checkpoint = None if found is None else load_checkpoint(found, thorough=False)
        self.device = resolve_device(config.device)
        self.config = resolve_settings(config, self.folder, checkpoint, self.device, self.world)
        self.store = open_episodes(self.config, self.folder, checkpoint, self.world)
        seed_everything(self.config.seed)
        sizes = self.config.model.for_actions(self.store.action_dim)
        self.model = build_model(self.config.world_model, sizes).to(self.device)
        self.updater = build_updater(self.model, self.config, self.config.precision, self.world)
        self.stream = self._open_stream()
        self.meter = MeanMeter(self.device)
        self.skipped = SkippedSteps(self.device)
        self.rest: Rest | None = None  # a peer has no part that rests
        if isinstance(self.updater, Updater):
            self.rest = Rest(self.updater, self.store, self.config, self.config.seed + self.world.rank)
        self.step, elapsed = 0, 0.0
        if checkpoint is not None:
            self.step, elapsed = self._restore(checkpoint)
        elif self.config.load_checkpoint is not None:
            learned = load_checkpoint(locate(self.config.load_checkpoint))
            if learned.config.world_model != self.config.world_model:
                raise ConfigError(
                    f"{learned.folder} holds weights of world_model {learned.config.world_model}, which do not fit "
                    f"world_model {self.config.world_model}"
                )
            learned.restore_model(self.model)
        elif self.config.consolidation == 1:
            raise ConfigError(
                "consolidation 1 trains no perception, and there is none to go on from: name a model that has learned "
                "to see with --load-checkpoint, or give a smaller share"
            )
        elif isinstance(self.model, WorldModel):
            self.model.decoder.background.data.copy_(torch.from_numpy(self.store.mean_frame()))
        broadcast_from_first(self.model.state_dict().values(), self.world)
        if checkpoint is None:
            self.updater.average.restart(0)  # it was made of the weights before these
        if self.world.rank > 0:
            seed_everything(self.config.seed + 7919 * self.world.rank + 104729 * self.step)
        clips = self.config.data.batch_size * self.world.size
        self.pace = Pace(self.step, clips * self.config.model.sequence_length, elapsed)
        self.log = self._open_log() if self.world.writes else None
        self._heldout = self._clips_to_look_at()
        self._newest = found

    # ------------------------------------------------------------------ the main path

    def run(self) -> None:
        """Train up to `max_steps`, or until somebody wishes it to stop."""
        config, began = self.config, self.step
        display = Display(config.data.env, self.step, config.max_steps, shown=self.world.writes)
        with stop_on_signal() as wish, display.running():
            self.pace.begin()
            over = self.over
            if not over and isinstance(self.model, WorldModel):  # what goes on learning, nobody has measured
                self.model.decoder.trust.copy_(full_trust())
            while not over and not self._stop(wish):
                outcome = self.consolidate() if self.consolidates else self.advance(next(self.stream))
                over = self.over
                if over:
                    self.calibrate()
                display.advance(self.step)
                if self._due(config.log_every):
                    self.write_log(outcome, display)
                self.do_what_is_due()
            if self.step > began:
                self.save()
        self._finish(wish, began)

    def advance(self, batch: dict[str, Tensor]) -> Outcome:
        """One training step, in which everything learns."""
        if self.rest is not None:
            self.rest.end()
        # Episode starts stay on the host: the core looks for resets there, and would have to wait for a GPU.
        batch = {
            name: tensor if name == "is_first" else tensor.to(self.device, non_blocking=True)
            for name, tensor in batch.items()
        }
        self.model.train()
        return self._took(self.updater.step(batch, **self._rates()))

    def consolidate(self) -> Outcome:
        """One step of the run's last part, in which perception rests."""
        assert self.rest is not None  # settings of a peer leave no time for it
        return self._took(self.rest.step(self.step, **self._rates()))

    def calibrate(self) -> None:
        """At the end: find out how far the guesses of the weights that are handed on may be believed."""
        if not isinstance(self.model, WorldModel):
            return
        if self.world.writes:
            with self.updater.average.in_place():
                calibrate(self.model, self.store, self.config.model.sequence_length)
        broadcast_from_first((self.model.decoder.trust, self.model.decoder.mean_frame), self.world)

    def _rates(self) -> dict[str, float]:
        """Share of the peak learning rates and weight of the KL terms in the step to come, noted for the log."""
        share, beta = self.lr_factor, self.beta
        self._applied = {"learning_rate": self.config.optimizer.learning_rate * share, "beta": beta}
        return {"lr_factor": share, "beta": beta}

    def _took(self, outcome: Outcome) -> Outcome:
        """Count a step."""
        self.meter.add(outcome.scalars, ~outcome.skipped)
        self.step += 1
        others = {"a loss of another process": ~outcome.skipped} if self.world.size > 1 else {}
        try:
            parts = {name: value for name, value in outcome.scalars.items() if name not in outcome.finite}
            self.skipped.see(outcome.finite | others, parts)
        except NotFinite as error:
            resting = self.rest is not None and self.rest.since is not None
            flag = "--consolidation-precision" if resting else "--precision"
            used = self.config.optimizer.consolidation_precision if resting else self.config.precision
            bf16_by = flag if used == "bf16" else None
            raise diagnosis(error, self.step, self._newest, bf16_by=bf16_by) from error
        return outcome

    def write_log(self, outcome: Outcome, display: Display) -> None:
        """A line of metrics: means since the last line, and the balance of this step."""
        means = self.meter.means()
        self.meter.reset()
        figures = means | self._applied | {"epoch": self.epoch, "skipped_steps": float(self.skipped.total)}
        if outcome.balance is not None:
            figures |= outcome.balance.as_metrics()
        figures |= self.pace.mark(self.step)
        watches = self._rests_since is None
        if not watches:
            del figures["frames_per_second"]
        if self.log is not None:
            self.log.write(self.step, figures)
        minutes = self.config.max_minutes
        left = None if minutes is None else 60 * minutes - self.pace.elapsed
        display.figures(self.step, means[outcome.headline], self.pace, left, watches=watches)

    def do_what_is_due(self) -> None:
        """Look, draw and save where this step asks for it. None of that is training, so none of its time counts."""
        config = self.config
        pictures = config.picture_every if config.save_visualizations or config.visualize_attention else 0
        work = ((self.look, config.eval_every), (self.draw, pictures), (self.save, config.checkpoint_every))
        if not any(self._due(every) for _, every in work):
            return
        for gpu in self._gpus:  # or steps still under way there would be finished for nothing
            torch.cuda.synchronize(gpu)
        with self.pace.paused():
            for do, every in work:
                if self._due(every):
                    do()

    def look(self) -> None:
        """Log how the model does on held-out clips."""
        if self._heldout is not None and self.log is not None:
            with self.updater.average.in_place():
                self.log.write(self.step, look(self.model, self._heldout))

    def save(self) -> None:
        """Write the checkpoint of this step, and delete those that are too old; rank 0 does."""
        self.skipped.settle()
        if not self.world.writes or (self._newest is not None and self._newest == self.folder.checkpoint(self.step)):
            return
        state = {
            "step": self.step,
            "task": self.store.task,
            "data_fingerprint": self.store.fingerprint,
            "data": self.stream.state_dict(),
            "schedule": {"epoch": self.epoch, "lr_factor": self.lr_factor, "beta": self.beta},
            "random": random_state(),
            "meter": self.meter.state_dict(),
            "skipped": self.skipped.state_dict(),
            "elapsed_seconds": self.pace.elapsed,
            "rests_since": self._rests_since,
            "dynamics_decay": None if self.rest is None else self.rest.decay,
            "averaged_steps": self.updater.average.steps,
        }
        with self.updater.average.in_place():
            self._newest = save_checkpoint(
                self.folder.make_room(self.step),
                self.model,
                self.config,
                optimizers=self.updater.optimizers,
                balancer=self.updater.balancer,
                memory=self.updater.memory,
                learning=self.updater.average.learning(),
                state=state,
            )
        self.folder.prune(self.config.keep_checkpoints, self.step)

    def draw(self) -> list[Path]:
        """Draw what the model sees, attends to, believes and dreams, and the curves of the run."""
        clip = picture_clip(self.store, self.config.model.sequence_length) if self.world.writes else None
        if clip is None:
            return []
        observations, actions, is_first = (clip[n].to(self.device) for n in ("observations", "actions", "is_first"))
        folder = self.folder.pictures / f"step-{self.step:08d}"
        with (
            disk_errors("the pictures", self.folder.pictures),
            torch.random.fork_rng(self._gpus),
            self.updater.average.in_place(),
        ):
            context = max(1, self.config.model.sequence_length // 2)
            drawn = write_run_pictures(self.model, observations, actions, is_first, folder, context_frames=context)
            return drawn + (plot_metrics(self.folder.path) if self.folder.metrics.is_file() else [])

    def close(self) -> None:
        """Finish the log, and let the readers of the data go."""
        self.stream.close()
        if self.log is not None:
            self.log.close()

    # ------------------------------------------------------------------ where the run is

    @property
    def epoch(self) -> float:
        """Passes over the data so far; a fraction counts."""
        return self.step / self.stream.batches_per_epoch

    @property
    def beta(self) -> float:
        """Weight of the KL terms in the next step."""
        return beta_at(self.epoch, self.config.loss, self.config.optimizer)

    @property
    def lr_factor(self) -> float:
        """Share of the peak learning rate in the next step."""
        config = self.config
        return lr_factor(self.step, config.optimizer, config.max_steps, self.time_over, config.consolidation)

    @property
    def consolidates(self) -> bool:
        """Whether perception rests in the next step."""
        return consolidates(self.step, self.config.consolidation, self.config.max_steps, self.time_over)

    @property
    def _rests_since(self) -> int | None:
        """The step from which on perception rests, if it does."""
        return None if self.rest is None else self.rest.since

    @property
    def over(self) -> bool:
        """Whether the run has all its steps or minutes behind it."""
        return self.step >= self.config.max_steps or self.time_over >= 1

    @property
    def time_over(self) -> float:
        """Share of `max_minutes` that is over; 0 for a run without such a limit."""
        minutes = self.config.max_minutes
        return 0.0 if minutes is None else self.pace.elapsed / (60 * minutes)

    @property
    def _gpus(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _stop(self, wish: StopWish) -> bool:
        """Whether to stop here. Several processes must agree on the step, which they do at the lines of the log."""
        if self.world.size == 1:
            return bool(wish)
        if self.step % self.config.log_every:
            return False
        return bool(any_rank(torch.tensor(bool(wish), device=self.device), self.world))

    def _finish(self, wish: StopWish, began: int) -> None:
        if not self.over:
            limit = f" of {self.config.max_steps}" if self.config.max_steps < UNLIMITED_STEPS else ""
            log.info(
                "stopped by %s at step %d%s; the checkpoint is %s, and the same command goes on from there",
                wish.reason or "another process",
                self.step,
                limit,
                self._newest,
            )
            return
        config = self.config
        if self.step > began:
            if config.eval_every and not self._due(config.eval_every):
                self.look()
            if self.step < config.max_steps:
                log.info("%g minutes are over at step %d: done", config.max_minutes, self.step)
            else:
                log.info("step %d of %d: done; a higher --max-steps trains it further", self.step, config.max_steps)
        elif self.step >= config.max_steps:
            log.info("%s is at step %d already; raise --max-steps to train it further", self.folder.path, self.step)
        else:
            log.info(
                "the %g minutes of %s are over, at step %d; raise --max-minutes to train it further",
                config.max_minutes,
                self.folder.path,
                self.step,
            )
        asked = config.save_visualizations or config.visualize_attention
        drawn = self.draw() if self.step > began or asked else []
        if drawn:
            log.info("%d pictures are in %s", len(drawn), self.folder.pictures)

    # ------------------------------------------------------------------ setting up

    def _open_stream(self) -> BatchStream:
        config, on_gpu = self.config, self.device.type == "cuda"
        workers = config.data.workers
        return BatchStream(
            WindowDataset(self.store, "train", config.model.sequence_length),
            config.data.batch_size,
            config.seed,
            workers=(2 if on_gpu else 0) if workers is None else workers,
            pin_memory=on_gpu,
            rank=self.world.rank,
            world_size=self.world.size,
        )

    def _restore(self, checkpoint: Checkpoint) -> tuple[int, float]:
        """Put everything where the checkpoint left it; its step, and the seconds it took until there."""
        state = checkpoint.state
        checkpoint.restore_model(self.model)
        self.updater.average.restart(state.get("averaged_steps", checkpoint.step))
        if self.rest is not None:
            self.rest.since = state.get("rests_since")
            if (decay := state.get("dynamics_decay")) is not None:
                self.rest.decay = decay
        checkpoint.restore_training(self.model, self.updater.optimizers, self.updater.balancer, self.updater.memory)
        self.stream.load_state_dict(state["data"])
        self.meter.load_state_dict(state["meter"])
        self.skipped.load_state_dict(state["skipped"])
        restore_random_state(state["random"])
        if self.world.writes:
            log.info("going on from %s", checkpoint.folder)
        return checkpoint.step, float(state["elapsed_seconds"])

    def _open_log(self) -> MetricsLog:
        """Write down what run this is, and open its log behind the step that it is at."""
        parameters = sum(p.numel() for p in self.model.parameters())
        identity = self.folder.describe(self.config, self.store, parameters=parameters)
        return MetricsLog(self.folder.metrics, self.config, from_step=self.step, identity=identity)

    def _clips_to_look_at(self) -> dict[str, Tensor] | None:
        if not self.config.eval_every or not self.world.writes or self.config.model.sequence_length < 2:
            return None
        return heldout_clips(self.store, self.config.model.sequence_length, self.config.eval_clips)
