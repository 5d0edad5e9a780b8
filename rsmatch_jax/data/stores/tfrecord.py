"""Locates the images in TFRecord files without reading or decoding them.

A record is its length (uint64), a checksum (4 bytes), the data and a checksum
(tensorflow.org, "TFRecords format details"). TFDS's data are tf.train.Example messages:
a map from a feature's name to a list of bytes or integers, in the wire format of
protocol buffers. An image's bytes are one piece of a record, which is skipped here and
read later by its place. Needs no TensorFlow.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_PIECE = 1024  # bytes per read: enough for what surrounds an image in its record
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

    Bytes are given by their place, integers by value.

    Raises:
        Damaged: with the number of records before the damage.
        OSError: the file cannot be read.
    """
    for file, place, number in _frames(path):
        try:
            features = dict(_features(file, place, keys))
        except Damaged as e:
            raise Damaged(f"{number} complete records, then: {e}") from None
        yield features


def count(path: str) -> int:
    """Returns the number of records. Raises Damaged and OSError as `records`."""
    return sum(1 for _ in _frames(path))


def read(path: str, place: Place) -> bytes:
    """Returns the bytes at a place. Several threads may call it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(descriptor, place.length, place.offset)
    finally:
        os.close(descriptor)
    if len(data) != place.length:
        raise OSError(f"{path} has become shorter")
    return data


class _Pieces:
    """A file's bytes by position. What is skipped is not read."""

    def __init__(self, descriptor: int):
        self._descriptor, self._start, self._piece = descriptor, 0, b""

    def read(self, position: int, count: int) -> bytes:
        start = position - self._start
        if start < 0 or start + count > len(self._piece):
            self._piece = os.pread(self._descriptor, max(count, _PIECE), position)
            self._start, start = position, 0
        data = self._piece[start : start + count]
        if len(data) < count:
            raise Damaged("the file ends in it")
        return data

    def varint(self, position: int) -> tuple[int, int]:
        """A number in base 128, lowest digits first, and the position after it."""
        value = shift = 0
        while shift < 64:
            byte = self.read(position, 1)[0]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
            shift += 7
        raise Damaged("it is no message")


def _frames(path: str) -> Iterator[tuple[_Pieces, Place, int]]:
    """The file, the place of each record's data, and the record's number from 0."""
    size = os.path.getsize(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        file, position, number = _Pieces(descriptor), 0, 0
        while position < size:
            length = size  # too long, unless the header is complete
            if position + _HEADER <= size:
                length = struct.unpack("<Q", file.read(position, 8))[0]
            place = Place(position + _HEADER, length)
            position = place.offset + place.length + _FOOTER
            if position > size:
                raise Damaged(f"{number} complete records, then the file ends in one")
            yield file, place, number
            number += 1
    finally:
        os.close(descriptor)


def _fields(file: _Pieces, place: Place) -> Iterator[tuple[int, Value]]:
    """(number, place or integer) of a message's fields."""
    position, end = place.offset, place.offset + place.length
    while position < end:
        tag, position = file.varint(position)
        value, position = file.varint(position)
        if tag & 7 == _LENGTH:
            value = Place(position, value)
            position += value.length
        elif tag & 7 != _VARINT:
            raise Damaged("it is no message of bytes and integers")
        yield tag >> 3, value
    if position != end:
        raise Damaged("it is no message")


def _features(
    file: _Pieces, place: Place, keys: Sequence[str]
) -> Iterator[tuple[str, Value]]:
    """An Example is: features = 1, in it feature = 1, a map of key = 1, value = 2."""
    names = {key.encode(): key for key in keys}
    for _, features in _fields(file, place):
        for _, entry in _fields(file, _place(features)):
            parts = {number: _place(p) for number, p in _fields(file, _place(entry))}
            if parts.keys() < {1, 2}:
                continue  # an empty value
            key = names.get(file.read(*parts[1]))
            if key is not None:
                yield from ((key, value) for value in _first(file, parts[2]))


def _first(file: _Pieces, feature: Place) -> Iterator[Value]:
    """The first value of a Feature: bytes_list = 1 or int64_list = 3, value = 1."""
    for kind, values in _fields(file, feature):
        for _, value in _fields(file, _place(values)):
            if kind == 3:
                if isinstance(value, Place):  # packed
                    value = file.varint(value.offset)[0]
                value -= (value >> 63) << 64  # two's complement
            elif kind != 1:
                raise Damaged("a feature is neither bytes nor integers")
            yield value
            return


def _place(value: Value) -> Place:
    if not isinstance(value, Place):
        raise Damaged("it is no tf.train.Example")
    return value
