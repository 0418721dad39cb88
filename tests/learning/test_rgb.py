"""RGB's properties, each against the equations in the full space or stated outright."""

import numpy as np
import pytest
import torch
from torch import Tensor

from aime.errors import AimeError
from aime.learning.rgb import PARALLEL, RGB, Rotation, rotate
from tests.learning import full_space


def vectors(seed: int, t: int = 4, n: int = 7) -> tuple[Tensor, Tensor]:
    """T gradients of different lengths and a unit consensus that has something to do with them."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(t, n, generator=generator, dtype=torch.float64)
    g *= torch.logspace(-2, 2, t, dtype=torch.float64)[:, None]
    d = torch.randn(n, generator=generator, dtype=torch.float64)
    d = d / d.norm() + (seed % 3) * torch.nn.functional.normalize(g, dim=1).mean(0)
    return g, d / d.norm()


def apply(g: Tensor, d: Tensor, **settings: object) -> tuple[Rotation, Tensor, Tensor]:
    """The rotation, the update and the new consensus."""
    rows = torch.cat([g, d[None]])
    rotation = rotate(rows @ rows.T, **settings)  # type: ignore[arg-type]
    return rotation, rotation.update @ rows, rotation.consensus @ rows


def rotated(g: Tensor, d: Tensor, **settings: object) -> tuple[Tensor, Tensor]:
    """The rotated unit gradients r_i, one by one through the objective weights, and the new consensus."""
    t = len(g)
    out = []
    for i in range(t):
        only = torch.zeros(t, dtype=torch.float64)
        only[i] = 1.0
        out.append(apply(g, d, objective_weights=only, **settings)[1] / g.norm(dim=1).mean())
    return torch.stack(out), apply(g, d, **settings)[2]


@pytest.mark.parametrize("lambd", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(6))
def test_reaches_the_minimiser_of_the_full_space_in_the_default_three_steps(seed: int, lambd: float) -> None:
    g, d = vectors(seed, t=2 + seed % 3)
    rotation, update, consensus = apply(g, d, lambd=lambd)
    truth = full_space.solve(g.numpy(), d.numpy(), lambd=lambd)
    r, _ = rotated(g, d, lambd=lambd)
    units = torch.nn.functional.normalize(g, dim=1).numpy()
    assert full_space.objective(r.numpy(), units, lambd) <= truth.objective + 1e-9
    np.testing.assert_allclose(consensus, truth.consensus, atol=1e-12)
    np.testing.assert_allclose(rotation.limits, truth.limits, atol=1e-9)
    np.testing.assert_allclose(rotation.angles, truth.angles, atol=1e-5)
    np.testing.assert_allclose(update, truth.update, rtol=1e-5, atol=1e-5 * np.linalg.norm(truth.update))


def test_no_point_of_a_dense_grid_is_better() -> None:
    for seed in range(8):
        g, d = vectors(seed, t=2, n=4)
        r, consensus = rotated(g, d)
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
        g, d = vectors(seed, t=2 + seed % 4, n=3 + seed % 5)
        for lambd in (0.01, 1.0):
            three, many = apply(g, d, lambd=lambd)[0], apply(g, d, lambd=lambd, alpha_steps=12)[0]
            torch.testing.assert_close(three.angles, many.angles, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_a_rotation_never_passes_the_consensus(seed: int) -> None:
    g, d = vectors(seed)
    r, consensus = rotated(g, d, lambd=0.05)
    u = torch.nn.functional.normalize(g, dim=1)

    def angle(a: Tensor, b: Tensor) -> Tensor:
        return torch.acos((a * b).sum(-1).clamp(-1, 1))

    torch.testing.assert_close(r.norm(dim=1), torch.ones(4, dtype=torch.float64))
    # r lies on the arc from ḡ to d: the two parts of the arc add up to the whole.
    torch.testing.assert_close(angle(u, r) + angle(r, consensus), angle(u, consensus), atol=1e-6, rtol=0)


def test_objectives_that_agree_are_left_alone() -> None:
    g = torch.randn(7, dtype=torch.float64) * torch.tensor([[1.0], [0.1], [5.0]], dtype=torch.float64)
    d = torch.zeros(7, dtype=torch.float64)
    for _ in range(3):  # the first step has no consensus, the later ones have
        rotation, update, d = apply(g, d)
        assert rotation.angles.tolist() == [0.0, 0.0, 0.0]
        torch.testing.assert_close(update, 3 * g[0] / g[0].norm() * g.norm(dim=1).mean())


def test_the_order_of_the_objectives_does_not_matter() -> None:
    for seed in range(6):
        g, d = vectors(seed)
        order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
        rotation, update, consensus = apply(g, d)
        shuffled, same_update, same_consensus = apply(g[order], d)
        torch.testing.assert_close(shuffled.angles, rotation.angles[order], atol=1e-7, rtol=0)
        torch.testing.assert_close(same_update, update, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(same_consensus, consensus)


def test_scaling_one_gradient_changes_nothing_but_the_mean_norm() -> None:
    g, d = vectors(3)
    rotation, update, consensus = apply(g, d)
    bigger = g.clone()
    bigger[1] *= 1000.0
    again, update_again, consensus_again = apply(bigger, d)
    torch.testing.assert_close(again.angles, rotation.angles, atol=1e-7, rtol=0)
    torch.testing.assert_close(consensus_again, consensus)
    growth = bigger.norm(dim=1).mean() / g.norm(dim=1).mean()
    torch.testing.assert_close(update_again, growth * update, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_zero_or_non_finite_gradient_has_no_say(bad: float) -> None:
    g, _ = vectors(1)
    silent = torch.cat([g[:2], torch.full_like(g[:1], bad), g[2:]])
    aggregator, without = RGB(), RGB()
    for _ in range(2):
        torch.testing.assert_close(aggregator(silent), without(g), rtol=1e-9, atol=1e-9)
    assert aggregator.consensus is not None
    torch.testing.assert_close(aggregator.consensus, without.consensus)


def test_nothing_but_silence_leaves_the_consensus_alone() -> None:
    aggregator = RGB()
    aggregator(torch.randn(3, 5))
    before = aggregator.consensus
    assert aggregator(torch.zeros(3, 5)).tolist() == [0.0] * 5
    assert aggregator(torch.full((3, 5), float("nan"))).tolist() == [0.0] * 5
    torch.testing.assert_close(aggregator.consensus, before)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_parallel_and_antiparallel_to_the_consensus_stay_where_they_are(sign: float) -> None:
    d = torch.nn.functional.normalize(torch.randn(6, dtype=torch.float64), dim=0)
    for tilt in (0.0, 1e-9, PARALLEL / 10):
        along = sign * d + tilt * torch.nn.functional.normalize(torch.randn(6, dtype=torch.float64), dim=0)
        rotation, update, consensus = apply(2 * along[None], d, mu=0.99)
        assert rotation.angles.tolist() == [0.0]
        torch.testing.assert_close(update, 2 * along)
        assert torch.isfinite(consensus).all() and abs(consensus.norm() - 1) < 1e-9


def test_opposed_gradients_cancel_without_a_consensus_and_turn_with_one() -> None:
    g = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    _, update, consensus = apply(g, torch.zeros(2, dtype=torch.float64))
    assert update.tolist() == [0.0, 0.0] and consensus.tolist() == [0.0, 0.0]
    rotation, update, consensus = apply(g, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert (rotation.angles > 0.1).all()
    torch.testing.assert_close(consensus, torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(torch.nn.functional.normalize(update, dim=0), consensus)


def test_one_objective_alone_is_its_own_update() -> None:
    g, d = vectors(0, t=1)
    rotation, update, _ = apply(g, d)
    assert rotation.angles.tolist() == [0.0]
    torch.testing.assert_close(update, g[0])


def test_the_proximity_weight_holds_gradients_to_their_own_direction() -> None:
    g, d = vectors(2)
    totals = [float(apply(g, d, lambd=lambd)[0].angles.sum()) for lambd in (0.0, 0.3, 1.0, 3.0, 30.0, 1e6)]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < 1e-5 < totals[0]


def test_objective_weights_scale_what_was_rotated() -> None:
    g, d = vectors(4)
    weights = torch.tensor([2.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    r, _ = rotated(g, d)
    rotation, update, consensus = apply(g, d, objective_weights=weights)
    torch.testing.assert_close(update, (weights[:, None] * r).sum(0) * g.norm(dim=1).mean())
    unweighted, _, same = apply(g, d)
    torch.testing.assert_close(rotation.angles, unweighted.angles)
    torch.testing.assert_close(consensus, same)


def test_momentum_of_the_consensus() -> None:
    g, d = vectors(5)
    mean = torch.nn.functional.normalize(g, dim=1).mean(0)
    for mu in (0.0, 0.5, 0.99):
        _, _, consensus = apply(g, 7.0 * d, mu=mu)  # its length does not count
        torch.testing.assert_close(consensus, torch.nn.functional.normalize(mu * d + (1 - mu) * mean, dim=0))


class TestAggregator:
    """The same as a `torchjd` aggregator."""

    def test_follows_the_equations_over_several_steps(self) -> None:
        aggregator = RGB(mu=0.7, lambd=0.5, objective_weights=(1.0, 2.0, 0.5))
        d = np.zeros(8)
        for seed in range(4):
            g = vectors(seed, t=3, n=8)[0]
            truth = full_space.solve(g.numpy(), d, mu=0.7, lambd=0.5, weights=np.array([1.0, 2.0, 0.5]))
            d = truth.consensus
            np.testing.assert_allclose(aggregator(g), truth.update, atol=1e-5 * np.linalg.norm(truth.update))

    def test_resumes_to_the_bit(self) -> None:
        first, second = RGB(), RGB()
        for seed in range(3):
            first(vectors(seed)[0].float())
        second.load_state_dict(first.state_dict())
        g = vectors(9)[0].float()
        assert torch.equal(first(g), second(g))
        second.reset()
        assert not torch.equal(first(g), second(g))

    def test_refuses_what_does_not_fit_in_words(self) -> None:
        aggregator = RGB()
        aggregator(torch.randn(2, 5))
        with pytest.raises(AimeError, match="over 5 parameters but was given gradients of 6"):
            aggregator(torch.randn(2, 6))
        with pytest.raises(AimeError, match="2 objective_weights for 3"):
            RGB(objective_weights=(1.0, 1.0))(torch.randn(3, 5))
        with pytest.raises(AimeError, match="mu=1"):
            RGB(mu=1.0)
        with pytest.raises(ValueError, match="dimension 2"):  # torchjd's own check
            aggregator(torch.randn(5))
