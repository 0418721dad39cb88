"""How far guesses are believed: as far as they came true on episodes that nothing was learned from."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from aime.data.store import EpisodeStore
from aime.inputs import to_unit_frames
from aime.perception import full_trust, trust_weights
from aime.training import calibrate as calibration
from aime.training.calibrate import calibrate, fitted_trust
from aime.world_model import WorldModel
from tests.helpers import small_model
from tests.training.conftest import FRAMES


@pytest.fixture
def store(ball_store: Path) -> EpisodeStore:
    return EpisodeStore.open(ball_store)


def guesses(trust: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of which as much comes true as this trust says, but for what nobody could have said."""
    doubt = torch.rand(4000, 1).sqrt().expand(-1, 6)
    said = torch.randn(4000, 50)
    missing = (trust_weights(doubt) @ trust)[:, None] * said + torch.randn(4000, 50)
    return said.square().mean(dim=-1), (said * missing).mean(dim=-1), doubt


def test_the_trust_is_found_that_guesses_deserve() -> None:
    deserved = torch.tensor([1.0, 0.9, 0.5, 0.4, 0.0])
    torch.testing.assert_close(fitted_trust(*guesses(deserved)), deserved, atol=0.03, rtol=0)


def test_it_stays_between_none_and_full() -> None:
    torch.testing.assert_close(
        fitted_trust(*guesses(torch.tensor([1.6, 1.6, -0.7, -0.7, -0.7]))),
        torch.tensor([1.0, 1, 0, 0, 0]),
        atol=0.2,
        rtol=0,
    )


def test_where_no_guess_was_trust_is_that_in_a_guess_of_less_doubt() -> None:
    square, product, doubt = guesses(torch.tensor([1.0, 0.6, 0, 0, 0]))
    sure = doubt[:, 0].square() < 0.25
    trust = fitted_trust(square[sure], product[sure], doubt[sure])
    torch.testing.assert_close(trust, torch.tensor([1, 0.6, 0.6, 0.6, 0.6]), atol=0.05, rtol=0)
    torch.testing.assert_close(fitted_trust(torch.zeros(9), torch.zeros(9), torch.ones(9, 6)), full_trust())


def painting(model: WorldModel) -> WorldModel:
    """One whose guesses are something, as after training."""
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def missed(model: WorldModel, store: EpisodeStore) -> float:
    """Squared error of guesses at the clips that trust is measured on, in the pixels that have moved."""
    clips = calibration.fixed_clips(store, "validation", FRAMES, 1)
    frames, watched = to_unit_frames(clips["observations"]), FRAMES // calibration.WATCHED
    with torch.no_grad():
        belief = model.observe(frames[:, :watched], clips["actions"][:, :watched], clips["is_first"][:, :watched])
        guess = model.imagine(belief, clips["actions"][:, watched:], sample=False).observations
    moved = calibration.moving_pixels(frames[:, watched:], frames[:, watched - 1])[:, :, None]
    error = (moved * (guess - frames[:, watched:]).square()).sum(dim=(-3, -2, -1))
    return float((error / moved.sum(dim=(-3, -2, -1)).clamp_min(1)).mean())


def test_guesses_of_a_model_that_knows_nothing_are_taken_back(store: EpisodeStore) -> None:
    model = painting(small_model()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrong = missed(model.eval(), store)
    state = torch.random.get_rng_state()
    calibrate(model.train(), store, FRAMES)
    assert torch.equal(torch.random.get_rng_state(), state), "dreams are decoded under maps as they are, by no chance"
    assert model.training
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])} == {
        "decoder.trust",
        "decoder.mean_frame",
    }
    assert torch.equal(model.decoder.mean_frame, torch.from_numpy(store.mean_frame()))
    assert missed(model.eval(), store) < 0.9 * wrong
    again = model.decoder.trust.clone()
    calibrate(model, store, FRAMES)
    assert torch.equal(model.decoder.trust, again), "it is measured under full trust, not under the last one"


def test_without_episodes_to_measure_on_guesses_are_believed(
    store: EpisodeStore, caplog: pytest.LogCaptureFixture
) -> None:
    model = painting(small_model())
    for length, why in ((FRAMES + 1, "no episode of the validation split"), (1, "a clip is a single frame")):
        calibrate(model, store, FRAMES)
        assert not torch.equal(model.decoder.trust, full_trust())
        with caplog.at_level(logging.INFO, "aime"):
            calibrate(model, store, length)
        assert f"believed in full: {why}" in caplog.text
        assert torch.equal(model.decoder.trust, full_trust())
