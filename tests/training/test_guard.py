"""Bad steps: undone, counted, and diagnosed."""

import pytest
import torch
from torch import Tensor, nn

from aime.errors import TrainingError
from aime.training.guard import MAX_SKIPPED, BufferGuard, NotFinite, SkippedSteps, diagnosis
from tests.training.standin import Sized

CPU = torch.device("cpu")
YES, NO = torch.tensor(True), torch.tensor(False)


def step(guard: BufferGuard, model: Sized, x: Tensor) -> None:
    guard.remember()
    model(x)
    guard.restore_if(~torch.isfinite(model.mean).all())


def test_buffers_keep_what_a_good_step_did_and_lose_what_a_bad_one_did() -> None:
    model = Sized()
    guard = BufferGuard(model)
    step(guard, model, torch.ones(2, 4))
    good = model.mean.clone()
    assert good.abs().sum() > 0
    step(guard, model, torch.full((2, 4), float("nan")))
    assert torch.equal(model.mean, good)
    step(guard, model, torch.ones(2, 4))
    assert not torch.equal(model.mean, good) and model.mean.isfinite().all()


def test_a_buffer_that_was_replaced_is_put_back_too() -> None:
    model = nn.Module()
    model.register_buffer("codes", torch.arange(4))
    guard = BufferGuard(model)
    guard.remember()
    model.codes = torch.zeros(4, dtype=torch.int64)
    guard.restore_if(YES)
    assert model.codes.tolist() == [0, 1, 2, 3]


def test_twenty_in_a_row_stop_the_run_and_fewer_do_not() -> None:
    skipped = SkippedSteps(CPU)
    for _ in range(3):
        for _ in range(MAX_SKIPPED - 1):
            skipped.see({"total_vae_loss": NO, "perceiver_loss": YES})
        skipped.see({"total_vae_loss": YES, "perceiver_loss": YES})
    assert skipped.total == 3 * (MAX_SKIPPED - 1) and skipped.in_row == 0
    for _ in range(MAX_SKIPPED - 1):
        skipped.see({"total_vae_loss": NO, "perceiver_loss": YES})
    with pytest.raises(NotFinite) as caught:
        skipped.see({"total_vae_loss": NO, "perceiver_loss": YES})
    assert caught.value.causes == {"total_vae_loss": MAX_SKIPPED}


def test_a_part_that_is_not_finite_does_not_make_a_step_bad() -> None:
    skipped = SkippedSteps(CPU)
    skipped.see({"total_vae_loss": YES}, {"next_token_accuracy": torch.tensor(float("nan"))})
    assert skipped.total == 0


def test_the_count_goes_on_after_a_resume() -> None:
    first, second = SkippedSteps(CPU), SkippedSteps(CPU)
    for _ in range(MAX_SKIPPED - 1):
        first.see({"a": NO})
    second.load_state_dict(first.state_dict())
    with pytest.raises(NotFinite):
        second.see({"a": NO})


def test_the_diagnosis_says_what_where_what_is_safe_and_what_to_try() -> None:
    error = NotFinite({"perceiver_loss": 20}, {"commitment": 20})
    losses = diagnosis(error, 57, "runs/x/checkpoints/step-00000030", bf16_by="--precision")
    assert isinstance(losses, TrainingError)
    for words in (
        "step 57",
        "perceiver_loss; among their parts: commitment",
        "step-00000030",
        "--precision float32",
        "--learning-rate",
    ):
        assert words in str(losses)
    gradients = str(diagnosis(NotFinite({"gradient of attention_loss": 20}), 57, None, bf16_by=None))
    for words in ("the losses were finite", "gradient of attention_loss", "no checkpoint was written"):
        assert words in gradients
    assert "--precision" not in gradients
