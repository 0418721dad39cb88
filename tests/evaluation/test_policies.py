"""What components tell of policies: nothing by accident, and all there is to tell where they follow them."""

import math

import pytest
import torch

from aime.evaluation.policies import course, policy_information

EPISODES = torch.arange(30).repeat_interleave(4).tolist()
POLICIES = ["ou" if episode % 2 else "cpg" for episode in EPISODES]
FIRST = torch.tensor([policy == "ou" for policy in POLICIES])


def at_random(seed: int) -> torch.Tensor:
    use = torch.rand(len(POLICIES), 12, 4, generator=torch.Generator().manual_seed(seed))
    return use / use.sum(-1, keepdim=True)


@pytest.mark.parametrize("seed", range(3))
def test_components_at_random_tell_nothing(seed: int) -> None:
    told = policy_information(at_random(seed), POLICIES, EPISODES)
    assert told["policy_information"] < 0
    assert told["policy_information_nats"] < 0.03


def test_a_component_for_each_policy_tells_it() -> None:
    use = 0.1 * at_random(0)
    use[FIRST, :, 1] += 0.9
    use[~FIRST, :, 3] += 0.9
    told = policy_information(use, POLICIES, EPISODES)
    assert 0.4 < told["policy_information"] < told["policy_information_nats"] < math.log(2)


def test_components_used_alike_tell_by_how_fast_they_change() -> None:
    turns = torch.arange(12)
    fast, slow = turns % 2 == 0, turns // 6 == 0
    use = 0.1 * at_random(0)
    use[..., 0] += 0.9 * torch.where(FIRST[:, None], fast, slow)
    use[..., 1] += 0.9 * torch.where(FIRST[:, None], ~fast, ~slow)
    told = policy_information(use, POLICIES, EPISODES)
    assert told["policy_information"] > 0.4


def test_what_an_episode_alone_explains_tells_nothing_of_its_policy() -> None:
    """Each episode uses a component of its own: on those that were fitted that tells all, and on others nothing."""
    use = torch.eye(30)[EPISODES][:, None].expand(-1, 12, -1)
    told = policy_information(use, POLICIES, EPISODES)
    assert told["policy_information"] < 0


def test_one_policy_or_one_episode_is_not_asked() -> None:
    use = at_random(0)
    assert policy_information(use, ["ou"] * len(EPISODES), EPISODES) == {}
    assert policy_information(use[:2], ["ou", "cpg"], [0, 0]) == {}
    few = policy_information(use[:2], ["ou", "cpg"], [0, 1])  # each is foretold from the other alone
    assert few["policy_information"] <= few["policy_information_nats"] <= 0


def test_the_course_of_a_clip_by_hand() -> None:
    clip = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    torch.testing.assert_close(course(clip), torch.tensor([[1 / 3, 2 / 3, 0.5, 0.5]]))
    torch.testing.assert_close(course(clip[:, :1]), torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
