"""The Kumaraswamy distribution of the sticks by the quickstart's path: it lives in `aime.belief.kumaraswamy`."""

from aime.belief.kumaraswamy import kl_gamma_gamma, kl_kumaraswamy_beta, kumaraswamy_log_prob

__all__ = ["kl_gamma_gamma", "kl_kumaraswamy_beta", "kumaraswamy_log_prob"]
