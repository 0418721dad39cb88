"""Belief: what the model expects of the next latent state, as a Dirichlet-process mixture of Gaussians."""

from aime.belief.mixture import MixturePrior, compute_kl_divergence_mc
from aime.belief.prior import DPGMMPrior

__all__ = ["DPGMMPrior", "MixturePrior", "compute_kl_divergence_mc"]
