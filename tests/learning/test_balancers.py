"""The balancer of a model's gradients: RGB against whole vectors, its rivals against torchjd on the whole Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchjd.aggregation import AlignedMTL, CAGrad, ConFIG, Mean, PCGrad, Sum

from aime.config import BalancerConfig
from aime.errors import AimeError
from aime.learning import rows
from aime.learning.aggregators import CAGRAD_RADIUS, ExactProjector
from aime.learning.balancers import GradientBalancer
from tests.learning import full_space

NAMES = ("total_vae_loss", "perceiver_loss", "attention_loss", "adversarial_loss")
needs_cagrad = pytest.mark.skipif(
    find_spec("cvxpy") is None or find_spec("clarabel") is None, reason="cagrad's solver is not installed"
)
EQUAL = (1.0, 1.0, 1.0, 1.0)
RIVALS = ["mean", "sum", "upgrad", "pcgrad", pytest.param("cagrad", marks=needs_cagrad), "config", "alignedmtl"]


class Net(nn.Module):
    """A trunk that all four objectives move, a decoder that two move, and a head of the second objective's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(6, 11), nn.Tanh(), nn.Linear(11, 5), nn.Tanh())
        self.decoder = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 6))
        self.head = nn.Linear(5, 3)
        self.idle = nn.Linear(2, 2)

    def losses(self, seed: int) -> dict[str, Tensor]:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
        hidden = self.trunk(x)
        made = self.decoder(hidden)
        return {
            "total_vae_loss": 100 * (made - x).square().mean(),
            "perceiver_loss": nn.functional.cross_entropy(self.head(hidden), torch.arange(8) % 3),
            "attention_loss": 0.01 * hidden.mean(),
            "adversarial_loss": -(made * x.flip(0)).sum().tanh(),
        }

    def reach(self) -> dict[str, list[nn.Parameter]]:
        trunk, decoder, head = ([*m.parameters()] for m in (self.trunk, self.decoder, self.head))
        return {
            "total_vae_loss": trunk + decoder,
            "perceiver_loss": trunk + head,
            "attention_loss": [*trunk, *self.idle.parameters()],
            "adversarial_loss": trunk + decoder,
        }

    def shared(self) -> list[nn.Parameter]:
        return [*self.trunk.parameters(), *self.decoder.parameters()]


def jacobian(losses: dict[str, Tensor], parameters: list[nn.Parameter]) -> Tensor:
    """(T, n) float64, by plain differentiation."""
    out = []
    for loss in losses.values():
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        out.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(out).double()


def flat_grad(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).double()


@pytest.fixture(params=["joined", "apart", "chunked", "as on an accelerator"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same mathematics whether small parameters are joined, kept apart, or cut into chunks.

    And whether the coefficients are plain numbers, or tensors that the host does not read.
    """
    if request.param != "joined":
        monkeypatch.setattr(rows, "JOIN_BELOW", 0)
    if request.param == "chunked":
        monkeypatch.setattr(rows, "CHUNK_PER_THREAD", 7)
    if request.param == "as on an accelerator":
        monkeypatch.setattr(rows, "coefficients", lambda weights: list(weights.float()))


@pytest.mark.usefixtures("storage")
def test_rgb_equals_the_equations_on_whole_vectors() -> None:
    net = Net()
    weights = (1.0, 0.5, 1.0, 2.0)
    balancer = GradientBalancer(net.reach(), BalancerConfig(mu=0.0, lambd=0.5, objective_weights=weights))
    for step in range(4):
        losses = net.losses(step)
        g = jacobian(losses, net.shared())
        say = np.array(weights)
        truth = full_space.solve(g.numpy(), lambd=0.5, weights=say, voices=say)
        report = balancer.backward(losses)
        np.testing.assert_allclose(flat_grad(net.shared()), truth.update, atol=2e-5 * np.linalg.norm(truth.update))
        np.testing.assert_allclose(report.rotations, truth.angles, atol=1e-4)
        np.testing.assert_allclose(report.limits, truth.limits, atol=1e-4)


def test_what_is_remembered_is_how_the_objectives_stand_to_each_other() -> None:
    net = Net()
    balancer = GradientBalancer(net.reach(), BalancerConfig(mu=0.7))
    remembered = None
    for step in range(3):
        losses = net.losses(step)
        units = torch.nn.functional.normalize(jacobian(losses, net.shared()), dim=1)
        now = units @ units.T
        remembered = now if remembered is None else 0.7 * remembered + 0.3 * now
        balancer.backward(losses)
        torch.testing.assert_close(balancer.state_dict()["cosines"], remembered, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("storage")
def test_a_parameter_that_one_objective_reaches_takes_its_gradient_as_it_is() -> None:
    net = Net()
    for name, weight in (("rgb", 1.0), ("rgb", 0.25), ("upgrad", 1.0), ("mean", 3.0)):
        balancer = GradientBalancer(
            net.reach(), BalancerConfig(balancer=name, objective_weights=(1.0, weight, 1.0, 1.0))
        )
        losses = net.losses(0)
        expected = torch.autograd.grad(losses["perceiver_loss"], [*net.head.parameters()], retain_graph=True)
        balancer.backward(losses)
        for parameter, gradient in zip(net.head.parameters(), expected, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, weight * gradient)


def test_a_parameter_that_nothing_reached_has_no_gradient() -> None:
    net = Net()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    GradientBalancer(net.reach(), BalancerConfig()).backward(net.losses(0))
    assert all(p.grad is None for p in net.idle.parameters())
    assert all(p.grad is not None for p in [*net.shared(), *net.head.parameters()])


def test_gradients_are_overwritten_not_accumulated() -> None:
    net = Net()
    balancer = GradientBalancer(net.reach(), BalancerConfig(balancer="sum"))
    balancer.backward(net.losses(0))
    once = flat_grad(net.shared())
    balancer.backward(net.losses(0))
    assert torch.equal(flat_grad(net.shared()), once)


def test_sum_is_the_gradient_of_the_summed_loss() -> None:
    net = Net()
    torch.stack(list(net.losses(3).values())).sum().backward()
    expected = flat_grad([*net.shared(), *net.head.parameters()])
    GradientBalancer(net.reach(), BalancerConfig(balancer="sum", objective_weights=EQUAL)).backward(net.losses(3))
    torch.testing.assert_close(flat_grad([*net.shared(), *net.head.parameters()]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize("how", ["absent", "constant", "zero", "nan"])
def test_an_objective_without_a_gradient_has_no_say(how: str) -> None:
    net, other = Net(), Net()
    first = GradientBalancer(net.reach(), BalancerConfig())
    second = GradientBalancer({n: p for n, p in other.reach().items() if n != "adversarial_loss"}, BalancerConfig())
    for step in range(3):
        losses, fewer = net.losses(step), other.losses(step)
        del fewer["adversarial_loss"]
        if how == "absent":
            del losses["adversarial_loss"]
        elif how == "constant":
            losses["adversarial_loss"] = torch.tensor(0.0)
        else:
            losses["adversarial_loss"] = losses["adversarial_loss"] * (0.0 if how == "zero" else float("nan"))
        report, _ = first.backward(losses), second.backward(fewer)
        assert report.active.tolist() == [True, True, True, False]
        trunk = [*net.trunk.parameters()], [*other.trunk.parameters()]
        if how in ("absent", "constant"):  # the decoder is the ELBO's own now, in both
            trunk = [*net.parameters()], [*other.parameters()]
            torch.testing.assert_close(flat_grad(trunk[0]), flat_grad(trunk[1]), rtol=1e-4, atol=1e-5)
        assert torch.isfinite(flat_grad([*net.parameters()])).all()
    assert torch.isfinite(first.state_dict()["cosines"]).all()


@pytest.mark.usefixtures("storage")
def test_an_objective_that_is_not_finite_where_it_is_alone_is_silent_everywhere() -> None:
    net = Net()
    balancer = GradientBalancer(net.reach(), BalancerConfig())
    losses = net.losses(0)
    losses["perceiver_loss"] = losses["perceiver_loss"] + net.head.weight.sum() * float("inf")
    report = balancer.backward(losses)
    assert report.active.tolist() == [True, False, True, True]
    assert not torch.isfinite(report.norms[1])
    assert float(report.weights[1]) == 0.0
    assert all(not p.grad.any() for p in net.head.parameters() if p.grad is not None)
    assert torch.isfinite(flat_grad([*net.parameters()])).all()


def test_what_is_remembered_of_an_absent_objective_waits() -> None:
    net = Net()
    balancer = GradientBalancer(net.reach(), BalancerConfig())
    for step in range(2):
        balancer.backward(net.losses(step))
    before = balancer.state_dict()["cosines"]
    losses = net.losses(2)
    del losses["adversarial_loss"]
    balancer.backward(losses)
    after = balancer.state_dict()["cosines"]
    assert torch.equal(after[3], before[3]) and not torch.equal(after[:3, :3], before[:3, :3])


def test_state_resumes_to_the_bit() -> None:
    net = Net()
    first, second = (GradientBalancer(net.reach(), BalancerConfig()) for _ in range(2))
    for step in range(3):
        first.backward(net.losses(step))
    state = first.state_dict()
    assert set(state) == {"cosines", "step", "angles"} and int(state["step"]) == 3
    second.load_state_dict(state)
    first.backward(net.losses(7))
    expected = [p.grad.clone() for p in net.shared() if p.grad is not None]
    second.backward(net.losses(7))
    assert all(torch.equal(a, p.grad) for a, p in zip(expected, net.shared(), strict=True) if p.grad is not None)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_state_of_another_model_is_refused_in_words() -> None:
    balancer = GradientBalancer(Net().reach(), BalancerConfig())
    state = balancer.state_dict()
    with pytest.raises(AimeError, match="remembers 3 objectives, but this model has 4"):
        balancer.load_state_dict(state | {"cosines": torch.zeros(3, 3)})
    with pytest.raises(AimeError, match="lacks step"):
        balancer.load_state_dict({k: v for k, v in state.items() if k != "step"})


@pytest.mark.parametrize("name", ["rgb", *RIVALS])
def test_two_objectives_that_agree_give_a_positive_multiple(name: str) -> None:
    parameter = nn.Parameter(torch.randn(40))
    target = torch.randn(40)
    balancer = GradientBalancer({"a": [parameter], "b": [parameter]}, BalancerConfig(balancer=name))
    for _ in range(2):
        loss = (parameter * target).sum()
        report = balancer.backward({"a": loss, "b": 3 * loss})
        assert parameter.grad is not None
        ratio = parameter.grad / target
        torch.testing.assert_close(ratio, ratio[:1].expand(40), rtol=1e-4, atol=0)
        assert ratio[0] > 0.1
        torch.testing.assert_close(report.cosines, torch.ones(2, 2, dtype=torch.float64))
        assert report.angles.max() < 2e-3 and int(report.conflicts) == 0


@pytest.mark.parametrize("name", ["rgb", *RIVALS])
def test_every_balancer_gives_the_same_diagnostics(name: str) -> None:
    net = Net()
    losses = net.losses(1)
    g = jacobian(losses, net.shared())
    unit = nn.functional.normalize(g, dim=1)
    everything = jacobian(losses, [*net.shared(), *net.head.parameters()])
    report = GradientBalancer(net.reach(), BalancerConfig(balancer=name)).backward(losses)
    update = nn.functional.normalize(flat_grad(net.shared()), dim=0)
    torch.testing.assert_close(report.norms, everything.norm(dim=1), rtol=1e-5, atol=0)
    torch.testing.assert_close(report.shared_norms, g.norm(dim=1), rtol=1e-5, atol=0)
    torch.testing.assert_close(report.cosines, unit @ unit.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(report.angles, torch.acos(unit @ update), rtol=0, atol=1e-3)
    assert int(report.conflicts) == int(((unit @ unit.T).triu(1) < 0).sum())
    metrics = report.as_metrics()
    assert all(isinstance(value, float) for value in metrics.values())
    assert metrics["gradient/norm/total_vae_loss"] == pytest.approx(float(everything[0].norm()), rel=1e-5)
    assert metrics["gradient/cosine/total_vae_loss/attention_loss"] == pytest.approx(float(report.cosines[0, 2]))


@pytest.mark.parametrize(
    ("name", "aggregator"),
    [
        ("mean", Mean),
        ("sum", Sum),
        ("pcgrad", PCGrad),
        ("config", ConFIG),
        ("alignedmtl", AlignedMTL),
        pytest.param("cagrad", lambda: CAGrad(c=CAGRAD_RADIUS), marks=needs_cagrad),
    ],
)
def test_rivals_equal_torchjd_on_the_whole_jacobian(name: str, aggregator: Callable[[], nn.Module]) -> None:
    net = Net()
    balancer = GradientBalancer(net.reach(), BalancerConfig(balancer=name, objective_weights=EQUAL))  # type: ignore
    for step in range(3):
        losses = net.losses(step)
        g = jacobian(losses, net.shared())
        torch.manual_seed(step)  # pcgrad draws an order
        expected = aggregator()(g)
        torch.manual_seed(step)
        balancer.backward(losses)
        torch.testing.assert_close(flat_grad(net.shared()), expected, rtol=1e-3, atol=1e-4 * float(expected.norm()))


def test_upgrad_conflicts_with_no_objective() -> None:
    net = Net()
    balancer = GradientBalancer(net.reach(), BalancerConfig(balancer="upgrad"))
    for step in range(4):
        losses = net.losses(step)
        g = jacobian(losses, net.shared())
        report = balancer.backward(losses)
        update = flat_grad(net.shared())
        assert (g @ update >= -1e-5 * g.norm(dim=1) * update.norm()).all()
    assert int(report.conflicts) > 0, "with nothing in conflict this test shows nothing"


def test_the_projector_satisfies_the_conditions_of_optimality() -> None:
    torch.manual_seed(0)
    for rank in (1, 2, 4):
        j = torch.randn(4, rank, dtype=torch.float64) @ torch.randn(rank, 9, dtype=torch.float64)
        gram, u = j @ j.T, torch.eye(4, dtype=torch.float64) / 4
        v = ExactProjector()(u, gram)
        slope, slack = v @ gram, v - u
        assert (slack >= -1e-7).all() and (slope >= -1e-7).all()
        torch.testing.assert_close((slope * slack).sum(), torch.zeros((), dtype=torch.float64), atol=1e-6, rtol=0)


def test_objective_weights_of_a_rival_scale_its_gradients() -> None:
    net = Net()
    losses = net.losses(0)
    g = jacobian(losses, net.shared())
    config = BalancerConfig(balancer="alignedmtl", objective_weights=(1.0, 2.0, 3.0, 0.0))
    report = GradientBalancer(net.reach(), config).backward(losses)
    expected = AlignedMTL()(g[:3] * torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64))
    torch.testing.assert_close(flat_grad(net.shared()), expected, rtol=1e-3, atol=1e-4 * float(expected.norm()))
    assert float(report.weights[3]) == 0.0


@pytest.mark.skipif(find_spec("cvxpy") is not None and find_spec("clarabel") is not None, reason="cagrad can run here")
def test_a_balancer_without_its_solver_says_what_to_install() -> None:
    with pytest.raises(AimeError, match="cagrad needs the packages cvxpy and clarabel: pip install"):
        GradientBalancer(Net().reach(), BalancerConfig(balancer="cagrad"))


@pytest.mark.usefixtures("storage")
def test_one_tensor_handed_out_as_two_gradients_is_not_overwritten_twice() -> None:
    p, q, alone, other = (nn.Parameter(torch.randn(3)) for _ in range(4))
    reach = {"a": [p, q, alone, other], "b": [p, q]}
    balancer = GradientBalancer(reach, BalancerConfig(balancer="sum", objective_weights=(2.0, 1.0, 1.0, 1.0)))
    x = torch.randn(3)
    balancer.backward({"a": ((p + q + alone + other) * x).sum(), "b": (p - 3 * q).sum()})
    assert p.grad is not None and q.grad is not None and alone.grad is not None and other.grad is not None
    torch.testing.assert_close(p.grad, 2 * x + 1)
    torch.testing.assert_close(q.grad, 2 * x - 3)
    torch.testing.assert_close(alone.grad, 2 * x)
    torch.testing.assert_close(other.grad, 2 * x)
    places = {gradient.data_ptr() for gradient in (p.grad, q.grad, alone.grad, other.grad)}
    assert len(places) == 4, "clipping would scale one twice"


def test_losses_may_come_in_order_and_frozen_parameters_stay_out() -> None:
    net = Net()
    for parameter in net.decoder.parameters():
        parameter.requires_grad_(False)
    balancer = GradientBalancer(net.reach(), BalancerConfig())
    losses = net.losses(0)
    balancer.backward(losses, retain_graph=True)
    by_name = flat_grad([*net.parameters()])
    again = GradientBalancer(net.reach(), BalancerConfig())
    again.backward([losses[name] for name in NAMES])
    assert torch.equal(flat_grad([*net.parameters()]), by_name)
    assert all(p.grad is None for p in net.decoder.parameters())


def test_bad_input_gets_a_sentence() -> None:
    net = Net()
    balancer = GradientBalancer(net.reach(), BalancerConfig())
    losses = net.losses(0)
    with pytest.raises(AimeError, match="expected 4 losses in the order total_vae_loss"):
        balancer.backward([*losses.values()][:3])
    with pytest.raises(AimeError, match="perceiver_loss must be a tensor with one element"):
        balancer.backward(losses | {"perceiver_loss": torch.zeros(2)})
    with pytest.raises(AimeError, match="none of the objectives"):
        balancer.backward({name: loss.detach() for name, loss in losses.items()})
    with pytest.raises(AimeError, match="1 to 4 objectives, not 0"):
        GradientBalancer({}, BalancerConfig())
    with pytest.raises(AimeError, match="reach no parameters"):
        GradientBalancer({"a": []}, BalancerConfig())


def test_no_memory_beyond_the_gradients() -> None:
    """Four objectives that all reach everything: the update lies in storage that differentiation had already taken."""
    parameter = nn.Parameter(torch.randn(50_000))
    targets = [torch.randn(50_000) for _ in NAMES]
    balancer = GradientBalancer({name: [parameter] for name in NAMES}, BalancerConfig())
    gradients = balancer.differentiate([(parameter * target).sum() for target in targets])
    places = {gradients[i][0].data_ptr() for i in range(4)}
    balancer.combine(gradients)
    assert parameter.grad is not None and parameter.grad.data_ptr() in places
    assert sum(tensor.numel() for tensor in balancer.state_dict().values()) < 30
