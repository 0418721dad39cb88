"""A store gives back what was put in, and names every file that is not what was written."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from aime.data.episodes import EpisodeRecord, StoreInfo
from aime.data.index import SPLITS, StoreIndex, assign_splits
from aime.data.shards import ShardWriter
from aime.data.store import EpisodeStore, StoreWriter, adopt_shards
from aime.errors import ConfigError, DataError
from tests.data.making import INFO, make_episode, make_store


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_episodes_come_back_exactly(tmp_path: Path) -> None:
    lengths = [40, 7, 16, 33]
    store = make_store(tmp_path, lengths, shard_bytes=20_000)
    assert len(store.index.shards) > 1, "the test is about more than one shard"
    assert [episode.length for episode in store.episodes] == lengths
    assert (store.action_dim, store.image_size, store.frames) == (2, 16, sum(lengths))
    for id, frames in enumerate(lengths):
        for name, array in make_episode(id, frames).items():
            read = store.episode(id)[name]
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)
            np.testing.assert_array_equal(store.read(id, 3, 6, [name])[name], array[3:6])
    store.verify()


def test_a_store_grows_and_keeps_what_it_had(tmp_path: Path) -> None:
    before = make_store(tmp_path, [20, 20, 20])
    splits = {episode.id: before.split_of(episode.id) for episode in before.episodes}
    with StoreWriter(tmp_path, INFO) as writer:
        assert writer.add(make_episode(3, 9), policy="test") == 3
    after = EpisodeStore.open(tmp_path)
    assert after.episodes[:3] == before.episodes
    assert len(after) == 4
    assert {id: after.split_of(id) for id in splits} == splits
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_is_of_the_data_and_not_of_its_files(tmp_path: Path) -> None:
    one = make_store(tmp_path / "one", [30, 20, 10])
    many = make_store(tmp_path / "many", [30, 20, 10], shard_bytes=1)
    other = make_store(tmp_path / "other", [30, 20, 10], seed=1)
    assert len(many.index.shards) == 3
    assert one.fingerprint == many.fingerprint != other.fingerprint


def test_another_process_can_read_a_store_that_is_open(tmp_path: Path) -> None:
    store = make_store(tmp_path, [20, 20])
    here = store.episode(1)["pixels"]
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.episode(1)["pixels"], here)
    child = os.fork()
    if child == 0:  # a forked process must not use its parent's handles
        same = store._owner != os.getpid() and np.array_equal(store.episode(1)["pixels"], here)
        os._exit(0 if same and store._owner == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(store.episode(1)["pixels"], here)


def test_only_so_many_shards_stay_open(tmp_path: Path) -> None:
    store = make_store(tmp_path, [2] * 40, shard_bytes=1)
    for id in range(40):
        assert store.episode(id)["pixels"][0, 0, 0, 0] == id
    assert len(store._opened) <= 32
    assert store.episode(0)["pixels"][0, 0, 0, 0] == 0


# What is wrong is named and left alone


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def replace_by_text(path: Path) -> None:
    path.write_text("not a shard" * 50_000)


def replace_by_other_hdf5(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        file["something"] = np.zeros(3)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (truncate, "truncated"),
        (replace_by_text, "foreign"),
        (replace_by_other_hdf5, "truncated"),
        (Path.unlink, "missing"),
    ],
)
def test_a_wrong_shard_is_named_and_left_untouched(tmp_path: Path, damage, word: str) -> None:
    make_store(tmp_path, [20, 20, 20], shard_bytes=1)
    damage(tmp_path / "shard-000001.h5")
    before = files_of(tmp_path)
    with pytest.raises(DataError, match=f"shard-000001.h5 is {word}.*copy") as caught:
        EpisodeStore.open(tmp_path)
    assert "shard-000000.h5" not in str(caught.value)
    assert files_of(tmp_path) == before


def test_all_wrong_shards_are_named_at_once(tmp_path: Path) -> None:
    make_store(tmp_path, [20, 20, 20], shard_bytes=1)
    truncate(tmp_path / "shard-000000.h5")
    (tmp_path / "shard-000002.h5").unlink()
    with pytest.raises(DataError, match=r"shard-000000.h5 is truncated.*shard-000002.h5 is missing"):
        EpisodeStore.open(tmp_path)


def test_verify_finds_a_changed_byte_that_open_does_not_see(tmp_path: Path) -> None:
    store = make_store(tmp_path, [20, 20])
    path = tmp_path / "shard-000000.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    EpisodeStore.open(tmp_path)
    with pytest.raises(DataError, match=r"shard-000000.h5 does not match its checksum"):
        store.verify()
    assert path.read_bytes() == bytes(content)


def test_a_shard_damaged_after_opening_gives_a_sentence(tmp_path: Path) -> None:
    store = make_store(tmp_path, [40, 40])
    path = tmp_path / "shard-000000.h5"
    with h5py.File(path, "r") as file:
        chunk = file["pixels"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-000000.h5 is damaged: frames"):
        store.episode(0)


@pytest.mark.parametrize("content", ["{", '{"format": "other"}', "[]"])
def test_a_damaged_or_foreign_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(DataError, match=r"index.json is (damaged|foreign)"):
        EpisodeStore.open(tmp_path)


def test_an_index_of_a_newer_version_asks_for_an_update(tmp_path: Path) -> None:
    make_store(tmp_path, [5])
    path = tmp_path / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(DataError, match="update AIME"):
        EpisodeStore.open(tmp_path)


def test_no_data_says_how_to_get_some(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"no data in {folder}.*aime collect"):
            EpisodeStore.open(folder)


def test_unknown_names_are_answered_with_near_ones(tmp_path: Path) -> None:
    store = make_store(tmp_path, [5, 5, 5])
    with pytest.raises(ConfigError, match="did you mean validation"):
        store.split("validate")
    with pytest.raises(ConfigError, match="did you mean pixels"):
        store.read(0, 0, 1, ["pixel"])
    with pytest.raises(DataError, match="no episode 7"):
        store.episode(7)
    with pytest.raises(DataError, match="frames 0 to 5; 3 to 6"):
        store.read(0, 3, 6)


# Writing


def bad_episodes() -> dict[str, tuple[dict, str]]:
    good = make_episode(0, 6)
    return {
        "no action": ({k: v for k, v in good.items() if k != "action"}, "action missing"),
        "floating pixels": (good | {"pixels": good["pixels"] / 255.0}, "pixels must be uint8"),
        "large actions": (good | {"action": good["action"] + 1}, r"in \[-1, 1\].*bounds"),
        "not numbers": (good | {"action": good["action"] * np.float32("nan")}, "finite"),
        "uneven": (good | {"reward": good["reward"][:-1]}, "another length"),
        "two starts": (good | {"is_first": np.ones(6, bool)}, "is_first"),
        "narrow mask": (good | {"segmentation": np.zeros((6, 8, 8), np.uint8)}, "segmentation"),
    }


@pytest.mark.parametrize("name", bad_episodes())
def test_an_episode_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    columns, words = bad_episodes()[name]
    with pytest.raises(DataError, match=words), StoreWriter(tmp_path, INFO) as writer:
        writer.add(columns, policy="test")
    assert not list(tmp_path.iterdir())


def test_episodes_of_a_store_are_alike(tmp_path: Path) -> None:
    make_store(tmp_path, [5])
    before = files_of(tmp_path)
    for other in (make_episode(1, 5, size=32), make_episode(1, 5) | {"more": np.zeros(5)}):
        with pytest.raises(DataError), StoreWriter(tmp_path, INFO) as writer:
            writer.add(other, policy="test")
    with pytest.raises(DataError, match="other-task goes into a folder of its own"):
        StoreWriter(tmp_path, StoreInfo("other-task", 0.1, 1))
    assert files_of(tmp_path) == before


def test_a_shard_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "shard-000000.h5"
    with pytest.raises(ZeroDivisionError), ShardWriter(path, INFO) as writer:
        writer.append(make_episode(0, 5), id=0, policy="test", seed=0, renderer="none")
        assert not path.exists()
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "shard-000000.h5"
    path.write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        ShardWriter(path, INFO)
    assert path.read_text() == "mine"


def test_a_full_disk_leaves_a_sentence_and_no_half_shard(tmp_path: Path) -> None:
    """The system itself refuses to write further than 200 kB, as it does on a full disk."""
    make_store(tmp_path, [20])
    before = files_of(tmp_path)
    code = f"""
        import resource
        from aime.data.store import StoreWriter
        from aime.errors import DataError
        from tests.data.making import INFO, make_episode
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            with StoreWriter({str(tmp_path)!r}, INFO) as writer:
                for id in range(1, 100):
                    writer.add(make_episode(id, 50), policy="test")
        except DataError as error:
            print(id, error)
    """
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "could not write" in done.stdout and "File too large" in done.stdout and "make room" in done.stdout
    assert int(done.stdout.split()[0]) > 1, "at least one episode fitted"
    assert files_of(tmp_path) == before
    EpisodeStore.open(tmp_path).verify()


def test_a_whole_shard_that_the_index_lost_is_found_again(tmp_path: Path) -> None:
    whole = make_store(tmp_path, [20, 20, 20], shard_bytes=1).index
    (tmp_path / "shard-000009.h5").write_text("foreign")
    less = StoreIndex(whole.info, whole.columns, whole.shards[:1], whole.episodes[:1])
    assert adopt_shards(tmp_path, less) == whole
    assert adopt_shards(tmp_path, None) == whole
    assert adopt_shards(tmp_path / "empty", None) is None


# Splits


def records(ids: range | list[int], split: str | None = None) -> list[EpisodeRecord]:
    return [EpisodeRecord(id, 10, "test", 0, "none", "", "", 0, split) for id in ids]


@pytest.mark.parametrize("count", [3, 4, 10, 11, 57, 1000])
def test_splits_share_no_episode_and_none_is_empty(count: int) -> None:
    splits = assign_splits(records(range(count)))
    assert sorted(splits) == list(range(count))
    assert set(splits.values()) == set(SPLITS)
    held_out = sum(split != "train" for split in splits.values())
    assert abs(held_out - count / 5) <= 2


def test_an_episode_keeps_its_split_when_more_come() -> None:
    large = assign_splits(records(range(500)))
    for count in (3, 10, 37, 200):
        small = assign_splits(records(range(count)))
        assert all(large[id] == split for id, split in small.items())


def test_no_split_is_empty_where_ids_are_missing() -> None:
    assert set(assign_splits(records([0, 5, 6])).values()) == set(SPLITS)


def test_splits_of_the_source_are_kept() -> None:
    episodes = [*records([0], "test"), *records([1, 2], "train")]
    assert assign_splits(episodes) == {0: "test", 1: "train", 2: "train"}
    alone = records([0, 1, 2], "test")  # as with a model that was given away
    assert set(assign_splits(alone).values()) == {"test"}
    whole = [*records([0, 1, 2], "test"), *records([3], "train"), *records([4], "validation")]
    assert assign_splits(whole) == {0: "test", 1: "test", 2: "test", 3: "train", 4: "validation"}


@pytest.mark.parametrize(("there", "missing"), [("validation", "test"), ("test", "validation")])
def test_a_held_out_split_that_the_source_does_not_know_takes_half_of_the_other(there: str, missing: str) -> None:
    episodes = [*records([0, 2, 4], "train"), *records([1, 3, 5, 6, 9], there)]
    splits = assign_splits(episodes)
    assert splits == assign_splits(episodes[::-1])
    assert [id for id, split in splits.items() if split == missing] == [3, 6]
    assert [id for id, split in splits.items() if split == there] == [1, 5, 9]
    assert all(splits[id] == "train" for id in (0, 2, 4))


def test_too_few_episodes_for_a_split_gives_a_sentence(tmp_path: Path) -> None:
    store = make_store(tmp_path, [5, 5])
    assert store.split("train") == [0] and store.split("validation") == [1]
    with pytest.raises(DataError, match=r"no episode for the test split: it has 2 episodes.*at least 3"):
        store.split("test")


def test_a_split_that_the_source_did_not_record_gives_a_sentence(tmp_path: Path) -> None:
    """More episodes would not help: the sentence says what was recorded instead."""
    with StoreWriter(tmp_path, INFO) as writer:
        for id, split in enumerate(["train", "train", "train", "validation"]):
            writer.add(make_episode(id, 5), policy="test", split=split)
    store = EpisodeStore.open(tmp_path)
    assert store.split("validation") == [3]
    with pytest.raises(DataError, match=r"for the test split: .*\(train 3, validation 1\).*--split") as caught:
        store.split("test")
    assert "Collect" not in str(caught.value)


def test_the_episodes_for_the_tests_are_whole(humanoid_store_path: Path, cartpole_store_path: Path) -> None:
    for path, task, actions in (
        (humanoid_store_path, "humanoid-walk", 21),
        (cartpole_store_path, "cartpole-swingup", 1),
    ):
        store = EpisodeStore.open(path)
        store.verify()
        assert (store.task, store.action_dim, store.image_size) == (task, actions, 64)
        assert all(store.split(split) for split in SPLITS)
        for episode in store.episodes:
            columns = store.episode(episode.id)
            assert np.abs(np.diff(columns["pixels"].astype(int), axis=0)).mean() > 0.3, "the video is lively"
            body = columns["segmentation"] > 0
            assert 0.002 < body.mean() < 0.2, "the body is seen and is not the whole picture"
