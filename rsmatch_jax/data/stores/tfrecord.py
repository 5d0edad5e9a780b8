"""Locates the images in TFRecord files, whose bytes are skipped and read later.

A record is its length (uint64), a checksum (4 bytes), the data and a checksum
(tensorflow.org, "TFRecords format details"). TFDS's data are tf.train.Example messages:
a map from a feature's name to a list of bytes or integers, as protocol buffers.
"""

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

_BUFFER = 1024  # bytes per read: enough for what surrounds an image in its record
_HEADER, _FOOTER = 12, 4  # bytes
_VARINT, _LENGTH = 0, 2  # wire types of a field


class Damaged(Exception):
    """A file is no sequence of complete records with the expected features."""


class Place(NamedTuple):
    """Where a value lies in its file, in bytes."""

    offset: int
    length: int


Value = Place | int


def records(path: str, keys: Sequence[str]) -> Iterator[dict[str, Value]]:
    """Yields the first value of each feature in `keys` that a record has.

    Bytes are given by their place, integers by value. Without keys, records are only
    counted. Raises Damaged with the number of records before, or OSError.
    """
    size = os.path.getsize(path)
    names = {key.encode(): key for key in keys}
    with open(path, "rb", buffering=_BUFFER) as file:
        position = number = 0
        while position < size:
            file.seek(position)
            length = int.from_bytes(file.read(8), "little")
            place = Place(position + _HEADER, length)
            position = place.offset + length + _FOOTER
            if position > size:
                raise Damaged(f"{number} complete records, then the file ends in one")
            try:
                features = dict(_features(file, place, names)) if names else {}
            except Damaged as e:
                raise Damaged(f"{number} complete records, then: {e}") from None
            yield features
            number += 1


def read(path: str, place: Place) -> bytes:
    """Returns the bytes at a place. Several threads may call it. Raises OSError."""
    with open(path, "rb") as file:
        file.seek(place.offset)
        data = file.read(place.length)
    if len(data) != place.length:
        raise OSError(f"{path} has become shorter")
    return data


def _varint(file: BinaryIO) -> int:
    """Reads a number in base 128, lowest digits first."""
    value = 0
    for shift in range(0, 64, 7):
        byte = ord(file.read(1) or b"\xff")  # the end of the file ends no number
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise Damaged("it is no message")


def _fields(file: BinaryIO, place: Place) -> Iterator[tuple[int, Value]]:
    """Yields (number, place or integer) of a message's fields."""
    position, end = place.offset, place.offset + place.length
    while position < end:
        file.seek(position)  # the file has moved since the last field
        tag, value = _varint(file), _varint(file)
        position = file.tell()
        if tag & 7 == _LENGTH:
            value = Place(position, value)
            position += value.length
        elif tag & 7 != _VARINT:
            raise Damaged("it is no message of bytes and integers")
        if position > end:
            raise Damaged("it is no message")
        yield tag >> 3, value


def _features(
    file: BinaryIO, place: Place, names: dict[bytes, str]
) -> Iterator[tuple[str, Value]]:
    """An Example is: features = 1, in it feature = 1, a map of key = 1, value = 2."""
    for _, features in _fields(file, place):
        for _, entry in _fields(file, _place(features)):
            parts = {number: _place(p) for number, p in _fields(file, _place(entry))}
            if parts.keys() < {1, 2}:
                continue  # an empty value
            file.seek(parts[1].offset)
            key = names.get(file.read(parts[1].length))
            if key is not None:
                yield from ((key, value) for value in _first(file, parts[2]))


def _first(file: BinaryIO, feature: Place) -> Iterator[Value]:
    """Yields the first value of a Feature: bytes_list = 1 or int64_list = 3."""
    for kind, values in _fields(file, feature):
        for _, value in _fields(file, _place(values)):
            if kind == 3:
                if isinstance(value, Place):  # packed
                    file.seek(value.offset)
                    value = _varint(file)
                value -= (value >> 63) << 64  # two's complement
            elif kind != 1:
                raise Damaged("a feature is neither bytes nor integers")
            yield value
            return


def _place(value: Value) -> Place:
    if not isinstance(value, Place):
        raise Damaged("it is no tf.train.Example")
    return value
