"""Do the mixture's components follow the situation? What they tell of the policy that acted.

Policies of one body often lead to the same places and differ in how they move through them: noise is rough, a spline
smooth, a pattern generator returns. So both are asked: how much each component was responsible for, and how fast that
changed hands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

FOLDS = 10
"""Parts into which episodes are cut; each is judged by what the others taught."""
PENALTY = 30.0
"""Ridge penalty of the regression, on standardised features: with nothing to learn it stays at the policies'
frequencies."""
CAUTION = 1.645
"""Standard errors that are taken off: a 95% bound from below."""


def policy_information(
    responsibilities: Float[Tensor, "clips time components"], policies: Sequence[str], episodes: Sequence[int]
) -> dict[str, float]:
    """What the responsibilities over a clip tell of the policy that acted there, in nats.

    A logistic regression foretells the policy of episodes that it was not fitted on. How much likelier it finds the
    true one than the policies' frequencies do is, in the mean, a lower bound of the mutual information between the two
    (Barber & Agakov, 2003), and below zero where it learned what was an accident of the episodes it saw.

    Args:
        responsibilities: p(k | z[t], h[t-1]) on some clips.
        policies, episodes: what chose the actions of each clip, and the episode that it comes from.

    Returns:
        `policy_information_nats`, the mean over episodes, and `policy_information`, from where on it lies with 95%
        confidence: above zero, components tell more than chance. Nothing where there is one policy or one episode.
    """
    kinds, places = sorted(set(policies)), sorted(set(episodes))
    if len(kinds) < 2 or len(places) < 2:
        return {}
    features = course(responsibilities.double().cpu())
    policy = torch.tensor([kinds.index(kind) for kind in policies])
    episode = torch.tensor([places.index(place) for place in episodes])
    told = torch.empty(len(policy), dtype=torch.float64)
    fold = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[episode] % FOLDS
    for part in fold.unique():
        judged = fold == part
        told[judged] = _foretold(features, policy, ~judged, len(kinds))[judged]
    each = torch.stack([told[episode == place].mean() for place in range(len(places))])
    mean, error = float(each.mean()), float(each.std()) / math.sqrt(len(each))
    return {"policy_information": mean - CAUTION * error, "policy_information_nats": mean}


def course(responsibilities: Float[Tensor, "clips time components"]) -> Float[Tensor, "clips features"]:
    """Mean responsibility of each component over a clip, and mean absolute change of it from frame to frame."""
    steps = max(1, responsibilities.shape[1] - 1)
    return torch.cat([responsibilities.mean(dim=1), responsibilities.diff(dim=1).abs().sum(dim=1) / steps], dim=-1)


def _foretold(
    features: Float[Tensor, "clips features"], policy: Int[Tensor, " clips"], shown: Tensor, kinds: int
) -> Float[Tensor, " clips"]:
    """log p(policy | features) − log p(policy) of all clips, by a regression that was fitted on those `shown`."""
    seen = features[shown]
    standard = (features - seen.mean(dim=0)) / seen.std(dim=0, correction=0).clamp_min(1e-6)
    counts = torch.bincount(policy[shown], minlength=kinds).double() + 1  # a policy may be missing from a part
    chance = (counts / counts.sum()).log()
    weight = torch.zeros(features.shape[1], kinds, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        with torch.enable_grad():
            misfit = F.cross_entropy(chance + standard[shown] @ weight, policy[shown], reduction="sum")
            total: Tensor = misfit + PENALTY * weight.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)  # type: ignore[no-untyped-call]
    log_prob = F.log_softmax(chance + standard @ weight.detach(), dim=-1)
    return (log_prob - chance).gather(1, policy[:, None])[:, 0]
