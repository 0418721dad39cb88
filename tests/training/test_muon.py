"""Muon: what its updates are, whom they leave alone, and what they are for."""

import pytest
import torch
from torch import Tensor, nn

import aime.training.muon as muon_module
from aime.training.muon import BLOCK, COEFFICIENTS, ITERATIONS, Muon
from aime.training.tensor_tree import load_optimizer_tensors, optimizer_tensors


def orthogonal(*gradients: Tensor) -> list[Tensor]:
    """The directions of a first update by these gradients."""
    weights = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    Muon(weights, lr=1.0, momentum=0.0).step()
    return [-w.detach() / max(1.0, w.shape[0] / w.shape[1]) ** 0.5 for w in weights]


def svd(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The exact orthogonal factor and the singular values."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh, s


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32), (1, 7), (7, 1), (BLOCK, 300)])
def test_a_matrix_becomes_its_orthogonal_factor(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    (found,) = orthogonal(matrix)
    exact, _ = svd(matrix)
    assert found.shape == matrix.shape and found.dtype == matrix.dtype
    assert ((svd(found)[1] > 0.6) & (svd(found)[1] < 1.3)).all()
    assert torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0) > 0.97


@pytest.mark.parametrize("decades", [0, 2, 4, 6])
def test_it_is_newton_and_schulzs_iteration(decades: int) -> None:
    """Beside the same written out on the matrix itself, in double precision, however far singular values lie apart."""
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(BLOCK, 200), full_matrices=False)
    matrix = u * torch.logspace(0, -decades, BLOCK) @ vh
    x = matrix.double() / matrix.double().norm()
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    assert torch.allclose(orthogonal(matrix)[0].double(), x, atol=1e-3)


@pytest.mark.parametrize("rows", [BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 3])
def test_many_rows_are_made_orthogonal_block_by_block(rows: int) -> None:
    torch.manual_seed(0)
    wide = torch.randn(rows, 400)
    found, turned = orthogonal(wide, wide.T.contiguous())
    assert torch.allclose(found, turned.T, atol=1e-5)
    assert torch.allclose(found, torch.cat([orthogonal(part)[0] for part in wide.split(BLOCK)]), atol=1e-5)


def test_several_matrices_are_each_done_by_themselves() -> None:
    torch.manual_seed(0)
    several = [torch.randn(shape) for shape in ((8, 20), (20, 8), (5, 5), (8, 20), (100, 130))]
    for matrix, together in zip(several, orthogonal(*several), strict=True):
        assert torch.allclose(together, orthogonal(matrix)[0], atol=1e-5)


def test_no_gradient_is_no_direction() -> None:
    assert orthogonal(torch.zeros(4, 9))[0].eq(0).all()


def test_an_update_is_as_long_whatever_the_gradients_size() -> None:
    moves = []
    for scale in (1e-4, 1.0, 1e6):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.zeros(32, 8, 3, 3))
        weight.grad = scale * torch.randn_like(weight)
        Muon([weight], lr=0.5).step()
        moves.append(weight.detach().clone())
    assert torch.allclose(moves[0], moves[1], atol=1e-4) and torch.allclose(moves[2], moves[1], atol=1e-4)
    assert ((svd(moves[1].flatten(1))[1] > 0.3) & (svd(moves[1].flatten(1))[1] < 0.65)).all()


def test_weights_decay_by_themselves() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros_like(weight)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(weight, torch.full((4, 4), 0.95))


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_bad_changes_nothing(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if masked:  # as on a GPU, which is not asked before
        monkeypatch.setattr(muon_module, "_known", lambda bad: False)
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 10))
    muon = Muon([weight])
    weight.grad = torch.randn_like(weight)
    muon.step()
    before, momentum = weight.detach().clone(), muon.state[weight]["momentum"].clone()
    weight.grad = torch.full_like(weight, torch.nan)
    muon.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    muon.step()
    assert torch.equal(weight, before) and torch.equal(muon.state[weight]["momentum"], momentum)
    weight.grad = torch.randn_like(weight)
    muon.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    muon.step()
    assert not torch.equal(weight, before) and weight.isfinite().all()


def test_a_masked_good_update_equals_an_unmasked_one(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    for masked in (False, True):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(40, 90))
        weight.grad = torch.randn_like(weight)
        muon = Muon([weight], weight_decay=0.1)
        muon.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
        monkeypatch.setattr(muon_module, "_known", lambda bad, masked=masked: not masked)
        muon.step()
        moved.append(weight.detach().clone())
    assert torch.equal(*moved)


def test_it_goes_on_from_what_was_saved_to_the_bit() -> None:
    def steps(model: nn.Module, muon: Muon, seeds: range) -> None:
        for seed in seeds:
            torch.manual_seed(seed)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            muon.step()

    torch.manual_seed(0)
    whole = nn.Linear(9, 5, bias=False)
    muon = Muon(whole.parameters())
    steps(whole, muon, range(3))
    resumed = nn.Linear(9, 5, bias=False)
    resumed.load_state_dict(whole.state_dict())
    other = Muon(resumed.parameters())
    saved = {name: value.clone() for name, value in optimizer_tensors(muon, whole).items()}
    load_optimizer_tensors(other, resumed, saved)
    steps(whole, muon, range(3, 6))
    steps(resumed, other, range(3, 6))
    assert torch.equal(whole.weight, resumed.weight)


def test_what_is_rare_is_learned_sooner_than_by_adamw() -> None:
    """A linear map is found where its inputs vary little, too, before AdamW finds it there."""
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.randn(16, 16))[0]
    inputs = torch.randn(256, 16) * torch.logspace(0, -2, 16) @ directions
    goal = torch.randn(12, 16)
    errors: dict[type, list[float]] = {Muon: [], torch.optim.AdamW: []}
    for kind, of_kind in errors.items():
        for rate in (0.02, 0.1, 0.4, 1.0):  # each at its best
            weight = nn.Parameter(torch.zeros(12, 16))
            optimizer = kind([weight], lr=rate, weight_decay=0.0)
            for step in range(100):
                optimizer.param_groups[0]["lr"] = rate * (1 - step / 100)
                optimizer.zero_grad()
                (inputs @ (weight - goal).T).square().sum(dim=1).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            of_kind.append(float(((weight - goal) @ directions.T)[:, 8:].detach().square().mean()))
    assert min(errors[Muon]) < 0.2 * min(errors[torch.optim.AdamW])
