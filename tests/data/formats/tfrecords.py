"""DMC-VB's files as TensorFlow Datasets writes them, made by hand: framing, checksums and wire format from the
specifications, nothing shared with the reader."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes, crc: Callable[[bytes], int]) -> bytes:
    value = crc(data)
    return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def write_tfrecord(path: Path, records: list[bytes], crc: Callable[[bytes], int] = crc32c) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + _masked(length, crc) + record + _masked(record, crc))


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: Mapping[str, Any], *, packed: bool = True) -> bytes:
    """A tf.train.Example: lists of bytes, float arrays and integer arrays by name."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, list):
            feature = _field(1, b"".join(_field(1, item) for item in value))
        elif value.dtype.kind == "f":
            numbers = value.astype("<f4").ravel()
            loose = b"".join(varint(1 << 3 | 5) + number.tobytes() for number in numbers)
            feature = _field(2, _field(1, numbers.tobytes()) if packed else loose)
        else:
            spelled = [varint(int(number)) for number in value.ravel()]
            loose = b"".join(varint(1 << 3) + number for number in spelled)
            feature = _field(3, _field(1, b"".join(spelled)) if packed else loose)
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


PACK: dict[str, Callable[[np.ndarray], bytes]] = {
    "zlib": lambda frame: zlib.compress(frame.tobytes()),
    "raw": lambda frame: frame.tobytes(),
    "png": lambda frame: _image(frame, "PNG"),
    "jpeg": lambda frame: _image(frame, "JPEG"),
}


def _image(frame: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind, quality=95)
    return file.getvalue()


def dmc_vb_episode(
    pixels: np.ndarray, action: np.ndarray, reward: np.ndarray, *, images: str = "zlib", actions: str = "zlib"
) -> dict[str, Any]:
    """The features of one episode: T frames; T actions and rewards, of which the last mean nothing."""
    frames = len(pixels)
    at = np.arange(frames)
    numbers: Any = action.astype(np.float32)
    if actions != "floats":
        numbers = [PACK[actions](row.astype("<f8")) for row in action]
    return {
        "steps/observation/pixels": [PACK[images](frame) for frame in pixels],
        "steps/action": numbers,
        "steps/reward": reward.astype(np.float32),
        "steps/is_first": (at == 0).astype(np.int64),
        "steps/is_last": (at == frames - 1).astype(np.int64),
        "steps/is_terminal": np.zeros(frames, np.int64),
    }
