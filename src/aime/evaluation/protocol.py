"""The protocol: what a world model predicts when it is not shown the answer.

    store = EpisodeStore.open("data/cartpole-swingup")
    evaluate(aime.load("runs/cartpole-swingup"), store, out_dir="out").print()

Each fixed clip of the test split is watched for 8 frames, then 40 are dreamed from the recorded actions and scored
against what happened. On a laptop, or to look quickly: ``EvaluationConfig(clips=32, samples=2)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from aime.data.store import EpisodeStore
from aime.errors import DataError
from aime.evaluation.bootstrap import resamples, summarise
from aime.evaluation.calibration import Calibration, CalibrationCounter, CalibrationTerms, calibrate
from aime.evaluation.clips import (
    Clips,
    copy_last,
    count_clips,
    load_clips,
    somebody_elses,
)
from aime.evaluation.config import EvaluationConfig
from aime.evaluation.fvd import find_video_network, frechet_distance, video_features
from aime.evaluation.health import check_health, read_health
from aime.evaluation.lpips import LPIPS, find_lpips
from aime.evaluation.models import Dreamer, as_if_seen, belief_features, device_of, nll_bound
from aime.evaluation.policies import policy_information
from aime.evaluation.readout import StateReadout, fit_readout, read_states
from aime.evaluation.report import Evaluation, Likelihood, describe_data, describe_model
from aime.evaluation.scores import Scorer, Scores, curves, difference_curves, join, of_samples
from aime.evaluation.showcase import write_showcase
from aime.evaluation.states import StateColumns
from aime.inputs import to_unit_frames
from aime.observation import moving_pixels
from aime.places import require_folder

HEALTH_CLIPS = 32
"""Clips that the health of the pillars is read on."""


def evaluate(
    model: Dreamer,
    store: EpisodeStore,
    config: EvaluationConfig | None = None,
    out_dir: Path | str | None = None,
    *,
    name: str = "AIME",
    step: int | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Evaluate a model on a store's held-out episodes.

    With one seed on one kind of CPU, two runs give the same numbers to the digit. The model's mode and the global
    random state are left as they were.

    Args:
        model: anything with the two verbs of `aime.evaluation.models.Dreamer`.
        config: the protocol; its defaults are the published one.
        out_dir: where ``evaluation.json``, plots, strips and videos go; None writes nothing.
        name: what the model is called in the report.
        step: training steps behind it.
        console: where progress is shown, if it is a terminal.

    Raises:
        ConfigError: if no episode is long enough, with what would fit; `out_dir` cannot be written into; or FVD is
            asked for and its network is not on the machine.
        DataError: if a split is empty or has too few clips.
    """
    config = config or EvaluationConfig()
    config.check_fits(store)
    if out_dir is not None:
        require_folder(Path(out_dir))
    clips = load_clips(store, config.split, config.length, config.clips, config.seed, ("states", "segmentation"))
    device = device_of(model)
    was_training = getattr(model, "training", False)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(config.seed)
        try:
            if isinstance(model, torch.nn.Module):
                model.eval()
            run = _Run(model, store, config, clips, device)
            run.dream(console or Console(quiet=True))
            evaluation = run.evaluation(name, step)
            if out_dir is not None:
                evaluation.save(Path(out_dir))
                write_showcase(model, clips, run.scores["dream"], evaluation, Path(out_dir), device)
        finally:
            if isinstance(model, torch.nn.Module):
                model.train(was_training)
    return evaluation


@dataclass
class _Batch:
    """What one batch of clips contributes."""

    scores: dict[str, Scores]
    calibration: CalibrationTerms | None
    dreamed: Tensor | None
    watched: Tensor | None
    videos: dict[str, Float[Tensor, "clips features"]]
    """Features of the true frames (`truth`) and of predictions, for FVD; empty where it is not asked for."""


@dataclass
class _Believed:
    """What the model believed of watched clips."""

    features: Float[Tensor, "clips time features"] | None
    responsibilities: Float[Tensor, "clips time components"] | None
    states: Float[Tensor, "clips time states"] | None
    episodes: list[int]
    """The episode that each clip comes from."""


class _Run:
    """One evaluation in progress."""

    def __init__(
        self, model: Any, store: EpisodeStore, config: EvaluationConfig, clips: Clips, device: torch.device
    ) -> None:
        self.model, self.store, self.config, self.clips, self.device = model, store, config, clips, device
        self.not_measured: dict[str, str] = {}
        self.draws = resamples(clips.episode, config.resamples, config.seed)
        self.watches = hasattr(model, "forward_sequence")
        self._believed = cache(self._believe)  # two figures ask for the training clips
        self.parts: list[_Batch] = []
        self.scores: dict[str, Scores] = {}
        lpips, why = find_lpips()
        self.lpips: LPIPS | None = lpips.to(device) if lpips is not None else None
        if lpips is None:
            self.not_measured["lpips"] = why
        self.video_network = find_video_network(device) if config.fvd else None
        if not self.watches:
            self.not_measured["ceiling"] = "the model has no forward_sequence"

    def dream(self, console: Console) -> None:
        """Dream every clip in every way and score it all: nearly all of the work."""
        size = self.config.batch_size
        mean_frame = self._mean_frame()
        other = self._other_actions()
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("dreaming", total=len(self.clips))
            for index, batch in enumerate(self.clips.batches(size, self.device)):
                actions = None if other is None else other[index * size : index * size + len(batch)].to(self.device)
                self.parts.append(self._score(batch, actions, mean_frame, index))
                progress.advance(task, len(batch))
        self.scores = join([part.scores for part in self.parts])
        if self.scores["dream"]["psnr"].isnan().all():
            self.not_measured["dream"] = "no dream is finite, so the weights are not: evaluate an earlier checkpoint"

    def evaluation(self, name: str, step: int | None) -> Evaluation:
        """Everything that is reported."""
        return Evaluation(
            model=describe_model(self.model, name, step),
            data=describe_data(self.store, self.clips),
            config=self.config,
            scores=curves(self.scores, self.draws),
            differences=difference_curves(self.scores, self.draws),
            calibration=self._calibration(),
            readout=self._readout(),
            likelihood=self._likelihood(),
            fvd=self._fvd(),
            health=self._health(),
            not_measured=self.not_measured,
            clip_scores=self.scores,
        )

    def _mean_frame(self) -> Tensor | None:
        try:
            return torch.from_numpy(self.store.mean_frame()).to(self.device)
        except DataError as error:
            self.not_measured["mean_frame"] = str(error)
            return None

    def _other_actions(self) -> Tensor | None:
        if len(self.clips) < 2:
            self.not_measured["shuffled"] = "one clip alone has no other's actions to dream with"
            return None
        return self.clips.actions[somebody_elses(self.clips.episode, self.config.seed)]

    def _score(self, clips: Clips, other: Tensor | None, mean_frame: Tensor | None, index: int) -> _Batch:
        config, context = self.config, self.config.context_frames
        frames = to_unit_frames(clips.observations)
        watched, truth = frames[:, :context], frames[:, context:]
        moving = moving_pixels(truth, watched[:, -1], config.motion_threshold)
        score = Scorer(truth, moving, self.lpips)

        belief = watch(self.model, clips, context)
        ahead = clips.actions[:, context:]
        dream = self.model.imagine(belief, ahead, sample=False)
        scores = {
            "dream": score(dream.observations),
            "copy_last": score(copy_last(watched, config.horizon)),
        }
        if mean_frame is not None:
            scores["mean_frame"] = score(mean_frame.expand_as(truth), perceptual=False)
        if other is not None:
            # The last action watched leads to the first frame dreamed: it is exchanged as well.
            exchanged = torch.cat([clips.actions[:, : context - 1], other[:, context - 1 :]], dim=1)
            shuffled = self.model.imagine(
                watch(self.model, clips, context, actions=exchanged), exchanged[:, context:], sample=False
            )
            scores["shuffled"] = score(shuffled.observations, perceptual=False)
        counter = CalibrationCounter(truth, moving)
        videos = {"truth": truth, "dream": dream.observations}
        sampled = []
        for sample in range(config.samples):
            generator = _generator(self.device, config.seed, index, sample)
            draw = self.model.imagine(belief, ahead, sample=True, generator=generator)
            sampled.append(score(draw.observations, perceptual=False))
            counter.add(draw.observations.float())
            videos.setdefault("sample", draw.observations)
        if sampled:
            scores |= of_samples(sampled) | {"sample_mean": score(counter.mean(), perceptual=False)}
        features = None
        if self.watches:
            output = self.model.forward_sequence(clips.observations, clips.actions, clips.is_first)
            scores["ceiling"] = score(output.reconstructions[:, context:])
            videos["ceiling"] = output.reconstructions[:, context:]
            features = belief_features(output)
        return _Batch(
            scores=scores,
            calibration=counter.terms() if config.samples >= 2 else None,
            dreamed=_on_cpu(belief_features(as_if_seen(self.model, belief, dream, ahead))),
            watched=None if features is None else _on_cpu(features[:, context:]),
            videos=self._video_features(videos),
        )

    def _video_features(self, videos: dict[str, Tensor]) -> dict[str, Tensor]:
        network = self.video_network
        return {} if network is None else {name: video_features(network, video) for name, video in videos.items()}

    def _fvd(self) -> dict[str, float]:
        """Of each prediction to the truth: of the best guesses, of one draw for each clip, of the reconstructions."""
        if self.video_network is None:
            return {}
        if len(self.clips) < 2:
            self.not_measured["fvd"] = "one clip alone has no distribution"
            return {}
        sets = {name: torch.cat([part.videos[name] for part in self.parts]) for name in self.parts[0].videos}
        truth = sets.pop("truth")
        return {name: frechet_distance(found, truth) for name, found in sets.items()}

    def _calibration(self) -> Calibration | None:
        terms = [part.calibration for part in self.parts if part.calibration is not None]
        if not terms:
            self.not_measured["calibration"] = "it needs at least 2 samples"
            return None
        return calibrate(CalibrationTerms.cat(terms), self.config.samples, self.draws)

    def _readout(self) -> StateReadout | None:
        context = self.config.context_frames
        try:
            if self.clips.states is None:
                raise DataError("the data has no physical states")
            if not self.config.readout_clips:
                raise DataError("no training clips were asked for")
            beliefs = self._test_beliefs()
            columns = StateColumns.of(self.store, self.clips.states.shape[-1])
            readout = fit_readout(*self._pairs("train", columns), *self._pairs("validation", columns))
        except DataError as error:
            self.not_measured["readout"] = str(error)
            return None
        states = columns.visible(self.clips.states)
        names = columns.visible_names()
        return read_states(readout, beliefs, states[:, context:], states[:, context - 1], names, self.draws)

    def _test_beliefs(self) -> dict[str, Float[Tensor, "clips horizon features"]]:
        dreamed = [part.dreamed for part in self.parts if part.dreamed is not None]
        watched = [part.watched for part in self.parts if part.watched is not None]
        if not dreamed or not watched:
            raise DataError("the model does not show hidden and latents, watching and dreaming")
        return {"dream": torch.cat(dreamed), "watched": torch.cat(watched)}

    def _pairs(
        self, split: str, columns: StateColumns
    ) -> tuple[Float[Tensor, "n features"], Float[Tensor, "n states"]]:
        """Beliefs of watched clips and the states there, from the end of the context on."""
        believed, after = self._believed(split), slice(self.config.context_frames - 1, None)
        assert believed.features is not None and believed.states is not None
        return believed.features[:, after].flatten(0, 1), columns.visible(believed.states[:, after].flatten(0, 1))

    def _believe(self, split: str) -> _Believed:
        """What the model believes of clips of a split that it watches.

        Raises:
            DataError: no episode of the split is as long as a clip.
        """
        config = self.config
        count = min(config.readout_clips, count_clips(self.store, split, config.length))
        if count < 1:
            raise DataError(f"no {split} episode is as long as a clip")
        clips = load_clips(self.store, split, config.length, count, config.seed)
        features, responsibilities = [], []
        for batch in clips.batches(config.batch_size, self.device):
            output = self.model.forward_sequence(batch.observations, batch.actions, batch.is_first)
            features.append(_on_cpu(belief_features(output)))
            responsibilities.append(_on_cpu(getattr(output, "responsibilities", None)))
        return _Believed(_together(features), _together(responsibilities), clips.states, clips.episode.tolist())

    def _likelihood(self) -> Likelihood | None:
        bounds = []
        for batch in self.clips.batches(self.config.batch_size, self.device):
            bound = nll_bound(self.model, batch.observations, batch.actions, batch.is_first)
            if bound is None:
                self.not_measured["likelihood"] = "the model has no nll_bound"
                return None
            bounds.append(bound.double().cpu())
        per_clip = torch.cat(bounds)
        dimensions = self.clips.observations[0, 0].numel()
        whole = summarise(per_clip.mean(dim=1, keepdim=True) / dimensions, self.draws)
        after = summarise(per_clip[:, self.config.context_frames :].mean(dim=1, keepdim=True) / dimensions, self.draws)
        return Likelihood(dimensions=dimensions, nats_per_dimension=whole, after_context=after)

    def _health(self) -> list[Any]:
        if not self.watches or not hasattr(self.model, "compute_total_loss"):
            return []
        places = torch.linspace(0, len(self.clips) - 1, min(HEALTH_CLIPS, len(self.clips))).round().long()
        clips = self.clips[places].to(self.device)
        readings = read_health(self.model, clips.observations, clips.actions, clips.is_first, clips.segmentation)
        return check_health(readings | self._policy_information())

    def _policy_information(self) -> dict[str, float]:
        """What components tell of policies, on training episodes: the few of a test split cannot tell."""
        try:
            believed = self._believed("train") if self.config.readout_clips else None
        except DataError:  # as said beside the mean frame
            return {}
        if believed is None or believed.responsibilities is None:
            return {}
        policies = [self.store.record(episode).policy for episode in believed.episodes]
        return policy_information(believed.responsibilities, policies, believed.episodes)


def watch(model: Any, clips: Clips, context: int, *, actions: Tensor | None = None) -> Any:
    """The belief after the first `context` frames of clips, and the actions taken (or others in their place)."""
    actions = clips.actions if actions is None else actions
    return model.observe(clips.observations[:, :context], actions[:, :context], clips.is_first[:, :context])


def _generator(device: torch.device, *numbers: int) -> torch.Generator:
    """A generator of its own for each draw, so that one draw more or fewer changes no other."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _on_cpu(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.cpu()


def _together(batches: Sequence[Tensor | None]) -> Tensor | None:
    there = [batch for batch in batches if batch is not None]
    return torch.cat(there) if there else None
