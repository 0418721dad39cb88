"""From four losses to one gradient: each objective is differentiated by itself, and a balancer combines the results.

    balancer = GradientBalancer(objective_reach(model), BalancerConfig())
    report = balancer.backward(losses)      # sets .grad of every parameter within reach
    optimizer.step()

The graph of each objective is cut at its reach, the parameters that it is to move. Parameters that one objective alone
reaches take its gradient as it is; the others are balanced by RGB (`aime.learning.rgb`) or, for comparison, by one of
`aime.learning.aggregators`. Memory beyond the parameters: the gradients of the objectives, each within its own reach;
at most four copies of the model, none of them kept but `.grad`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from aime.config import BalancerConfig
from aime.errors import CheckpointError, ConfigError, ShapeError, TrainingError
from aime.learning import rows
from aime.learning.aggregators import GramAggregator
from aime.learning.report import BalanceReport
from aime.learning.rgb import rotate

Gradients = dict[int, dict[int, Tensor]]
"""For each present objective, by number, its gradient at each parameter that it reaches, by number."""


class GradientBalancer:
    """Sets the gradients of a model so that its objectives are balanced.

    Args:
        reach: for each objective, by name and in order, the parameters that it is differentiated with respect to. At
            most four objectives (as many as `config.objective_weights`).
        config: which balancer, and its settings.

    Raises:
        ConfigError: too many objectives, no parameters, or a balancer whose solver is not installed.
    """

    def __init__(self, reach: Mapping[str, Sequence[nn.Parameter]], config: BalancerConfig) -> None:
        self.names = tuple(reach)
        self.config = config
        if not 1 <= len(self.names) <= len(config.objective_weights):
            raise ConfigError(
                f"a balancer works on 1 to {len(config.objective_weights)} objectives, not {len(self.names)}: "
                f"{', '.join(self.names)}"
            )
        self._say = torch.tensor(config.objective_weights[: len(self.names)], dtype=torch.float64)
        numbers: dict[nn.Parameter, int] = {}
        self._reach = [tuple(dict.fromkeys(numbers.setdefault(p, len(numbers)) for p in reach[name])) for name in reach]
        self.parameters = list(numbers)
        if not self.parameters:
            raise ConfigError("the objectives reach no parameters, so there is nothing to train")
        self._aggregator = None if config.balancer == "rgb" else GramAggregator(config.balancer)
        self._order = self._lay_out()
        self._cosines = torch.zeros(len(self.names), len(self.names), dtype=torch.float64)
        self._rotations = torch.zeros(len(self.names), dtype=torch.float64)
        self.step = 0

    def _lay_out(self) -> list[int]:
        """The order in which parameters are gone through: those with the same reach together, small ones first, so that
        they can be joined.
        """
        within: list[list[int]] = [[] for _ in self.parameters]
        for i, reached in enumerate(self._reach):
            for number in reached:
                within[number].append(i)
        return sorted(
            range(len(self.parameters)), key=lambda p: (within[p], self.parameters[p].numel() >= rows.JOIN_BELOW, p)
        )

    def backward(self, losses: Mapping[str, Tensor] | Sequence[Tensor], *, retain_graph: bool = False) -> BalanceReport:
        """Differentiates the objectives, balances them, and overwrites `.grad` of every parameter within reach.

        A parameter that no objective reached in this step has `.grad` None afterwards. With `torch.distributed`
        initialised, each gradient is first averaged over the processes, all of which must pass the same objectives.

        Args:
            losses: scalars, by objective or in the order of the objectives. Other keys are passed over. An objective
                that is absent, or does not require grad, has no say in this step.
            retain_graph: keep the graph for another differentiation.

        Raises:
            ShapeError: a loss is not a scalar, or a sequence has another length than the objectives.
            TrainingError: there is nothing to differentiate.
        """
        return self.combine(self.differentiate(losses, retain_graph=retain_graph))

    def differentiate(
        self, losses: Mapping[str, Tensor] | Sequence[Tensor], *, retain_graph: bool = False
    ) -> Gradients:
        """The first half of `backward`: each objective's own gradients. Lets go of the last step's `.grad`."""
        present = self._present(losses)
        for parameter in self.parameters:
            parameter.grad = None
        gradients: Gradients = {}
        for position, (i, loss) in enumerate(present.items()):
            reached = [number for number in self._reach[i] if self.parameters[number].requires_grad]
            found = torch.autograd.grad(
                loss,
                [self.parameters[number] for number in reached],
                retain_graph=retain_graph or position + 1 < len(present),
                allow_unused=True,
                # Processes must agree on what they average, though one of them may have drawn nothing that reaches a
                # parameter.
                materialize_grads=_processes() > 1,
            )
            own = {
                number: gradient.to_dense() if gradient.is_sparse else gradient
                for number, gradient in zip(reached, found, strict=True)
                if gradient is not None
            }
            gradients[i] = _averaged(own) if _processes() > 1 else own
        return gradients

    def _present(self, losses: Mapping[str, Tensor] | Sequence[Tensor]) -> dict[int, Tensor]:
        if not isinstance(losses, Mapping):
            if len(losses) != len(self.names):
                raise ShapeError(
                    f"expected {len(self.names)} losses in the order {', '.join(self.names)}; got {len(losses)}"
                )
            losses = dict(zip(self.names, losses, strict=True))
        for name in self.names:
            if name in losses and not (isinstance(losses[name], Tensor) and losses[name].numel() == 1):
                found = getattr(losses[name], "shape", type(losses[name]).__name__)
                raise ShapeError(f"the loss {name} must be a tensor with one element, not {found}")
        present = {i: losses[n] for i, n in enumerate(self.names) if n in losses and losses[n].requires_grad}
        if not present:
            raise TrainingError(
                f"none of the objectives {', '.join(self.names)} can be differentiated: compute the losses "
                "with gradients enabled, from parameters that require them"
            )
        return present

    @torch.no_grad()
    def combine(self, gradients: Gradients) -> BalanceReport:
        """The second half of `backward`: the balancer's own algebra. Takes the gradients over; empties the mapping."""
        device = self.parameters[0].device
        self._cosines, self._say = self._cosines.to(device), self._say.to(device)
        n = len(self.names)
        by_parameter = _transposed(gradients)
        # Automatic differentiation may hand out one tensor as two gradients; what is written to must be ours alone.
        uses = Counter(gradient.data_ptr() for own in by_parameter.values() for gradient in own.values())
        alone = {number: own for number, own in by_parameter.items() if len(own) == 1}
        runs = list(self._runs({number: own for number, own in by_parameter.items() if len(own) > 1}, uses))
        del by_parameter

        gram = rows.gram(runs, n, device)
        shared_squares = gram.diagonal().clone()
        squares = shared_squares + _squares_alone(alone, n, device)
        # An objective that is not finite anywhere, even outside the shared parameters, has no say anywhere.
        finite = torch.isfinite(squares)
        gram.masked_fill_(~(finite[:, None] & finite[None, :]), 0.0)

        limits = torch.zeros(n, dtype=torch.float64, device=device)
        if self._aggregator is None:
            config = self.config
            rotation = rotate(
                gram,
                self._cosines,
                mu=config.mu,
                lambd=config.lambd,
                alpha_steps=config.alpha_steps,
                objective_weights=self._say,
                consensus_weights=self._say,
            )
            self._cosines, self._rotations = rotation.cosines, rotation.angles
            update, limits = rotation.update, rotation.limits
        else:
            update = self._aggregator.weights(gram, self.config.objective_weights[:n])
        rows.combine(runs, update)

        self._hand_out(runs, alone, rows.coefficients(self._say * finite), uses)
        self.step += 1
        return self._report(gram, update, limits, squares, shared_squares)

    def _runs(self, shared: dict[int, dict[int, Tensor]], uses: Counter[int]) -> Iterator[rows.Run]:
        """The shared parameters as runs; joins small neighbours that the same objectives reach."""
        group: list[int] = []
        filled = 0
        for number in [*(p for p in self._order if p in shared), None]:
            joins = (
                number is not None
                and group
                and self.parameters[number].numel() < rows.JOIN_BELOW
                and filled < rows.JOIN_BELOW
                and shared[number].keys() == shared[group[-1]].keys()
            )
            if group and not joins:
                yield self._run(group, shared, uses)
                group, filled = [], 0
            if number is not None:
                group.append(number)
                filled += self.parameters[number].numel()

    def _run(self, group: list[int], shared: dict[int, dict[int, Tensor]], uses: Counter[int]) -> rows.Run:
        own = [shared.pop(number) for number in group]
        objectives = tuple(own[0])
        flat = []
        for i in objectives:
            pieces = [gradient[i].reshape(-1).float() for gradient in own]
            flat.append(torch.cat(pieces) if len(pieces) > 1 else pieces[0])
        if uses[flat[0].data_ptr()] > 1:
            flat[0] = flat[0].clone()
        return rows.Run(tuple(group), objectives, flat)

    def _hand_out(
        self,
        runs: list[rows.Run],
        alone: dict[int, dict[int, Tensor]],
        say: list[float] | list[Tensor],
        uses: Counter[int],
    ) -> None:
        """Sets `.grad` of what was reached."""
        for run in runs:
            owners = [self.parameters[number] for number in run.parameters]
            for parameter, piece in zip(owners, run.rows[0].split([p.numel() for p in owners]), strict=True):
                parameter.grad = piece.view(parameter.shape).to(parameter.dtype)
        for number, own in alone.items():
            ((i, gradient),) = own.items()
            if uses[gradient.data_ptr()] > 1 or not gradient.is_contiguous():
                gradient = gradient.clone(memory_format=torch.contiguous_format)
            self.parameters[number].grad = rows.scale_(gradient, say[i])

    def _report(
        self, gram: Tensor, update: Tensor, limits: Tensor, squares: Tensor, shared_squares: Tensor
    ) -> BalanceReport:
        norms = gram.diagonal().sqrt()
        inverse = torch.where(norms > 0, 1.0 / norms, 0.0)
        cosines = (gram * inverse[:, None] * inverse[None, :]).clamp(-1.0, 1.0)
        length = (update @ gram @ update).clamp(min=0.0).sqrt()
        along = torch.where(length > 0, (gram @ update) * inverse / length, 1.0).clamp(-1.0, 1.0)
        rotations = self._rotations if self._aggregator is None else torch.zeros_like(norms)
        return BalanceReport(
            names=self.names,
            norms=squares.sqrt(),
            shared_norms=shared_squares.sqrt(),
            cosines=cosines,
            angles=torch.where(norms > 0, along.acos(), 0.0),
            rotations=rotations,
            limits=limits,
            weights=update,
            active=torch.isfinite(squares) & (squares > 0),
            conflicts=(cosines.triu(1) < 0).sum(),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs: RGB's remembered cosines, the step, and the last angles of rotation."""
        return {
            "cosines": self._cosines.detach().clone(),
            "step": torch.tensor(self.step, dtype=torch.int64),
            "angles": self._rotations.detach().clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a `state_dict`.

        Raises:
            CheckpointError: an entry is missing, or was made for another number of objectives.
        """
        missing = [key for key in ("cosines", "step", "angles") if key not in state]
        if missing:
            raise CheckpointError(f"the balancer's state lacks {', '.join(missing)}: it is not one that AIME wrote")
        if state["cosines"].shape != self._cosines.shape or state["angles"].shape != self._rotations.shape:
            raise CheckpointError(
                f"the balancer's state remembers {len(state['cosines'])} objectives, but this model has "
                f"{len(self.names)}: resume with the same model"
            )
        self._cosines = state["cosines"].to(self._cosines).clone()
        self._rotations = state["angles"].to(self._rotations).clone()
        self.step = int(state["step"])


def _processes() -> int:
    """How many processes train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _averaged(own: dict[int, Tensor]) -> dict[int, Tensor]:
    """One objective's gradient, averaged over the processes in one message."""
    pieces = [gradient.reshape(-1).float() for gradient in own.values()]
    flat = torch.cat(pieces)
    torch.distributed.all_reduce(flat)
    flat /= _processes()
    parts = flat.split([len(piece) for piece in pieces])
    return {number: part.view(own[number].shape) for number, part in zip(own, parts, strict=True)}


def _transposed(gradients: Gradients) -> dict[int, dict[int, Tensor]]:
    """By parameter and then by objective; empties what it is given, so that gradients are freed when done with."""
    result: dict[int, dict[int, Tensor]] = {}
    for i in sorted(gradients):
        for number, gradient in gradients.pop(i).items():
            result.setdefault(number, {})[i] = gradient
    return result


def _squares_alone(alone: dict[int, dict[int, Tensor]], n: int, device: torch.device) -> Float64[Tensor, " n"]:
    """Squared norm of each objective over the parameters that it alone reaches."""
    parts: dict[int, list[Tensor]] = {}
    for own in alone.values():
        ((i, gradient),) = own.items()
        parts.setdefault(i, []).append(torch.linalg.vector_norm(gradient, dtype=torch.float32))
    result = torch.zeros(n, dtype=torch.float64, device=device)
    for i, norms in parts.items():
        result[i] = torch.stack(norms).double().square().sum()
    return result
