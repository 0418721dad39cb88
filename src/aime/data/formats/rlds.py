"""DMC-VB and other RLDS data: TFRecord files as TensorFlow Datasets writes them, one ``tf.train.Example`` per episode,
read without TensorFlow.

Frames are under ``steps/observation/<camera>``, zlib, PNG, JPEG or raw; actions under ``steps/action``, as numbers or
as bytes (float64 where no ``features.json`` says otherwise), zlib or raw. The last step of an episode has a frame, but
its action and reward mean nothing.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from aime.data.formats.episode import Episode, Reader, ReadOptions, SourceInfo
from aime.data.formats.frames import decode_image
from aime.data.formats.hdf5 import join_state
from aime.data.formats.passport import Origin, read_json
from aime.data.formats.tfrecord import Feature, parse_example, read_records
from aime.errors import DataError

_SEEN = "steps/observation/"
_USUAL = ("pixels", "image", "rgb")
_POLICIES = ("expert", "medium", "mixed", "random")
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def tfrecord_files(source: Path) -> list[Path]:
    """The TFRecord files in a folder and those below it, or the one that is named."""
    if source.is_file():
        return [source]
    return sorted(path for path in source.rglob("*.tfrecord*") if path.is_file())


class RldsReader(Reader):
    """See the module."""

    last_invalid: ClassVar[bool] = True

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self._files = tfrecord_files(source)
        if not self._files:
            raise DataError(f"{source} has no .tfrecord files")
        splits = [_split(path) for path in self._files]
        # Files of one split only leave it to the store which episodes are for testing.
        self._splits = splits if len(set(splits)) > 1 else [None] * len(splits)
        parts = self._files[0].resolve().parts
        task = next((part for part in parts if re.fullmatch(r"(walker|cheetah|humanoid)_[a-z]+", part)), None)
        self.info = SourceInfo(task=task.replace("_", "-") if task else None)

    def episodes(self, *, pixels: bool = True) -> Iterator[Episode]:
        for path, split in zip(self._files, self._splits, strict=True):
            declared = _declared(path.parent / "features.json")
            level = next((part for part in path.resolve().parts if part in _POLICIES), "unknown")
            for number, record in enumerate(read_records(path)):
                where = f"{path}: episode {number}"
                features = parse_example(record, where)
                del record  # the packed bytes are in the features; twice would be once too much
                columns, frames = self._columns(features, declared, where, pixels)
                yield Episode(where, frames, columns, Origin(policy=level, split=split))

    def _columns(
        self, features: dict[str, Feature], declared: dict[str, Any], where: str, pixels: bool
    ) -> tuple[dict[str, np.ndarray], int]:
        frames = next(
            (len(features[f"steps/{mark}"]) for mark in ("is_first", "is_last") if f"steps/{mark}" in features), 0
        )
        if not frames or "steps/action" not in features:
            missing = "steps/action" if frames else "steps/is_first"
            raise DataError(f"{where} has no key {missing}; it has {', '.join(sorted(features)) or 'none'}")
        columns = {
            name: _numbers(features[key], frames, declared.get(key, {}).get("dtype"), f"{where}, key {key}")
            for name, key in (("action", "steps/action"), ("reward", "steps/reward"))
            if key in features
        }
        if not pixels:
            return columns, frames
        key = self._camera(features, where)
        shape = declared.get(key, {}).get("shape")
        images = _images(features[key], frames, shape, f"{where}, key {key}")
        columns["pixels"] = self.options.fit.stack(images, f"{where}, key {key}")
        parts = {
            name.removeprefix(_SEEN): _numbers(
                value, frames, declared.get(name, {}).get("dtype"), f"{where}, key {name}"
            )
            for name, value in features.items()
            if name.startswith(_SEEN) and name != key and _is_state(name, value, declared)
        }
        if parts:
            state, sizes = join_state(parts)
            columns["state"] = state.astype(np.float32)
            self.info.details.setdefault("state", sizes)
        return columns, frames

    def _camera(self, features: dict[str, Feature], where: str) -> str:
        wanted = _USUAL if self.options.camera is None else (self.options.camera,)
        for name in wanted:
            if isinstance(features.get(_SEEN + name), list):
                return _SEEN + name
        there = sorted(name for name in features if name.startswith(_SEEN) and isinstance(features[name], list))
        names = ", ".join(name.removeprefix(_SEEN) for name in there) or "none"
        raise DataError(f"{where} has no frames under {_SEEN}{' or '.join(wanted)}; choose one with --camera: {names}")


def _is_state(name: str, value: Feature, declared: dict[str, Any]) -> bool:
    """Numbers of an observation; bytes only where they are declared to be numbers, few of them."""
    if isinstance(value, np.ndarray):
        return value.size > 0
    said = declared.get(name, {})
    return str(said.get("dtype", "")).startswith(("float", "int")) and len(said.get("shape", ())) <= 1


def _split(path: Path) -> str | None:
    found = re.search(r"-(train|validation|valid|val|test)\.tfrecord", path.name)
    return _SPLITS[found[1]] if found else None


def _inflate(data: bytes) -> bytes:
    """The bytes without zlib, where they are packed with it."""
    if len(data) > 2 and data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0:
        try:
            return zlib.decompress(data)
        except zlib.error:
            return data  # numbers that only begin like zlib; their size is checked by the caller
    return data


def _numbers(feature: Feature, frames: int, dtype: str | None, where: str) -> np.ndarray:
    """Numbers (frames, N), however they are packed."""
    if isinstance(feature, list):
        data = b"".join(_inflate(value) for value in feature)
        kind = np.dtype(dtype or ("float64" if len(data) % (8 * frames) == 0 else "float32"))
        if not data or len(data) % (kind.itemsize * frames):
            raise DataError(f"{where}: {len(data)} bytes are not {kind} numbers for {frames} steps")
        feature = np.frombuffer(data, kind)
    if feature.size == 0 or feature.size % frames:
        raise DataError(f"{where}: {feature.size} numbers do not divide into {frames} steps")
    return feature.reshape(frames, -1)


def _images(feature: Feature, frames: int, shape: tuple[int, ...] | None, where: str) -> Iterator[np.ndarray]:
    values = feature if isinstance(feature, list) else []
    if len(values) == 1 and frames > 1:  # all the steps in one piece
        whole = _inflate(values[0])
        step = len(whole) // frames
        values = [whole[number * step : (number + 1) * step] for number in range(frames)]
    if len(values) != frames:
        raise DataError(f"{where}: {len(values)} frames for {frames} steps")
    for number, value in enumerate(values):
        if value[:4] == b"\x89PNG" or value[:2] == b"\xff\xd8":
            yield decode_image(value, f"{where}, step {number}")
            continue
        raw = _inflate(value)
        side = math.isqrt(len(raw) // 3)
        full = shape or (side, side, 3)
        if not raw or math.prod(full) != len(raw):
            raise DataError(f"{where}, step {number}: {len(raw)} bytes are no frame of {full}")
        yield np.frombuffer(raw, np.uint8).reshape(full)


def _declared(path: Path) -> dict[str, Any]:
    """Types and shapes that ``features.json`` declares, by name; empty where there is no such file."""
    found: dict[str, Any] = {}

    def walk(node: Any, name: str) -> None:
        if not isinstance(node, dict):
            return
        for key, child in node.get("featuresDict", {}).get("features", {}).items():
            walk(child, f"{name}/{key}" if name else key)
        walk(node.get("sequence", {}).get("feature"), name)
        for kind in ("tensor", "image"):
            if isinstance(node.get(kind), dict):
                sizes = [int(size) for size in node[kind].get("shape", {}).get("dimensions", [])]
                known = sizes and min(sizes) > 0
                found[name] = {"dtype": node[kind].get("dtype"), "shape": tuple(sizes) if known else ()}

    if path.is_file():
        walk(read_json(path), "")
    return found
