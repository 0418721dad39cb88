"""TFRecord files and the ``tf.train.Example`` messages in them, with numpy and the standard library alone.

A file is a row of records: length (8 bytes), checksum of the length, the bytes, checksum of the bytes. Both checksums
are compared. An Example maps names to lists of byte strings, floats or integers, in the wire format of protocol
buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from aime.errors import DataError

Feature = list[bytes] | np.ndarray
"""Byte strings, or numbers: float32 or int64."""

_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file, one at a time.

    Raises:
        DataError: the file is missing, truncated, damaged or foreign.
    """
    try:
        left = path.stat().st_size
        with path.open("rb") as file:
            number = 0
            while left:
                header = file.read(12)
                size = _size(header, path, number)
                left -= 16 + size
                if left < 0:
                    raise DataError(f"{path} is truncated: it ends within record {number}")
                data, check = file.read(size), file.read(4)
                if masked_crc(data) != struct.unpack("<I", check)[0]:
                    raise DataError(f"{path} is damaged: the checksum of record {number} is wrong")
                yield data
                number += 1
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _size(header: bytes, path: Path, number: int) -> int:
    if len(header) < 12:
        raise DataError(f"{path} is truncated: it ends within record {number}")
    size, check = struct.unpack("<QI", header)
    if masked_crc(header[:8]) != check:
        what = "foreign: it is not a TFRecord file" if number == 0 else f"damaged: record {number} has no valid length"
        raise DataError(f"{path} is {what}")
    return int(size)


def masked_crc(data: bytes) -> int:
    """The checksum that a TFRecord file keeps: CRC-32C, rotated and shifted."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of the bytes.

    The checksum is linear: the data are cut into lanes whose checksums numpy takes side by side, and which are then
    joined pair by pair. So a megabyte takes milliseconds without a compiled package.
    """
    table, lanes = _table(), 1 << (len(data).bit_length() // 2 + 1)
    length = len(data) // lanes
    state = np.uint32(0xFFFFFFFF)
    if length >= 8:
        rows = np.frombuffer(data, np.uint8, lanes * length).reshape(lanes, length).T.astype(np.uint32, order="C")
        lane = np.zeros(lanes, np.uint32)
        lane[0] = state
        for row in rows:
            lane = table[(lane ^ row) & 255] ^ (lane >> 8)
        past = _zero_bytes(length)
        while len(lane) > 1:
            lane, past = _apply(past, lane[0::2]) ^ lane[1::2], _apply(past, past)
        state = lane[0]
    else:
        length = 0
    crc, words = int(state), table.tolist()
    for byte in data[lanes * length :]:
        crc = words[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


def _zero_bytes(count: int) -> np.ndarray:
    """What `count` zero bytes do to a register: where each of its 32 bits goes."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    one, all_of_them = _table()[bits & 255] ^ (bits >> 8), bits
    while count:
        if count & 1:
            all_of_them = _apply(one, all_of_them)
        one, count = _apply(one, one), count >> 1
    return all_of_them


def _apply(operator: np.ndarray, registers: np.ndarray) -> np.ndarray:
    moved = np.zeros_like(registers)
    for bit, image in enumerate(operator):
        moved ^= np.where(registers >> np.uint32(bit) & np.uint32(1), image, np.uint32(0))
    return moved


def parse_example(record: bytes, where: str) -> dict[str, Feature]:
    """The features of a ``tf.train.Example`` by name.

    Raises:
        DataError: the record is something else.
    """
    try:
        features: dict[str, Feature] = {}
        for _, message in _fields(memoryview(record), 1):
            for _, entry in _fields(message, 1):
                parts = dict(_fields(entry, 1, 2))
                features[bytes(parts[1]).decode()] = _feature(parts[2])
        return features
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise DataError(f"{where} is damaged or foreign: it is not a tf.train.Example") from error


def _feature(message: memoryview) -> Feature:
    for kind, values in _fields(message, 1, 2, 3):
        if kind == 1:
            return [bytes(value) for _, value in _fields(values, 1)]
        if kind == 2:
            return np.frombuffer(b"".join(bytes(part) for _, part in _fields(values, 1)), "<f4")
        return np.array([number for _, part in _fields(values, 1) for number in _varints(part)], np.uint64).astype(
            np.int64
        )
    return []


def _fields(message: memoryview, *wanted: int) -> Iterator[tuple[int, memoryview]]:
    """Numbers and contents of the wanted fields; a lone integer comes as the bytes that spell it."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        start, kind = at, tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            size, start = _varint(message, at)
            at = start + size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at > len(message):
            raise IndexError("a field goes past the end")
        if tag >> 3 in wanted:
            yield tag >> 3, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varints(part: memoryview) -> Iterator[int]:
    at = 0
    while at < len(part):
        value, at = _varint(part, at)
        yield value & 0xFFFFFFFFFFFFFFFF
