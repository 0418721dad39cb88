"""Windows hold consecutive frames of one episode, and their order can be repeated and resumed."""

import multiprocessing
import os
import pickle
import signal
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from aime.data.dataset import BatchStream, EpochSampler, Item, WindowDataset, fixed_clips, make_loader
from aime.data.store import EpisodeStore
from aime.errors import ConfigError, DataError
from tests.data.making import make_episode, make_store

LENGTHS = [40, 33, 50, 16, 7, 300, 64]  # ids 1 and 2 are for validation and testing
ALL_KEYS = ("observations", "actions", "is_first", "rewards", "states")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return make_store(tmp_path_factory.mktemp("store"), LENGTHS, shard_bytes=40_000)


@pytest.fixture
def dataset(store: EpisodeStore) -> WindowDataset:
    return WindowDataset(store, "train", 16, ALL_KEYS)


def where(observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Episode and time of each frame, as `make_episode` wrote them into its first pixel."""
    id, high, low = observations[..., :, 0, 0].long().unbind(-1)
    return id, high * 256 + low


def same(one: Item, other: Item) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_window_is_consecutive_frames_of_one_episode(dataset: WindowDataset) -> None:
    for epoch in range(3):
        for window in EpochSampler(dataset, seed=1, epoch=epoch):
            item = dataset[window]
            id, time = where(item["observations"])
            assert item["observations"].shape == (16, 3, 16, 16) and item["observations"].dtype == torch.uint8
            assert (id == window.episode).all()
            assert time.tolist() == list(range(window.start, window.start + 16))
            assert torch.equal(item["is_first"], time == 0) and item["is_first"].dtype == torch.bool
            episode = make_episode(window.episode, LENGTHS[window.episode])
            rows = slice(window.start, window.start + 16)
            for key, column in (("actions", "action"), ("rewards", "reward"), ("states", "state")):
                np.testing.assert_array_equal(item[key].numpy(), episode[column][rows])
            np.testing.assert_array_equal(
                item["observations"].permute(0, 2, 3, 1).numpy(),
                episode["pixels"][rows],
                "height and width are kept apart",
            )


def test_an_epoch_has_as_many_windows_as_lie_side_by_side(dataset: WindowDataset) -> None:
    expected = {0: 2, 3: 1, 5: 18, 6: 4}  # episode 4 is shorter than a window
    assert len(dataset) == sum(expected.values())
    for epoch in range(3):
        windows = list(EpochSampler(dataset, seed=0, epoch=epoch))
        assert len(windows) == len(dataset)
        assert {id: sum(w.episode == id for w in windows) for id in expected} == expected


def test_every_window_of_the_data_can_come_and_each_epoch_covers_the_episodes(dataset: WindowDataset) -> None:
    starts = {id: set() for id in dataset.episodes.tolist()}
    for epoch in range(200):
        order = EpochSampler(dataset, seed=0, epoch=epoch)
        for window in order:
            starts[window.episode].add(window.start)
        long = sorted(window.start for window in order if window.episode == 5)
        assert max(np.diff(long)) < 2 * 285 / 18 + 1, "no part of the long episode is left out"
    for id, seen in starts.items():
        assert seen == set(range(LENGTHS[id] - 16 + 1))


def test_seed_and_epoch_decide_the_order(dataset: WindowDataset) -> None:
    first = list(EpochSampler(dataset, seed=3, epoch=2))
    assert list(EpochSampler(dataset, seed=3, epoch=2)) == first
    for seed, epoch in ((4, 2), (3, 3), (2, 3)):
        assert list(EpochSampler(dataset, seed=seed, epoch=epoch)) != first


def test_an_epoch_resumes_at_any_position(dataset: WindowDataset) -> None:
    whole = list(EpochSampler(dataset, seed=3, epoch=1))
    for start in range(len(whole) + 1):
        rest = EpochSampler(dataset, seed=3, epoch=1, start=start)
        assert list(rest) == whole[start:]
        assert len(rest) == len(whole) - start


def test_ranks_share_an_epoch_out(dataset: WindowDataset) -> None:
    whole = list(EpochSampler(dataset, seed=3))
    parts = [list(EpochSampler(dataset, seed=3, start=2, rank=rank, world_size=4)) for rank in range(4)]
    assert len({len(part) for part in parts}) == 1
    together = [window for turn in zip(*parts, strict=True) for window in turn]
    assert together == whole[2 : 2 + len(together)]
    assert len(whole) - 2 - len(together) < 4


@pytest.mark.parametrize("length", [1, 15, 16, 17, 40])
def test_windows_of_any_length_fit(store: EpisodeStore, length: int) -> None:
    dataset = WindowDataset(store, "train", length)
    for window in EpochSampler(dataset, seed=0):
        assert 0 <= window.start <= LENGTHS[window.episode] - length
        assert len(dataset[window]["observations"]) == length


def test_windows_can_be_had_by_number(dataset: WindowDataset) -> None:
    windows = dataset.windows(None)
    assert len(set(windows)) == len(dataset)
    for number in (0, 5, len(dataset) - 1, -1):
        assert same(dataset[number], dataset[windows[number]])
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_windows_of_two_splits_share_no_frame(store: EpisodeStore) -> None:
    seen = [set(WindowDataset(store, split, 5).episodes.tolist()) for split in ("train", "validation", "test")]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_columns_that_the_store_lacks_are_left_out(store: EpisodeStore, humanoid_store_path: Path) -> None:
    keys = ("observations", "segmentation")
    assert WindowDataset(store, "train", 16, keys).keys == ("observations",)
    item = WindowDataset(EpisodeStore.open(humanoid_store_path), "train", 16, keys)[0]
    assert item["segmentation"].shape == (16, 64, 64) and item["segmentation"].dtype == torch.uint8


def test_bad_requests_get_a_sentence(store: EpisodeStore, dataset: WindowDataset) -> None:
    with pytest.raises(DataError, match="longest has 300 frames, sequence_length is 301"):
        WindowDataset(store, "train", 301)
    with pytest.raises(ConfigError, match="did you mean actions"):
        WindowDataset(store, "train", 16, ("observations", "action"))
    with pytest.raises(ConfigError, match="position 26"):
        EpochSampler(dataset, seed=0, start=len(dataset) + 1)
    with pytest.raises(DataError, match="25 windows of 16 frames, fewer than a batch of 26"):
        BatchStream(dataset, 26, seed=0)


# Streams of batches


def test_a_stream_goes_on_over_the_epochs(dataset: WindowDataset) -> None:
    stream = BatchStream(dataset, 4, seed=0)
    assert stream.batches_per_epoch == 6
    batches = list(islice(stream, 13))
    assert stream.state_dict() == {"epoch": 2, "position": 4}
    for epoch in range(2):
        ids, times = where(torch.cat([batch["observations"][:, :1] for batch in batches[6 * epoch : 6 * epoch + 6]]))
        had = list(zip(ids.flatten().tolist(), times.flatten().tolist(), strict=True))
        assert had == list(EpochSampler(dataset, seed=0, epoch=epoch))[:24]


def test_a_stream_resumes_to_the_batch(dataset: WindowDataset) -> None:
    stream = BatchStream(dataset, 4, seed=0)
    for batches_before in (0, 1, 5, 6, 7, 12):
        stream.load_state_dict({"epoch": 0, "position": 0})
        for _ in range(batches_before):
            next(stream)
        state = stream.state_dict()
        expected = list(islice(stream, 8))
        other = BatchStream(dataset, 4, seed=0)
        other.load_state_dict(state)
        assert all(same(one, two) for one, two in zip(islice(other, 8), expected, strict=True))


def test_batches_do_not_depend_on_the_number_of_workers(dataset: WindowDataset) -> None:
    here = list(islice(BatchStream(dataset, 4, seed=5), 8))
    there = list(islice(BatchStream(dataset, 4, seed=5, workers=2), 8))
    assert all(same(one, two) for one, two in zip(here, there, strict=True))


def test_ctrl_c_does_not_reach_the_workers_and_they_go_with_the_stream(dataset: WindowDataset) -> None:
    expected = list(islice(BatchStream(dataset, 4, seed=5), 10))
    before = set(multiprocessing.active_children())
    with BatchStream(dataset, 4, seed=5, workers=1) as stream:
        batches = [next(stream)]
        (worker,) = set(multiprocessing.active_children()) - before
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)  # as a terminal does
        batches += islice(stream, 7)  # more than were read ahead
        assert worker.is_alive()
    assert not worker.is_alive()
    batches += islice(stream, 2)  # it is where it was, and begins with new workers
    stream.close()
    assert all(same(one, two) for one, two in zip(batches, expected, strict=True))


def test_a_dataset_that_was_read_from_goes_to_another_process(dataset: WindowDataset) -> None:
    expected = dataset[3]
    assert same(pickle.loads(pickle.dumps(dataset))[3], expected)


def test_a_loader_leaves_out_a_short_batch(dataset: WindowDataset) -> None:
    sampler = EpochSampler(dataset, seed=0)
    sizes = [len(batch["actions"]) for batch in make_loader(dataset, sampler, 4)]
    assert sizes == [4] * 6


# Clips for evaluation


def test_fixed_clips_are_the_same_every_time_and_differ(store: EpisodeStore) -> None:
    clips = fixed_clips(store, "train", 16, 30, seed=1)
    assert same(clips, fixed_clips(store, "train", 16, 30, seed=1))
    assert not same(clips, fixed_clips(store, "train", 16, 30, seed=2))
    assert clips["observations"].shape == (30, 16, 3, 16, 16)
    id, time = where(clips["observations"])
    assert (id == clips["episode"][:, None]).all()
    assert (time == clips["start"][:, None] + torch.arange(16)).all()
    assert len(set(zip(clips["episode"].tolist(), clips["start"].tolist(), strict=True))) == 30
    assert set(clips["episode"].tolist()) == {0, 3, 5, 6}


def test_fixed_clips_can_be_every_clip_there_is(store: EpisodeStore) -> None:
    every = 40 - 15 + 16 - 15 + 300 - 15 + 64 - 15
    assert len(fixed_clips(store, "train", 16, every)["start"]) == every
    with pytest.raises(DataError, match=f"has {every} clips of 16 frames, fewer than the {every + 1} wanted"):
        fixed_clips(store, "train", 16, every + 1)
