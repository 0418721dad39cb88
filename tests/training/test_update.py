"""One step: every part learns, and a step that is not finite changes nothing at all."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aime.config import TrainConfig, replace
from aime.data.store import EpisodeStore
from aime.errors import TrainingError
from aime.learning import discriminator_loss
from aime.lesson import rollout_length
from aime.reach import dynamics_parameters
from aime.rehearsal import rehearse_dynamics, rehearse_perception
from aime.training import muon
from aime.training.album import Album, watch_episode
from aime.training.trainer import Trainer
from aime.training.update import ADVERSARY, MATRICES, OBJECTIVES, Updater
from aime.transition import Transition
from tests.helpers import random_clip, small_model
from tests.training.conftest import small_settings

NAN = float("nan")


def batch(seed: int = 1) -> dict[str, Tensor]:
    observations, actions = random_clip(seed=seed)
    is_first = torch.zeros(observations.shape[:2], dtype=torch.bool)
    return {"observations": observations, "actions": actions, "is_first": is_first}


def updater(tmp_path: Path, **optimizer: Any) -> Updater:
    config = small_settings(tmp_path, tmp_path)
    config = replace(config, optimizer=replace(config.optimizer, **optimizer))
    return Updater(small_model().train(), config, "float32")


def everything(u: Updater) -> dict[str, Tensor]:
    """All that a step may change, copied."""
    state = {f"model/{name}": value for name, value in u.model.state_dict().items()}
    for kind, optimizer in u.optimizers.items():
        for number, (_, moments) in enumerate(optimizer.state.items()):
            state |= {f"{kind}/{number}/{key}": value for key, value in moments.items()}
    return {name: value.clone() for name, value in state.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    return [name for name in after if name not in before or not torch.equal(before[name], after[name])]


def test_a_step_without_an_adversary_trains_the_model_and_leaves_the_discriminator(tmp_path: Path) -> None:
    u = updater(tmp_path)
    u.config = replace(u.config, loss=replace(u.config.loss, adversary=False))
    before = everything(u)
    outcome = u.step(batch(), lr_factor=1.0, beta=1.0)
    moved = changed(before, everything(u))
    assert any(name.startswith("model/decoder.") for name in moved)
    assert not any("discriminator" in name for name in moved)
    assert ADVERSARY not in outcome.scalars and not bool(outcome.skipped)


def poison_loss(u: Updater, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    compute = u.model.compute_total_loss

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        losses, output = compute(*args, **kwargs)
        return losses | {name: losses[name] * NAN}, output

    monkeypatch.setattr(u.model, "compute_total_loss", poisoned)


def poison_frames(u: Updater, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with a pixel that is not a number, behind the check at the door."""
    from aime import world_model

    convert = world_model.to_unit_frames

    def poisoned(frames: Tensor) -> Tensor:
        frames = convert(frames).clone()
        frames[0, 0, 0, 0, 0] = NAN
        return frames

    monkeypatch.setattr(world_model, "to_unit_frames", poisoned)


def mask_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host does not look at the verdict, so that the update is masked rather than left out."""
    monkeypatch.setattr(Updater, "_knows", lambda self, bad: False)
    monkeypatch.setattr(muon, "_known", lambda bad: False)


def test_a_step_moves_every_part_of_the_model(tmp_path: Path) -> None:
    u = updater(tmp_path)
    before = {name: p.detach().clone() for name, p in u.model.named_parameters()}
    for seed in range(3):
        outcome = u.step(batch(seed), lr_factor=1.0, beta=1.0)
    assert not outcome.skipped and all(outcome.finite.values())
    assert {*OBJECTIVES, ADVERSARY, "gradient_norm"} <= outcome.scalars.keys()
    assert not any(value.requires_grad for value in outcome.scalars.values())
    still = [name for name, p in u.model.named_parameters() if torch.equal(p, before[name])]
    assert still == ["core.from_context.weight"], "the context is heard when perception rests"


def album(u: Updater, store_path: Path, split: str = "train") -> Album:
    """Of the episodes of a split, as the model sees them."""
    store = EpisodeStore.open(store_path)
    length = u.model.config.sequence_length
    made = Album(store, length, seed=0, trained_on=10**6, split=split)
    made.open(0, lambda episode: watch_episode(u.model, store, episode, length))
    return made


def test_while_perception_rests_dynamics_prior_and_decoder_learn_and_nothing_else_does(
    tmp_path: Path, ball_store: Path
) -> None:
    u = updater(tmp_path)
    before = everything(u)
    outcome = u.consolidate(album(u, ball_store), lr_factor=1.0, beta=1.0)
    assert not outcome.skipped and all(outcome.finite.values()) and outcome.balance is None
    assert {outcome.headline, "recon_nll", "rollout_nll", "dream_psnr"} <= outcome.scalars.keys()
    assert not any(value.requires_grad for value in outcome.scalars.values())
    moved = {name.split("/")[1].split(".")[0] for name in changed(before, everything(u)) if name.count("/") == 1}
    assert moved == {"core", "prior", "context_head", "decoder", "noise"}
    still = [n for n, p in u.model.decoder.named_parameters() if torch.equal(p, before[f"model/decoder.{n}"])]
    assert still == []


def test_at_rest_dynamics_alone_has_a_precision_of_its_own(
    tmp_path: Path, ball_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aime.training import update

    u = updater(tmp_path, consolidation_precision="bf16", rehearsals=1)
    pages = album(u, ball_store)
    bf16: dict[str, set[bool]] = {}

    def noted(name: str) -> Callable[..., Any]:
        rehearse = getattr(update, name)

        def noting(*args: Any) -> Any:
            bf16.setdefault(name, set()).add(torch.is_autocast_enabled("cpu"))
            return rehearse(*args)

        return noting

    for name in ("rehearse_dynamics", "rehearse_decoder"):
        monkeypatch.setattr(update, name, noted(name))
    outcome = u.consolidate(pages, album(u, ball_store, "validation"), lr_factor=1.0, beta=1.0)
    assert bf16 == {"rehearse_dynamics": {True}, "rehearse_decoder": {False}}
    assert not outcome.skipped and all(
        value.dtype == torch.float32 for value in everything(u).values() if value.is_floating_point()
    )
    bf16.clear()
    u.step(batch(), lr_factor=1.0, beta=1.0)
    assert bf16 == {"rehearse_dynamics": {False}}


def test_a_rehearsal_that_is_not_finite_changes_nothing(
    tmp_path: Path, ball_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aime.training import update

    u = updater(tmp_path, consolidation_rehearsals=1)
    pages = album(u, ball_store)
    u.consolidate(pages, lr_factor=1.0, beta=1.0)
    before = everything(u)
    monkeypatch.setattr(update, "rehearse_dynamics", lambda *args: rehearse_dynamics(*args) * NAN)
    outcome = u.consolidate(pages, lr_factor=1.0, beta=1.0)
    assert bool(outcome.skipped) and not outcome.finite[outcome.headline]
    assert changed(before, everything(u)) == []


def test_rollouts_are_of_several_lengths_where_perception_rests_and_whole_where_it_learns(
    tmp_path: Path, ball_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    u = updater(tmp_path, rehearsals=30, consolidation_rehearsals=30)
    pages = album(u, ball_store)
    watched = batch()
    u.step(watched, lr_factor=1.0, beta=1.0)
    conditions, lengths = Transition.conditions, set[int]()

    def noted(*args: Any) -> Tensor:
        lengths.add(args[-1])
        return conditions(*args)

    monkeypatch.setattr(Transition, "conditions", noted)
    u._rehearse(1.0, torch.tensor(False))
    assert lengths == {rollout_length(watched["actions"].shape[1], u.config.loss)}
    lengths.clear()
    u.consolidate(pages, lr_factor=1.0, beta=1.0)
    whole = rollout_length(u.model.config.sequence_length, u.config.loss)
    assert lengths == {whole, whole // 2, whole // 4, 0}, "0: the decoder learns from frames that were seen, too"
    assert whole // 4 > 0


def test_dynamics_learns_what_perception_that_rests_shows_it(tmp_path: Path, ball_store: Path) -> None:
    u = updater(tmp_path)
    pages = album(u, ball_store)
    losses = [u.consolidate(pages, lr_factor=1.0, beta=1.0).scalars["rehearsal_loss"].item() for _ in range(20)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_context_is_heard_at_rest_as_far_as_unseen_clips_ask_and_not_awake(
    tmp_path: Path, ball_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aime.training import update

    u = updater(tmp_path, dynamics_decay_step=0.3)
    pages, unseen, core = album(u, ball_store), album(u, ball_store, "validation"), u.model.core
    u.step(batch(), lr_factor=1.0, beta=1.0)
    assert not core.from_context.weight.any()
    u.consolidate(pages, unseen, lr_factor=1.0, beta=1.0)
    assert core.from_context.weight.any() and core.heed == 1, "before there was a map nothing was said of it"

    def lost_by_hearing(*args: Any) -> Tensor:
        return rehearse_dynamics(*args) * 0 + core.from_context.weight.square().sum()

    monkeypatch.setattr(update, "rehearse_dynamics", lost_by_hearing)
    logged = u.consolidate(pages, unseen, lr_factor=1.0, beta=1.0).scalars["context_heed"]
    assert float(core.heed) == float(logged) == pytest.approx(math.exp(-0.3))
    with u.average.in_place():
        assert math.exp(-0.3) < float(core.heed) < 1, "what is handed on is an average, as its map is"
    assert float(core.heed) == float(logged)
    monkeypatch.undo()
    u.step(batch(), lr_factor=1.0, beta=1.0)
    assert not core.from_context.weight.any() and core.heed == 1, "latents move again"


def lost_by(u: Updater, monkeypatch: pytest.MonkeyPatch, sign: float) -> None:
    """Unseen clips are foretold the better, the smaller (or the larger) the matrices of dynamics are."""
    from aime.training import update

    def loss(*args: Any) -> Tensor:
        return rehearse_dynamics(*args) * 0 + sign * sum(p.square().sum() for p in dynamics_parameters(u.model))

    monkeypatch.setattr(update, "rehearse_dynamics", loss)


@pytest.mark.parametrize(("sign", "factor"), [(1.0, math.exp(0.3)), (-1.0, math.exp(-0.3)), (NAN, 1.0)])
def test_weight_decay_of_dynamics_goes_where_unseen_clips_are_foretold_better(
    tmp_path: Path, ball_store: Path, monkeypatch: pytest.MonkeyPatch, sign: float, factor: float
) -> None:
    u = updater(tmp_path, consolidation_rehearsals=1, dynamics_decay_step=0.3)
    pages, unseen = album(u, ball_store), album(u, ball_store, "validation")
    first = float(u.decay.value)
    lost_by(u, monkeypatch, sign)
    outcome = u.consolidate(pages, unseen, lr_factor=1.0, beta=1.0)
    assert float(u.decay.value) == pytest.approx(first * factor)
    logged = outcome.scalars["dynamics_decay"].item()
    assert logged == pytest.approx(u.config.optimizer.dynamics_decay * factor), "as the setting counts it"
    assert "unseen_rehearsal_loss" in outcome.scalars and "unseen_rehearsal_loss" not in outcome.finite
    assert u.optimizers[MATRICES].param_groups[0]["weight_decay"] is u.decay.value
    monkeypatch.undo()
    u.step(batch(), lr_factor=1.0, beta=1.0)
    assert float(u.decay.value) == pytest.approx(first), "awake it is what it was set to"


def test_matrices_that_say_too_much_of_unseen_clips_decay_more_and_those_that_say_too_little_less(
    tmp_path: Path, ball_store: Path
) -> None:
    torch.manual_seed(0)
    u = updater(tmp_path, consolidation_rehearsals=4)
    pages, unseen = album(u, ball_store), album(u, ball_store, "validation")
    for _ in range(15):
        u.consolidate(pages, lr_factor=1.0, beta=1.0)
    moves = []
    for scale in (2.0, 0.25):  # twice and half of what they are
        first = float(u.decay.value)
        torch._foreach_mul_([p.data for p in u.optimizers[MATRICES].param_groups[0]["params"]], scale)
        for _ in range(5):
            u._follow_unseen(unseen, u.config.loss)
        moves.append(float(u.decay.value) / first)
    assert moves[0] > 1 > moves[1]


def test_the_learning_rate_is_scaled(tmp_path: Path) -> None:
    moves = []
    for factor in (1.0, 0.1):
        u = updater(tmp_path, weight_decay=0.0, rehearsals=0, second_looks=0)
        before = {name: p.detach().clone() for name, p in u.model.prior.named_parameters()}
        torch.manual_seed(0)
        u.step(batch(), lr_factor=factor, beta=1.0)
        moves.append(sum((p - before[name]).abs().sum().item() for name, p in u.model.prior.named_parameters()))
    # AdamW's first step is the learning rate times the gradient's sign, whatever the gradient's size.
    assert moves[1] / moves[0] == pytest.approx(0.1, rel=1e-2)


def test_every_parameter_has_one_optimizer_and_muon_has_the_matrices(tmp_path: Path) -> None:
    u = updater(tmp_path)
    owners: dict[int, list[str]] = {id(p): [] for p in u.model.parameters()}
    for name, optimizer in u.optimizers.items():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                owners[id(parameter)].append(name)
    for name, parameter in u.model.named_parameters():
        parts = ("encoder.", "posterior.", "decoder.", "core.", "prior.", "perceiver.")
        vectors = ("decoder.background", "perceiver.latents", "perceiver.context_query", ".rows", ".columns")
        turned = name.startswith(parts) and not name.endswith((*vectors, "core.from_context.weight"))
        expected = (
            "discriminator"
            if name.startswith("discriminator.")
            else ("matrices" if turned and parameter.ndim >= 2 else "model")
        )
        assert owners[id(parameter)] == [expected], name


def test_muons_rate_is_its_own(tmp_path: Path) -> None:
    """With none to speak of, its matrices stay where they are, and biases move."""
    u = updater(tmp_path, muon_learning_rate=1e-12, dynamics_decay=0.0)
    before = everything(u)
    u.step(batch(), lr_factor=1.0, beta=1.0)
    after = everything(u)
    moved = {name for name in changed(before, after) if name in before}
    moved = {name for name in moved if not torch.allclose(before[name], after[name], atol=1e-9)}
    assert not {"model/decoder.up.0.weight", "model/encoder.stem.weight", "model/core.lstm.weight_hh_l0"} & moved
    assert {"model/decoder.up.0.bias", "model/encoder.stem.bias", "model/core.lstm.bias_hh_l0"} <= moved


def test_biases_and_gains_do_not_decay(tmp_path: Path) -> None:
    for optimizer in updater(tmp_path, weight_decay=0.3, dynamics_decay=2.0).optimizers.values():
        for group in optimizer.param_groups:
            assert {p.ndim >= 2 for p in group["params"]} == {float(group["weight_decay"]) > 0}


def test_dynamics_and_prior_decay_by_themselves(tmp_path: Path) -> None:
    u = updater(tmp_path, weight_decay=0.3, dynamics_decay=2.0)
    decays = {id(p): g["weight_decay"] for o in u.optimizers.values() for g in o.param_groups for p in g["params"]}
    settings = u.config.optimizer
    shrinks = 2.0 * settings.learning_rate / settings.muon_learning_rate  # by Muon's rate what 2.0 is by AdamW's
    for name, parameter in u.model.named_parameters():
        if parameter.ndim >= 2:
            own = name.startswith(("core.", "prior.")) and name != "core.from_context.weight"
            assert decays[id(parameter)] == (shrinks if own else 0.3), name


# Frames that are not finite are not tried masked: the CPU's kernels are not made to differentiate what they lead to.
@pytest.mark.parametrize(
    ("where", "masked"),
    [
        ("frames", False),
        *((where, masked) for where in ("gradient", "perceiver_loss", ADVERSARY) for masked in (False, True)),
    ],
)
def test_a_step_that_is_not_finite_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, masked: bool
) -> None:
    u = updater(tmp_path, n_critic=2)
    for seed in range(5):  # by then every parameter has had a gradient, and so its optimizer a state
        u.step(batch(seed), lr_factor=1.0, beta=1.0)
    before = everything(u)
    with monkeypatch.context() as patch:
        if masked:
            mask_as_on_a_gpu(patch)
        hook = None
        if where == "frames":
            poison_frames(u, patch)
        elif where == "gradient":
            weight = next(u.model.decoder.parameters())
            hook = weight.register_hook(lambda gradient: gradient * NAN)
        else:
            poison_loss(u, patch, where)
        outcome = u.step(batch(1), lr_factor=1.0, beta=1.0)
        if hook is not None:
            hook.remove()
    assert outcome.skipped
    wrong = [name for name, fine in outcome.finite.items() if not fine]
    assert any(where.removesuffix("s") in name or where == "frames" for name in wrong), wrong
    assert changed(before, everything(u)) == []
    good = u.step(batch(2), lr_factor=1.0, beta=1.0)
    assert not good.skipped
    after = everything(u)
    assert changed(before, after) and all(value.isfinite().all() for value in after.values())


def test_a_masked_good_step_equals_an_unmasked_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, masked = updater(tmp_path, n_critic=2), updater(tmp_path, n_critic=2)
    torch.manual_seed(0)
    plain.step(batch(), lr_factor=1.0, beta=0.5)
    mask_as_on_a_gpu(monkeypatch)
    torch.manual_seed(0)
    masked.step(batch(), lr_factor=1.0, beta=0.5)
    assert changed(everything(plain), everything(masked)) == []


def test_further_critic_steps_move_the_discriminator_alone(tmp_path: Path) -> None:
    once, thrice = updater(tmp_path, n_critic=1), updater(tmp_path, n_critic=3)
    for u in (once, thrice):
        torch.manual_seed(0)
        u.step(batch(), lr_factor=1.0, beta=1.0)
    differ = changed(everything(once), everything(thrice))
    assert differ and all(name.startswith(("model/discriminator.", "discriminator/")) for name in differ)
    steps = {float(state["step"]) for state in thrice.optimizers["discriminator"].state.values()}
    assert steps == {3.0}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("right", "learns"), [((1.0, 0.65), False), ((1.0, 0.55), True)])
def test_a_critic_that_wins_waits_for_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: tuple[float, float], learns: bool, masked: bool
) -> None:
    """Above critic_limit it takes no step, whether the host knows that or not; the model does."""
    u = updater(tmp_path, critic_limit=0.8)
    compute = u.model.compute_total_loss

    def judged(*args: Any, **kwargs: Any) -> Any:
        losses, output = compute(*args, **kwargs)
        stats = dict(zip(("disc_real_accuracy", "disc_fake_accuracy"), map(torch.tensor, right), strict=True))
        return losses | stats, output

    monkeypatch.setattr(u.model, "compute_total_loss", judged)
    if masked:
        mask_as_on_a_gpu(monkeypatch)
    before = {name: p.detach().clone() for name, p in u.model.named_parameters()}
    outcome = u.step(batch(), lr_factor=1.0, beta=1.0)
    moved = changed(before, dict(u.model.named_parameters()))
    assert not outcome.skipped and any(name.startswith("decoder.") for name in moved)
    assert any(name.startswith("discriminator.") for name in moved) == learns


def test_further_critic_steps_end_where_it_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    u, found = updater(tmp_path, n_critic=5), iter([0.1, 0.9, 0.1])

    def judged(*args: Any) -> Any:
        loss, stats = discriminator_loss(*args)
        share = torch.tensor(next(found))
        return loss, stats | {"disc_real_accuracy": share, "disc_fake_accuracy": share}

    monkeypatch.setattr("aime.training.update.discriminator_loss", judged)
    u.step(batch(), lr_factor=1.0, beta=1.0)
    steps = {float(state["step"]) for state in u.optimizers["discriminator"].state.values()}
    assert steps == {2.0}  # the first one, and one further


def test_gradients_are_clipped_in_proportion_to_their_parameters(tmp_path: Path) -> None:
    u = updater(
        tmp_path,
        grad_clip=0.01,
        learning_rate=1e-12,
        muon_learning_rate=1e-12,
        discriminator_learning_rate=1e-12,
        rehearsals=0,
        second_looks=0,
    )
    outcome = u.step(batch(), lr_factor=1.0, beta=1.0)
    assert outcome.scalars["gradient_norm"] > 1, "it is reported as it was before"
    shares = {
        name: float(p.grad.norm() / p.detach().norm().clamp_min(1e-3))
        for name, p in u.model.named_parameters()
        if p.grad is not None
    }
    assert max(shares.values()) <= 0.01 * 1.001
    assert shares["decoder.up.3.weight"] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "learners"),
    [
        ({"second_looks": 0}, {"core", "prior", "context_head"}),
        ({"rehearsals": 0}, {"encoder", "posterior", "decoder"}),
    ],
)
def test_rehearsal_moves_what_it_is_for_alone_and_makes_it_better(
    tmp_path: Path, settings: dict[str, int], learners: set[str]
) -> None:
    u = updater(tmp_path, learning_rate=1e-3, rehearsal_clips=4, **settings)
    for seed in range(3):
        u.step(batch(seed), lr_factor=1.0, beta=1.0)
    clips, frames = u.memory.clips.draw(16), u.memory.frames.draw(16)

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            dynamics = rehearse_dynamics(u.model, clips, u.config.loss)
            return float(
                dynamics if "rehearsals" not in settings else rehearse_perception(u.model, frames, u.config.loss)
            )

    first, before = loss(), {name: p.detach().clone() for name, p in u.model.named_parameters()}
    for _ in range(10):
        u._rehearse(1.0, torch.tensor(False))
    assert loss() < first
    moved = {name.split(".")[0] for name, p in u.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == learners


def test_bf16_trains(tmp_path: Path) -> None:
    config = small_settings(tmp_path, tmp_path)
    u = Updater(small_model().train(), config, "bf16")
    outcome = u.step(batch(), lr_factor=1.0, beta=1.0)
    assert not outcome.skipped
    assert all(p.dtype == torch.float32 for p in u.model.parameters())


Settings = Callable[..., TrainConfig]


def test_a_poisoned_batch_is_skipped_and_counted_and_the_run_goes_on(settings: Settings) -> None:
    class Poisoned(Trainer):
        def advance(self, batch: dict[str, Tensor]) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                if self.step in (2, 3):
                    poison_frames(self.updater, patch)
                return super().advance(batch)

    trainer = Poisoned(settings(max_steps=5, log_every=5))
    trainer.draw = lambda: []  # type: ignore[method-assign]
    trainer.run()
    trainer.close()
    assert trainer.skipped.total == 2 and trainer.skipped.in_row == 0 and trainer.step == 5
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def test_too_many_bad_steps_in_a_row_stop_the_run_with_a_diagnosis(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aime.training.guard.MAX_SKIPPED", 4)  # test_guard.py counts to twenty

    class Poisoned(Trainer):
        def advance(self, batch: dict[str, Tensor]) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                if self.step >= 3:
                    poison_loss(self.updater, patch, "attention_loss")
                return super().advance(batch)

    trainer = Poisoned(settings(max_steps=100, checkpoint_every=3))
    with pytest.raises(TrainingError) as caught:
        trainer.run()
    trainer.close()
    assert trainer.step == 7
    for words in ("at step 7: 4 steps", "attention_loss", "good checkpoint is", "step-00000006", "--learning-rate"):
        assert words in str(caught.value)
    assert "among their parts" not in str(caught.value), "only the sum was poisoned"
    assert "perceiver_loss" not in str(caught.value) and "process" not in str(caught.value)
