"""The belief about the next latent state: a mixture of diagonal Gaussians, and how far a posterior is from it.

`MixturePrior` is what the network in `aime.belief.prior` says for each element of a batch. It can be drawn from,
asked which component explains a latent, and indexed by its batch dimensions; its arithmetic is float32 or wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aime.belief import stick_breaking
from aime.belief.kumaraswamy import at_least_float32, kl_gamma_gamma, kl_kumaraswamy_beta_gamma

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class MixturePrior:
    """p(z) = Σ_k π_k N(z; m_k, diag(exp(log_vars_k))), and the posterior over the sticks that made π.

    Fields: `log_weights` log π, `means`, `log_vars`; `stick_a`, `stick_b` of q(v_k) = Kumaraswamy; `alpha_shape`,
    `alpha_rate` of q(α) = Gamma; `alpha_prior` (shape, rate) of p(α). Weights are those of distinct components
    (`aime.belief.coalescence`), so a component that coincides with an earlier one has next to none.
    """

    log_weights: Float[Tensor, "*batch components"]
    means: Float[Tensor, "*batch components latent"]
    log_vars: Float[Tensor, "*batch components latent"]
    stick_a: Float[Tensor, "*batch sticks"]
    stick_b: Float[Tensor, "*batch sticks"]
    alpha_shape: Float[Tensor, "*batch"]
    alpha_rate: Float[Tensor, "*batch"]
    alpha_prior: tuple[float, float] = (1.0, 1.0)

    @property
    def weights(self) -> Float[Tensor, "*batch components"]:
        """π, which sums to one."""
        return torch.exp(self.log_weights)

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions that all fields share."""
        return self.alpha_shape.shape

    def map(self, change: Callable[[Tensor], Tensor]) -> MixturePrior:
        """The mixture with `change` applied to every tensor in it."""
        changed: dict[str, Any] = {
            f.name: change(x) if isinstance(x := getattr(self, f.name), Tensor) else x for f in fields(self)
        }
        return MixturePrior(**changed)

    def __getitem__(self, index: Any) -> MixturePrior:
        """Index by the batch dimensions, like a tensor of shape `batch_shape` (an IndexError beyond them)."""
        index = index if isinstance(index, tuple) else (index,)
        if any(i is Ellipsis for i in index):
            at = next(n for n, i in enumerate(index) if i is Ellipsis)
            used = sum(i is not None for i in index) - 1
            index = (*index[:at], *[slice(None)] * (len(self.batch_shape) - used), *index[at + 1 :])
        self.alpha_shape[index]  # has no dimension to spare, so it refuses what would reach into the components
        return self.map(lambda x: x[index])

    @classmethod
    def stack(cls, mixtures: Sequence[MixturePrior], dim: int) -> MixturePrior:
        """Several mixtures as one, along a new batch dimension."""
        names = [f.name for f in fields(cls) if f.name != "alpha_prior"]
        stacked = {name: torch.stack([getattr(m, name) for m in mixtures], dim=dim) for name in names}
        return cls(**stacked, alpha_prior=mixtures[0].alpha_prior)

    def detach(self) -> MixturePrior:
        """The same mixture, through which no gradient flows: the fixed side of a balanced divergence."""
        return self.map(Tensor.detach)

    def moved(self, offset: Float[Tensor, " latent"], scale: Float[Tensor, " latent"]) -> MixturePrior:
        """The mixture of offset + scale · z, for z of this one."""
        return replace(self, means=offset + scale * self.means, log_vars=self.log_vars + 2 * scale.log())

    # --- densities ---------------------------------------------------------------------------------------------------

    def component_log_probs(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch components"]:
        """log N(z; m_k, s_k) of every component, in nats."""
        offset = at_least_float32(z)[..., None, :] - self.means
        return -0.5 * (offset.square() * torch.exp(-self.log_vars) + self.log_vars + LOG_2PI).sum(-1)

    def log_prob(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch"]:
        """log p(z) in nats."""
        return torch.logsumexp(self.log_weights + self.component_log_probs(z), dim=-1)

    def surprise(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch"]:
        """-log p(z) in nats: how unexpected this latent is."""
        return -self.log_prob(z)

    def responsibilities(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch components"]:
        """p(k | z): each component's share in explaining z; sums to one."""
        return torch.softmax(self.log_weights + self.component_log_probs(z), dim=-1)

    # --- draws -------------------------------------------------------------------------------------------------------

    def mean(self) -> Float[Tensor, "*batch latent"]:
        """E[z] = Σ_k π_k m_k."""
        return (self.weights[..., None] * self.means).sum(-2)

    def deviation(self) -> Float[Tensor, "*batch latent"]:
        """Standard deviation of z, number by number: of the draws, over all components."""
        spread = self.log_vars.exp() + (self.means - self.mean()[..., None, :]).square()
        return (self.weights[..., None] * spread).sum(-2).sqrt()

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch latent"]:
        """A draw of z: first the component, then the Gaussian. No gradient reaches the weights; see `rsample`."""
        chosen, noise = self._draw(generator)
        index = chosen[..., None, None].expand(*chosen.shape, 1, self.means.shape[-1])
        mean, log_var = (x.gather(-2, index).squeeze(-2) for x in (self.means, self.log_vars))
        return mean + torch.exp(0.5 * log_var) * noise

    def rsample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch latent"]:
        """The draw of `sample`, through which gradients reach means, scales and weights.

        Forward it is an exact draw of the mixture. Backward, means and scales of the drawn component get the pathwise
        gradient, which is unbiased. For the weights, E[f(z)] jumps between components: the exact pathwise gradient
        (implicit reparameterisation; Graves 2016) divides by the density between them and so has unbounded variance
        just where the components are apart, and Gumbel-softmax is biased at first order. ReinMax (Liu et al. 2023)
        averages the slope of f at the drawn component and at the other ones, as the trapezoidal rule (Heun) does:
        exact if f is quadratic between the components' draws, else of third order in their distance. Those draws
        share one noise.
        """
        chosen, noise = self._draw(generator)
        drawn = torch.nn.functional.one_hot(chosen, self.means.shape[-2]).to(self.means.dtype)
        soft = torch.softmax(self.log_weights, dim=-1)
        # The midpoint between the draw and the weights, as a softmax of the same logits, shifted.
        shift = torch.log((0.5 * (drawn + soft)).clamp_min(torch.finfo(soft.dtype).tiny)) - self.log_weights
        midpoint = torch.softmax(self.log_weights + shift.detach(), dim=-1)
        surrogate = 2 * midpoint - 0.5 * soft
        choice = drawn + surrogate - surrogate.detach()
        draws = self.means + torch.exp(0.5 * self.log_vars) * noise[..., None, :]
        return (choice[..., None] * draws).sum(-2)

    def _draw(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The index of a component, by inverting the cumulated weights, and standard normal noise for the latent.

        The amount of randomness used does not depend on any value, so that no element's draw depends on another's
        belief.
        """
        options: dict[str, Any] = {"device": self.means.device, "dtype": self.means.dtype, "generator": generator}
        u = torch.rand(*self.batch_shape, 1, **options)
        noise = torch.randn(*self.batch_shape, self.means.shape[-1], **options)
        chosen = (self.weights.detach()[..., :-1].cumsum(-1) <= u).sum(-1)
        return chosen, noise

    # --- how many components, and what the sticks cost ---------------------------------------------------------------

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy of the weights in nats, between 0 and log K."""
        return stick_breaking.entropy(self.log_weights)

    def effective_components(self) -> Float[Tensor, "*batch"]:
        """exp(entropy), between 1 and K."""
        return stick_breaking.effective_components(self.log_weights)

    def kl_sticks(self) -> Float[Tensor, "*batch"]:
        """E_q(α)[Σ_k KL(q(v_k) ‖ Beta(1, α))] in nats, exact in α; 0 if there are no sticks."""
        shape, rate = self.alpha_shape[..., None], self.alpha_rate[..., None]
        return kl_kumaraswamy_beta_gamma(self.stick_a, self.stick_b, shape, rate).sum(-1)

    def kl_alpha(self) -> Float[Tensor, "*batch"]:
        """KL(q(α) ‖ p(α)) between the two Gammas, in nats."""
        prior_shape, prior_rate = (self.alpha_shape.new_full((), x) for x in self.alpha_prior)
        return kl_gamma_gamma(self.alpha_shape, self.alpha_rate, prior_shape, prior_rate)


def compute_kl_divergence_mc(
    mean: Float[Tensor, "*batch latent"],
    log_var: Float[Tensor, "*batch latent"],
    z: Float[Tensor, "*batch latent"],
    prior: MixturePrior,
) -> Float[Tensor, "*batch"]:
    """KL(N(mean, exp(log_var)) ‖ mixture) in nats, unbiased, from one reparameterised draw z of the posterior.

    For any weights w_k that sum to one,

        KL(q ‖ p) = Σ_k w_k KL(q ‖ N_k) + E_q[Σ_k w_k log N_k(z) - log p(z)],

    where the first sum is closed and only the second term is estimated at z. With w_k ∝ π_k exp(-KL(q ‖ N_k)), the best
    variational weights (Hershey & Olsen 2007), the estimated term is exactly 0 if K = 1, and nearly constant if one
    component owns the posterior; the plain estimator log q(z) - log p(z) fluctuates by √(Z/2) nats even then.
    Matching the mixture's two moments with one Gaussian would also be exact at K = 1, but fluctuates when the
    components are apart.

    The gradient reaches mean, log_var, z and the mixture; detach what shall not move (`MixturePrior.detach`).
    """
    mean, log_var = at_least_float32(mean)[..., None, :], at_least_float32(log_var)[..., None, :]
    precision = torch.exp(-prior.log_vars)
    spread = (torch.exp(log_var) + (mean - prior.means).square()) * precision
    to_component = 0.5 * (spread - 1 - (log_var - prior.log_vars)).sum(-1)
    # The identity holds for any fixed w, so the gradient stays unbiased, and quieter, without a path through them.
    w = torch.softmax(prior.log_weights - to_component, dim=-1).detach()
    at_z = prior.component_log_probs(z)
    estimated = (w * at_z).sum(-1) - torch.logsumexp(prior.log_weights + at_z, dim=-1)
    return (w * to_component).sum(-1) + estimated
