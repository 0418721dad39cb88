"""The protocol on models whose worth is known: one that knows the world, one that copies, one that ignores actions."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from aime.data.store import EpisodeStore
from aime.errors import ConfigError, DataError
from aime.evaluation import Evaluation, EvaluationConfig, evaluate
from aime.evaluation.bootstrap import resamples, summarise
from aime.evaluation.clips import load_clips
from aime.evaluation.models import Dreamer
from aime.evaluation.report import read_clip_scores
from aime.evaluation.scores import METRICS
from tests.evaluation.conftest import SMALL, write_store
from tests.toys import ActionIgnoringModel, CopyModel, NoisyModel, PerfectModel

Evaluated = Callable[[Dreamer], Evaluation]
MEASURED = [metric for metric in METRICS if metric != "lpips"]


def printed(evaluation: Evaluation) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    evaluation.print(console)
    return console.export_text()


def test_nothing_beats_the_model_that_knows_the_world(evaluated: Evaluated) -> None:
    perfect = evaluated(PerfectModel())
    for metric in MEASURED:
        best = perfect.scores["dream"][metric]
        for predictor, curves in perfect.scores.items():
            assert curves[metric].average <= best.average + 1e-9, predictor
        for other in (CopyModel(), ActionIgnoringModel()):
            assert evaluated(other).scores["dream"][metric].average < best.average
    # The best there is, for a truth in 8 bits.
    assert perfect.scores["dream"]["psnr"].mean == pytest.approx([58.9] * SMALL.horizon, abs=0.1)
    assert perfect.differences["gain_over_copy_last"]["moving_psnr"].average_low > 10
    assert perfect.differences["below_ceiling"]["psnr"].average == 0.0


def test_copying_gains_exactly_nothing(evaluated: Evaluated) -> None:
    copying = evaluated(CopyModel())
    gain = copying.differences["gain_over_copy_last"]
    for metric in MEASURED:
        assert set(gain[metric].mean) == {0.0}
        assert gain[metric].low == gain[metric].high == gain[metric].mean
        assert copying.scores["dream"][metric] == copying.scores["copy_last"][metric]


def test_who_ignores_actions_loses_exactly_nothing_by_others(evaluated: Evaluated) -> None:
    ignoring = evaluated(ActionIgnoringModel()).differences["loss_by_shuffling"]
    knowing = evaluated(PerfectModel()).differences["loss_by_shuffling"]
    for metric in MEASURED:
        assert set(ignoring[metric].mean) == {0.0}
        assert knowing[metric].average_low > 0
    # From the first frame on: the action that leads to it is exchanged as well.
    assert knowing["moving_psnr"].mean[0] > 1


def test_states_are_read_out_of_dreams_as_far_as_dreams_know_them(evaluated: Evaluated) -> None:
    perfect, ignoring = (evaluated(model).readout for model in (PerfectModel(), ActionIgnoringModel()))
    assert perfect is not None and ignoring is not None
    assert min(perfect.r2["dream"]["mean"].mean) > 0.999
    assert min(ignoring.r2["watched"]["mean"].mean) > 0.999
    last = ignoring.r2["last_state"]["mean"].mean
    assert ignoring.r2["dream"]["mean"].mean == pytest.approx(last, abs=0.01)
    assert last[-1] < 0.9
    assert set(perfect.by_state) == {"position 0", "position 1"}


def test_samples_are_independent_and_their_best_is_best(toy_store: EpisodeStore) -> None:
    scores = evaluate(NoisyModel(0.1), toy_store, SMALL).scores
    assert scores["best"]["psnr"].average > scores["sample"]["psnr"].average
    # The mean of three samples has a third of their variance, 4.8 dB less, but for the clipping at 0 and 1.
    gain = scores["sample_mean"]["psnr"].average - scores["sample"]["psnr"].average
    assert gain == pytest.approx(4.8, abs=0.5)


def test_a_model_is_calibrated_when_its_noise_is_real(toy_store: EpisodeStore) -> None:
    blind = evaluate(PerfectModel(), toy_store, SMALL).calibration
    noisy = evaluate(NoisyModel(0.2), toy_store, SMALL).calibration
    assert blind is not None and noisy is not None
    assert noisy.spread_to_error.average > 1.3  # it claims noise that the world does not have
    assert blind.coverage[0].average == 1.0  # no spread, and no error either


def test_two_runs_agree_to_the_digit_and_leave_no_trace(toy_store: EpisodeStore) -> None:
    found = []
    model = NoisyModel(0.1).train()
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(evaluate(model, toy_store, SMALL))
        assert torch.equal(before, torch.get_rng_state())
    assert json.dumps(found[0].to_json()) == json.dumps(found[1].to_json())
    assert printed(found[0]) == printed(found[1])
    assert model.training
    other = evaluate(model, toy_store, dataclasses.replace(SMALL, seed=1))
    assert other.scores["sample"]["psnr"].mean != found[0].scores["sample"]["psnr"].mean


def test_everything_is_written_down(toy_store: EpisodeStore, tmp_path: Path) -> None:
    evaluation = evaluate(NoisyModel(0.1), toy_store, SMALL, tmp_path, name="noisy", step=700)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["model"]["name"] == "noisy" and found["model"]["step"] == 700
    assert found["data"]["fingerprint"] == toy_store.fingerprint
    assert found["data"]["task"] == "toy-square"
    assert found["data"]["clips"] == len(found["data"]["places"]) == SMALL.clips
    assert found["config"]["horizon"] == SMALL.horizon
    assert found["versions"]["aime"]
    assert found["summary"]["psnr"] == evaluation.scores["dream"]["psnr"].average
    assert len(found["scores"]["dream"]["moving_psnr"]["low"]) == SMALL.horizon
    assert "lpips" in found["not_measured"] or "lpips" in found["scores"]["dream"]
    assert "likelihood" in found["not_measured"]
    for name in ("horizons", "states", "calibration", "clip-best", "clip-median", "clip-worst"):
        with Image.open(tmp_path / f"{name}.png") as image:
            image.load()
            assert image.width > 400
    for name in ("best", "median", "worst"):
        with av.open(str(tmp_path / f"clip-{name}.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == SMALL.length


def test_the_scores_of_each_clip_are_those_that_the_figures_are_of(toy_store: EpisodeStore, tmp_path: Path) -> None:
    evaluation = evaluate(NoisyModel(0.1), toy_store, SMALL, tmp_path)
    kept = read_clip_scores(tmp_path)
    assert kept.keys() == evaluation.scores.keys()
    for predictor, curves in evaluation.scores.items():
        for metric, curve in curves.items():
            values = kept[predictor][metric]
            assert values.shape == (SMALL.clips, SMALL.horizon)
            assert torch.equal(values.nan_to_num(-1), evaluation.clip_scores[predictor][metric].nan_to_num(-1))
            assert values.nanmean(dim=0).tolist() == pytest.approx(curve.mean)
    # By them two models are compared clip by clip, as the differences of one model's predictors are.
    gain = kept["dream"]["psnr"] - kept["copy_last"]["psnr"]
    clips = load_clips(toy_store, "test", SMALL.length, SMALL.clips, SMALL.seed)
    draws = resamples(clips.episode, SMALL.resamples, SMALL.seed)
    assert summarise(gain, draws) == evaluation.differences["gain_over_copy_last"]["psnr"]


class BareModel(torch.nn.Module):
    """The two verbs and nothing else."""

    def observe(self, observations: Tensor, actions: Tensor, is_first: Tensor | None = None) -> Any:
        return observations[:, -1].float() / 255

    def imagine(
        self, belief: Any, actions: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> Any:
        frames = belief[:, None].expand(-1, actions.shape[1], -1, -1, -1)
        return type("Dream", (), {"observations": frames})()


class BoundedModel(PerfectModel):
    """Says how likely it finds each frame: 6,144 nats, twice as many after the fourth."""

    def nll_bound(self, observations: Tensor, actions: Tensor, is_first: Tensor | None) -> Tensor:
        bound = torch.full(observations.shape[:2], 6144.0)
        bound[:, SMALL.context_frames :] *= 2
        return bound


def test_two_verbs_are_enough(toy_store: EpisodeStore, tmp_path: Path) -> None:
    bare = evaluate(BareModel(), toy_store, SMALL, tmp_path)
    assert "ceiling" not in bare.scores
    assert set(bare.differences["gain_over_copy_last"]["psnr"].mean) == {0.0}
    for what in ("ceiling", "readout", "likelihood"):
        assert bare.not_measured[what]
    assert (tmp_path / "clip-median.png").exists()


def test_the_likelihood_bound_is_per_dimension(toy_store: EpisodeStore) -> None:
    likelihood = evaluate(BoundedModel(), toy_store, SMALL).likelihood
    assert likelihood is not None
    assert likelihood.dimensions == 3 * 32 * 32
    assert likelihood.after_context.average == pytest.approx(4.0)
    assert likelihood.nats_per_dimension.average == pytest.approx((4 * 2 + 8 * 4) / 12)


def test_what_does_not_move_is_counted_and_not_scored(tmp_path: Path) -> None:
    still = write_store(tmp_path / "still", episodes=3, still=True)
    config = EvaluationConfig(context_frames=4, horizon=3, clips=4, samples=0, readout_clips=0, resamples=50)
    evaluation = evaluate(PerfectModel(), still, config, tmp_path / "out")
    assert evaluation.scores["dream"]["moving_psnr"].left_out == [4, 4, 4]
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["scores"]["dream"]["moving_psnr"]["mean"] == [None, None, None]
    assert evaluation.not_measured.keys() >= {"readout", "calibration"}


class BrokenModel(PerfectModel):
    """What a run that diverged leaves behind."""

    def imagine(self, *args: Any, **options: Any) -> Any:
        dream = super().imagine(*args, **options)
        return dataclasses.replace(dream, observations=torch.full_like(dream.observations, torch.nan))


def test_dreams_that_are_not_finite_are_said_to_be_and_cost_no_figure(toy_store: EpisodeStore, tmp_path: Path) -> None:
    evaluation = evaluate(BrokenModel(), toy_store, SMALL, tmp_path)
    assert "no dream is finite" in printed(evaluation)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["scores"]["dream"]["psnr"]["average"] is None
    assert found["scores"]["copy_last"]["psnr"]["average"] > 0
    assert not list(tmp_path.glob("clip-*.png"))


def test_too_short_episodes_are_refused_with_what_fits(toy_store: EpisodeStore) -> None:
    with pytest.raises(ConfigError, match=r"need episodes of 48.*has 24: use --horizon 16 at most"):
        evaluate(PerfectModel(), toy_store, EvaluationConfig(clips=4))
    with pytest.raises(ConfigError, match=r"--horizon 14 or --context-frames 4 at most"):
        evaluate(PerfectModel(), toy_store, EvaluationConfig(context_frames=10, horizon=20, clips=4))
    with pytest.raises(DataError, match="fewer than"):
        evaluate(PerfectModel(), toy_store, EvaluationConfig(context_frames=4, horizon=8, clips=1000))


@pytest.mark.parametrize(
    ("setting", "value"), [("clips", 0), ("horizon", 0), ("samples", -1), ("motion_threshold", 1.0), ("seed", -1)]
)
def test_settings_that_cannot_work_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=setting):
        EvaluationConfig(**{setting: value})


def test_the_tables_say_what_was_found(evaluated: Evaluated) -> None:
    evaluation = evaluated(PerfectModel())
    text = printed(evaluation)
    assert "toy-square: 12 clips of 3 test episodes" in text
    assert f"{evaluation.scores['dream']['psnr'].average:.2f} [" in text
    for name in ("copy last", "mean frame", "shuffled actions", "reconstruction", "R² of the state, dreamed"):
        assert name in text
    assert "likelihood: not measured" in text
