"""RGB's properties, each against the equations in the full space or stated outright."""

import numpy as np
import pytest
import torch
from torch import Tensor

from aime.errors import AimeError
from aime.learning.rgb import PARALLEL, RGB, Rotation, rotate
from tests.learning import full_space


def vectors(seed: int, t: int = 4, n: int = 7) -> Tensor:
    """T gradients of different lengths, which agree more in some seeds than in others."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(t, n, generator=generator, dtype=torch.float64)
    g = g + (seed % 3) * torch.randn(n, generator=generator, dtype=torch.float64) / 2
    return g * torch.logspace(-2, 2, t, dtype=torch.float64)[:, None]


def apply(g: Tensor, remembered: Tensor | None = None, **settings: object) -> tuple[Rotation, Tensor]:
    """The rotation and the update."""
    rotation = rotate(g @ g.T, remembered, **settings)  # type: ignore[arg-type]
    return rotation, rotation.update @ g


def rotated(g: Tensor, remembered: Tensor | None = None, **settings: object) -> Tensor:
    """The rotated unit gradients r_i, one by one through the objective weights."""
    one_by_one = torch.eye(len(g), dtype=torch.float64)
    updates = [apply(g, remembered, objective_weights=only, **settings)[1] for only in one_by_one]
    return torch.stack(updates) / g.norm(dim=1).mean()


def cosines_of(g: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(g, dim=1)
    return unit @ unit.T


def consensus_of(g: Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.nn.functional.normalize(g, dim=1).mean(0), dim=0)


@pytest.mark.parametrize("lambd", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(6))
def test_reaches_the_minimiser_of_the_full_space_in_the_default_three_steps(seed: int, lambd: float) -> None:
    g = vectors(seed, t=2 + seed % 3)
    rotation, update = apply(g, lambd=lambd)
    truth = full_space.solve(g.numpy(), lambd=lambd)
    r = rotated(g, lambd=lambd)
    units = torch.nn.functional.normalize(g, dim=1).numpy()
    assert full_space.objective(r.numpy(), units, lambd) <= truth.objective + 1e-9
    np.testing.assert_allclose(rotation.limits, truth.limits, atol=1e-9)
    np.testing.assert_allclose(rotation.angles, truth.angles, atol=1e-5)
    np.testing.assert_allclose(update, truth.update, rtol=1e-5, atol=1e-5 * np.linalg.norm(truth.update))


def test_no_point_of_a_dense_grid_is_better() -> None:
    for seed in range(8):
        g = vectors(seed, t=2, n=4)
        r, consensus = rotated(g), consensus_of(g)
        u = torch.nn.functional.normalize(g, dim=1)
        w = torch.nn.functional.normalize(consensus - (u @ consensus)[:, None] * u, dim=1)
        limits = torch.acos(u @ consensus)
        share = torch.linspace(0, 1, 401, dtype=torch.float64)
        a, b = torch.meshgrid(share * limits[0], share * limits[1], indexing="ij")
        first = a.cos()[..., None] * u[0] + a.sin()[..., None] * w[0]
        second = b.cos()[..., None] * u[1] + b.sin()[..., None] * w[1]
        grid = (1 - (first * second).sum(-1)) / 2
        grid += ((first - u[0]).square().sum(-1) + (second - u[1]).square().sum(-1)) / 8
        ours = full_space.objective(r.numpy(), u.numpy(), lambd=1.0)
        assert ours <= grid.min() + 1e-9
        assert ours >= grid.min() - 1e-3, "the grid contains points this close to the minimiser"


def test_more_rounds_of_the_solver_find_nothing_better() -> None:
    for seed in range(16):
        g = vectors(seed, t=2 + seed % 4, n=3 + seed % 5)
        for lambd in (0.01, 1.0):
            three, many = apply(g, lambd=lambd)[0], apply(g, lambd=lambd, alpha_steps=12)[0]
            torch.testing.assert_close(three.angles, many.angles, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("memory", [False, True])
def test_a_rotation_never_passes_the_consensus(seed: int, memory: bool) -> None:
    """Whatever the remembered cosines would have it do."""
    g = vectors(seed)
    remembered = cosines_of(vectors(seed + 100)) if memory else None
    r, consensus = rotated(g, remembered, lambd=0.05), consensus_of(g)
    u = torch.nn.functional.normalize(g, dim=1)

    def angle(a: Tensor, b: Tensor) -> Tensor:
        return torch.acos((a * b).sum(-1).clamp(-1, 1))

    torch.testing.assert_close(r.norm(dim=1), torch.ones(4, dtype=torch.float64))
    # r lies on the arc from ḡ to d: the two parts of the arc add up to the whole.
    torch.testing.assert_close(angle(u, r) + angle(r, consensus), angle(u, consensus), atol=1e-6, rtol=0)


def test_objectives_that_agree_are_left_alone() -> None:
    g = torch.randn(7, dtype=torch.float64) * torch.tensor([[1.0], [0.1], [5.0]], dtype=torch.float64)
    remembered = None
    for _ in range(3):  # the first step remembers nothing, the later ones do
        rotation, update = apply(g, remembered)
        remembered = rotation.cosines
        assert rotation.angles.tolist() == [0.0, 0.0, 0.0]
        torch.testing.assert_close(update, 3 * g[0] / g[0].norm() * g.norm(dim=1).mean())
    # … and even where they disagreed until now.
    assert apply(g, cosines_of(vectors(1, t=3)))[0].angles.tolist() == [0.0, 0.0, 0.0]


def test_the_order_of_the_objectives_does_not_matter() -> None:
    for seed in range(6):
        g, remembered = vectors(seed), cosines_of(vectors(seed + 50))
        order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
        rotation, update = apply(g, remembered)
        shuffled, same_update = apply(g[order], remembered[order][:, order])
        torch.testing.assert_close(shuffled.angles, rotation.angles[order], atol=1e-7, rtol=0)
        torch.testing.assert_close(same_update, update, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(shuffled.cosines, rotation.cosines[order][:, order])


def test_scaling_one_gradient_changes_nothing_but_the_mean_norm() -> None:
    g = vectors(3)
    rotation, update = apply(g)
    bigger = g.clone()
    bigger[1] *= 1000.0
    again, update_again = apply(bigger)
    torch.testing.assert_close(again.angles, rotation.angles, atol=1e-7, rtol=0)
    torch.testing.assert_close(again.cosines, rotation.cosines)
    growth = bigger.norm(dim=1).mean() / g.norm(dim=1).mean()
    torch.testing.assert_close(update_again, growth * update, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_zero_or_non_finite_gradient_has_no_say(bad: float) -> None:
    aggregator, without = RGB(), RGB()
    for seed in range(3):
        g = vectors(seed)
        silent = torch.cat([g[:2], torch.full_like(g[:1], bad), g[2:]])
        torch.testing.assert_close(aggregator(silent), without(g), rtol=1e-9, atol=1e-9)
    assert aggregator.cosines is not None and without.cosines is not None
    heard = [0, 1, 3, 4]
    torch.testing.assert_close(aggregator.cosines[heard][:, heard], without.cosines)
    assert not aggregator.cosines[2].any()


def test_what_is_remembered_waits_while_an_objective_is_silent() -> None:
    aggregator = RGB()
    aggregator(torch.randn(3, 5))
    before = aggregator.cosines
    assert aggregator(torch.zeros(3, 5)).tolist() == [0.0] * 5
    assert aggregator(torch.full((3, 5), float("nan"))).tolist() == [0.0] * 5
    torch.testing.assert_close(aggregator.cosines, before)
    without_the_last = torch.randn(3, 5)
    without_the_last[2] = 0.0
    aggregator(without_the_last)
    assert before is not None and aggregator.cosines is not None
    torch.testing.assert_close(aggregator.cosines[2], before[2])
    assert aggregator.cosines[0, 1] != before[0, 1]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_parallel_and_antiparallel_to_the_consensus_stay_where_they_are(sign: float) -> None:
    way = torch.nn.functional.normalize(torch.randn(6, dtype=torch.float64), dim=0)
    remembered = cosines_of(vectors(2, t=3))
    for tilt in (0.0, 1e-9, PARALLEL / 10):
        along = sign * way + tilt * torch.nn.functional.normalize(torch.randn(6, dtype=torch.float64), dim=0)
        rotation, update = apply(torch.stack([2 * along, 2 * way, 2 * way]), remembered)
        assert rotation.angles.tolist() == [0.0] * 3
        torch.testing.assert_close(update, 2 * (along + 2 * way), atol=1e-3, rtol=0)


def test_opposed_gradients_cancel() -> None:
    g = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    for remembered in (None, torch.eye(2, dtype=torch.float64)):
        rotation, update = apply(g, remembered)
        assert update.tolist() == [0.0, 0.0] and rotation.angles.tolist() == [0.0, 0.0]


def test_one_objective_alone_is_its_own_update_whatever_came_before() -> None:
    """No step is taken in the direction of a gradient of the past."""
    aggregator = RGB()
    for seed in range(5):
        g = vectors(seed, t=1)
        torch.testing.assert_close(aggregator(g), g[0])


def test_the_update_lies_in_the_span_of_the_present_gradients() -> None:
    aggregator = RGB()
    for seed in range(5):
        g = vectors(seed, t=3, n=9)
        update = aggregator(g)
        inside = torch.linalg.lstsq(g.T, update[:, None]).solution
        torch.testing.assert_close((g.T @ inside)[:, 0], update, rtol=1e-6, atol=1e-6)


def test_the_proximity_weight_holds_gradients_to_their_own_direction() -> None:
    g = vectors(2)
    totals = [float(apply(g, lambd=lambd)[0].angles.sum()) for lambd in (0.0, 0.3, 1.0, 3.0, 30.0, 1e6)]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < 1e-5 < totals[0]


def test_objective_weights_scale_what_was_rotated() -> None:
    g = vectors(4)
    weights = torch.tensor([2.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    r = rotated(g)
    rotation, update = apply(g, objective_weights=weights)
    torch.testing.assert_close(update, (weights[:, None] * r).sum(0) * g.norm(dim=1).mean())
    torch.testing.assert_close(rotation.angles, apply(g)[0].angles)


def test_a_voice_of_zero_leaves_the_consensus_to_the_others() -> None:
    g = vectors(5)
    voices = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    limits = apply(g, consensus_weights=voices)[0].limits
    units, consensus = torch.nn.functional.normalize(g, dim=1), consensus_of(g[:3])
    torch.testing.assert_close(limits, torch.acos(units @ consensus))


@pytest.mark.parametrize("seed", range(4))
def test_the_angles_are_those_of_the_remembered_geometry(seed: int) -> None:
    """Gradients that stand to each other as remembered are found with Cholesky; the equations solve for those."""
    g, past = vectors(seed), cosines_of(vectors(seed + 20))
    rotation, _ = apply(g, past, mu=0.9)
    cosines = 0.9 * past + 0.1 * cosines_of(g)
    torch.testing.assert_close(rotation.cosines, cosines)
    truth = full_space.solve(torch.linalg.cholesky(cosines).numpy())
    allowed = np.minimum(truth.angles, rotation.limits.numpy())
    np.testing.assert_allclose(rotation.angles.numpy(), allowed, atol=1e-5)


class TestAggregator:
    """The same as a `torchjd` aggregator."""

    def test_follows_the_equations_over_several_steps(self) -> None:
        aggregator = RGB(mu=0.0, lambd=0.5, objective_weights=(1.0, 2.0, 0.5))
        for seed in range(4):
            g = vectors(seed, t=3, n=8)
            truth = full_space.solve(g.numpy(), lambd=0.5, weights=np.array([1.0, 2.0, 0.5]))
            np.testing.assert_allclose(aggregator(g), truth.update, atol=1e-5 * np.linalg.norm(truth.update))

    def test_resumes_to_the_bit(self) -> None:
        first, second = RGB(), RGB()
        for seed in range(3):
            first(vectors(seed).float())
        second.load_state_dict(first.state_dict())
        g = vectors(9).float()
        assert torch.equal(first(g), second(g))
        second.reset()
        assert not torch.equal(first(g), second(g))

    def test_refuses_what_does_not_fit_in_words(self) -> None:
        aggregator = RGB()
        aggregator(torch.randn(2, 5))
        with pytest.raises(AimeError, match="remembers 2 objectives but was given gradients of 3"):
            aggregator(torch.randn(3, 5))
        with pytest.raises(AimeError, match="2 objective_weights for 3"):
            RGB(objective_weights=(1.0, 1.0))(torch.randn(3, 5))
        with pytest.raises(AimeError, match="mu=1"):
            RGB(mu=1.0)
        with pytest.raises(ValueError, match="dimension 2"):  # torchjd's own check
            aggregator(torch.randn(5))
