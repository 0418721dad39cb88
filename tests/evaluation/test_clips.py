"""The clips of an evaluation, the exchange of actions, and the predictions that need no model."""

from pathlib import Path

import pytest
import torch

from aime.data.store import EpisodeStore
from aime.errors import DataError
from aime.evaluation.clips import copy_last, count_clips, load_clips, somebody_elses
from aime.evaluation.states import StateColumns
from aime.observation import moving_pixels
from tests.evaluation.conftest import write_store


def test_clips_are_fixed_and_come_in_batches(toy_store: EpisodeStore) -> None:
    clips, again = (load_clips(toy_store, "test", 12, 7, seed=3) for _ in range(2))
    assert torch.equal(clips.observations, again.observations)
    assert torch.equal(clips.start, again.start)
    batches = list(clips.batches(3, torch.device("cpu")))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([batch.actions for batch in batches]), clips.actions)
    assert clips.states is not None and clips.states.shape == (7, 12, 2)
    assert clips.segmentation is None


def test_as_many_clips_as_are_counted_can_be_loaded(toy_store: EpisodeStore) -> None:
    count = count_clips(toy_store, "test", 20)
    assert count == 3 * 5
    assert len(load_clips(toy_store, "test", 20, count, seed=0)) == count
    with pytest.raises(DataError, match="fewer than"):
        load_clips(toy_store, "test", 20, count + 1, seed=0)


@pytest.mark.parametrize("episodes", [[0, 0, 1, 1, 2], [0, 1, 2, 3], [5, 5, 9, 9], [3, 1, 3, 2, 1, 2, 3, 0]])
@pytest.mark.parametrize("seed", range(5))
def test_actions_come_from_another_episode(episodes: list[int], seed: int) -> None:
    episode = torch.tensor(episodes)
    partner = somebody_elses(episode, seed)
    assert sorted(partner.tolist()) == list(range(len(episodes)))
    assert (episode[partner] != episode).all()


@pytest.mark.parametrize("episodes", [[0, 0], [0, 0, 0], [0, 0, 0, 1]])
def test_no_clip_keeps_its_actions_even_where_one_episode_has_most(episodes: list[int]) -> None:
    partner = somebody_elses(torch.tensor(episodes), seed=0)
    assert sorted(partner.tolist()) == list(range(len(episodes)))
    assert (partner != torch.arange(len(episodes))).all()


def test_one_clip_has_nobody_to_exchange_with() -> None:
    with pytest.raises(DataError, match="only one"):
        somebody_elses(torch.tensor([4]), seed=0)


def test_copying_the_last_frame() -> None:
    watched = torch.rand(2, 4, 3, 8, 8)
    copied = copy_last(watched, 5)
    assert copied.shape == (2, 5, 3, 8, 8)
    assert all(torch.equal(copied[:, k], watched[:, -1]) for k in range(5))


def test_the_mean_frame_is_that_of_the_training_split(toy_store: EpisodeStore) -> None:
    pixels = [torch.from_numpy(toy_store.episode(i)["pixels"]) for i in toy_store.split("train")]
    expected = torch.cat(pixels).double().mean(dim=0).permute(2, 0, 1) / 255
    torch.testing.assert_close(torch.from_numpy(toy_store.mean_frame()).double(), expected, atol=1e-6, rtol=0)


def test_real_episodes_have_states_by_name_and_a_body(cartpole_store_path: Path) -> None:
    store = EpisodeStore.open(cartpole_store_path)
    clips = load_clips(store, "test", 48, 4, seed=0, keys=("states", "segmentation"))
    assert clips.states is not None and clips.segmentation is not None
    columns = StateColumns.of(store, clips.states.shape[-1])
    assert columns.visible_names() == ["qpos 0", "sin qpos 1", "cos qpos 1", "qvel 0", "qvel 1"]
    visible = columns.visible(clips.states)
    torch.testing.assert_close(visible[..., 1:3].norm(dim=-1), torch.ones(4, 48))
    torch.testing.assert_close(visible[..., [0, 3, 4]], clips.states[..., [0, 2, 3]])
    assert 0.001 < (clips.segmentation > 0).float().mean() < 0.05
    # A pole and its cart are thin: a few percent of the pixels move, as the protocol counts them.
    frames = clips.observations.float() / 255
    moving = moving_pixels(frames[:, 8:], frames[:, 7]).float().mean()
    assert 0.005 < moving < 0.1


def test_states_are_called_by_their_names(toy_store: EpisodeStore, tmp_path: Path) -> None:
    assert StateColumns.of(toy_store, 2).visible_names() == ["position 0", "position 1"]
    assert StateColumns.of(toy_store, 3).visible_names() == ["state 0", "state 1", "state 2"]
    assert write_store(tmp_path / "still", episodes=3, still=True).fingerprint != toy_store.fingerprint
