"""DMC-VB look-alikes, written by the test, come in exactly; damaged ones are named."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from aime.data.formats import tfrecord
from aime.data.formats.importing import ImportConfig, import_data
from aime.data.formats.registry import open_reader
from aime.data.store import EpisodeStore
from aime.errors import DataError
from tests.data.formats import tfrecords
from tests.data.formats.scenes import psnr, smooth_frames

NAME = "distracting_control-train.tfrecord-00000-of-00002"


def make(seed: int, frames: int = 9, size: int = 32, actions: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (frames, actions))
    action[-1] = 37.0  # whatever was in the buffer
    reward = rng.random(frames).astype(np.float32)
    reward[-1] = np.nan
    return smooth_frames(frames, size, seed), action, reward


def read(folder: Path, out: Path, **options: object) -> EpisodeStore:
    return import_data(ImportConfig(folder, out, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("images", ["zlib", "raw", "png", "jpeg"])
@pytest.mark.parametrize("actions", ["zlib", "raw", "floats"])
def test_every_packing_of_frames_and_actions_is_read(tmp_path: Path, images: str, actions: str) -> None:
    pixels, action, reward = make(0, frames=4)
    features = tfrecords.dmc_vb_episode(pixels, action, reward, images=images, actions=actions)
    tfrecords.write_tfrecord(
        tmp_path / "in" / NAME, [tfrecords.example(features, packed=images != "raw")], tfrecord.crc32c
    )
    episode = read(tmp_path / "in", tmp_path / "out").episode(0)
    if images == "jpeg":
        assert psnr(episode["pixels"], pixels) > 35
    else:
        np.testing.assert_array_equal(episode["pixels"], pixels)
    np.testing.assert_array_equal(episode["action"][:-1], action[:-1].astype(np.float32))


def test_the_last_step_keeps_its_frame_and_loses_its_action_and_reward(tmp_path: Path) -> None:
    pixels, action, reward = make(1)
    record = tfrecords.example(tfrecords.dmc_vb_episode(pixels, action, reward))
    tfrecords.write_tfrecord(tmp_path / "in" / NAME, [record])
    episode = read(tmp_path / "in", tmp_path / "out").episode(0)
    assert len(episode["pixels"]) == len(pixels)
    assert not episode["action"][-1].any() and episode["reward"][-1] == 0
    np.testing.assert_array_equal(episode["reward"][:-1], reward[:-1])


def test_policy_task_and_split_come_from_where_the_files_lie(tmp_path: Path) -> None:
    folder = tmp_path / "humanoid_walk" / "medium" / "static_medium"
    for number, name in enumerate([NAME, NAME.replace("train", "validation")]):
        records = [tfrecords.example(tfrecords.dmc_vb_episode(*make(10 * number + k, actions=21))) for k in range(2)]
        tfrecords.write_tfrecord(folder / name, records)
    store = read(tmp_path / "humanoid_walk", tmp_path / "out")
    assert store.task == "humanoid-walk" and store.action_dim == 21
    assert [record.policy for record in store.episodes] == ["medium"] * 4
    assert [record.split for record in store.episodes] == ["train", "train", "validation", "validation"]


def test_files_of_one_split_leave_the_splits_to_the_store(tmp_path: Path) -> None:
    records = [tfrecords.example(tfrecords.dmc_vb_episode(*make(k))) for k in range(3)]
    tfrecords.write_tfrecord(tmp_path / "in" / NAME, records)
    store = read(tmp_path / "in", tmp_path / "out")
    assert len(store.split("test")) == len(store.split("validation")) == 1


def test_numbers_are_read_as_they_are_declared_and_make_a_state(tmp_path: Path) -> None:
    pixels, action, reward = make(3)
    height, velocity = np.random.default_rng(3).standard_normal((2, len(pixels), 2))
    features = tfrecords.dmc_vb_episode(pixels, action, reward)
    # Six float32 are as many bytes as three float64: only the declaration can tell.
    features["steps/action"] = [tfrecords.PACK["zlib"](row.astype("<f4")) for row in action]
    features["steps/observation/velocity"] = [tfrecords.PACK["zlib"](row) for row in velocity]
    features["steps/observation/height"] = height.astype(np.float32)
    features["steps/observation/words"] = [b"walk"] * len(pixels)
    tfrecords.write_tfrecord(tmp_path / "in" / NAME, [tfrecords.example(features)])

    def tensor(dtype: str, *shape: int) -> dict[str, object]:
        return {"tensor": {"dtype": dtype, "shape": {"dimensions": [str(size) for size in shape]}, "encoding": "zlib"}}

    seen = {"pixels": tensor("uint8", 32, 32, 3), "velocity": tensor("float64", 2), "words": tensor("string")}
    steps = {"action": tensor("float32", 6), "observation": {"featuresDict": {"features": seen}}}
    declared = {
        "featuresDict": {"features": {"steps": {"sequence": {"feature": {"featuresDict": {"features": steps}}}}}}
    }
    (tmp_path / "in" / "features.json").write_text(json.dumps(declared))
    store = read(tmp_path / "in", tmp_path / "out")
    assert store.action_dim == 6
    np.testing.assert_array_equal(store.episode(0)["action"][:-1], action[:-1].astype(np.float32))
    np.testing.assert_allclose(store.episode(0)["state"], np.concatenate([height, velocity], axis=1), rtol=1e-6)
    assert store.index.info.details["state"] == {"height": 2, "velocity": 2}


def test_another_camera_by_its_name(tmp_path: Path) -> None:
    pixels, action, reward = make(4)
    features = tfrecords.dmc_vb_episode(pixels, action, reward)
    features["steps/observation/walker/egocentric_camera"] = features.pop("steps/observation/pixels")
    tfrecords.write_tfrecord(tmp_path / "in" / NAME, [tfrecords.example(features)])
    with pytest.raises(DataError, match=r"choose one with --camera: walker/egocentric_camera"):
        read(tmp_path / "in", tmp_path / "out")
    store = read(tmp_path / "in", tmp_path / "out", camera="walker/egocentric_camera")
    np.testing.assert_array_equal(store.episode(0)["pixels"], pixels)


@pytest.mark.parametrize("size", [0, 1, 7, 255, 256, 4095, 65_537])
def test_checksums_equal_those_taken_bit_by_bit(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert tfrecord.crc32c(data) == tfrecords.crc32c(data)


def test_checksum_of_the_specification() -> None:
    assert tfrecord.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-10], "truncated: it ends within record 1"),
        (lambda data: data[: len(data) // 2 - 5], "truncated: it ends within record 0"),
        (lambda data: data[:5], "truncated"),
        (lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:], "checksum of record 0 is wrong"),
        (lambda data: b"PK\x03\x04" + data[4:], "foreign: it is not a TFRecord file"),
        (lambda data: struct.pack("<Q", 1 << 60) + data[8:], "foreign"),
    ],
    ids=["end", "middle", "header", "bit", "zip", "length"],
)
def test_damaged_files_are_named_and_untouched(tmp_path: Path, damage: object, words: str) -> None:
    file = tmp_path / "in" / NAME
    records = [tfrecords.example(tfrecords.dmc_vb_episode(*make(0, frames=3)))] * 2
    tfrecords.write_tfrecord(file, records)
    broken = damage(file.read_bytes())  # type: ignore[operator]
    file.write_bytes(broken)
    with pytest.raises(DataError, match=words) as told:
        read(tmp_path / "in", tmp_path / "out")
    assert NAME in str(told.value)
    assert file.read_bytes() == broken
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps/action": None}, "steps/action"),
        ({"steps/is_first": None, "steps/is_last": None}, "steps/is_first"),
        ({"steps/action": [b"12345"] * 9}, "key steps/action: 45 bytes"),
        ({"steps/action": np.zeros(7, np.float32)}, "key steps/action: 7 numbers"),
        ({"steps/observation/pixels": [b"\x00" * 12] * 8}, "8 frames for 9 steps"),
        ({"steps/observation/pixels": [b"\x00" * 13] * 9}, "13 bytes are no frame"),
        ({"steps/observation/pixels": [b"\x89PNG no more"] * 9}, "pixels, step 0"),
        ({"steps/reward": np.full(9, np.nan)}, "key reward is not finite"),
    ],
    ids=["no action", "no marks", "bytes", "count", "frames", "frame", "png", "reward"],
)
def test_wrong_contents_are_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    features = tfrecords.dmc_vb_episode(*make(0)) | change
    kept = {key: value for key, value in features.items() if value is not None}
    tfrecords.write_tfrecord(tmp_path / "in" / NAME, [tfrecords.example(kept)])
    with pytest.raises(DataError, match=words) as told:
        read(tmp_path / "in", tmp_path / "out")
    assert NAME in str(told.value) and "episode 0" in str(told.value)


def test_a_record_that_is_no_example_is_named(tmp_path: Path) -> None:
    tfrecords.write_tfrecord(tmp_path / "in" / NAME, [b"\x0a\xff\xff\xff\xff\x0fhello"])
    with pytest.raises(DataError, match=r"episode 0 is damaged or foreign: it is not a tf.train.Example"):
        next(open_reader("rlds", tmp_path / "in").episodes())
