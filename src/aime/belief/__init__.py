"""Belief: what the model expects of the next latent state, as a Dirichlet-process mixture of Gaussians."""

from aime.belief.mixture import MixturePrior, compute_kl_divergence_mc
from aime.belief.posterior import Posterior
from aime.belief.prior import DPGMMPrior

__all__ = ["DPGMMPrior", "MixturePrior", "Posterior", "compute_kl_divergence_mc"]
