"""Finds the images in TFRecord files without reading or decoding them. No TensorFlow.

A record is its length (uint64), a checksum (4 bytes), the data and a checksum
(tensorflow.org, "TFRecords format details"). TFDS's data are tf.train.Example messages:
a map from a feature's name to a list of bytes or integers, in the wire format of
protocol buffers. An image's bytes lie in them as one piece, which is skipped here and
read alone when it is wanted.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_PIECE = 1024  # bytes read at once: what stands before an image and behind it
_HEADER, _FOOTER = 12, 4
_VARINT, _LENGTH = 0, 2  # kinds of fields


class Damaged(Exception):
    """A file that is no row of whole records with the features asked for."""


class Place(NamedTuple):
    """Where a value lies in its file, in bytes."""

    offset: int
    length: int


Value = Place | int


def records(path: str, keys: Sequence[str]) -> Iterator[dict[str, Value]]:
    """The first value of each feature in `keys`, record by record: of bytes their
    place, of integers the value. A feature that a record lacks is left out.

    Raises: Damaged saying at which record; OSError.
    """
    size = os.path.getsize(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        file, position, number = _Pieces(descriptor), 0, 0
        while position < size:
            try:
                length = struct.unpack("<Q", file.read(position, 8))[0]
                begin = position + _HEADER
                position = begin + length + _FOOTER
                if position > size:
                    raise Damaged("the file ends within it")
                found = dict(_features(file, begin, begin + length, keys))
            except Damaged as e:
                raise Damaged(f"{number} whole records, then: {e}") from None
            yield found
            number += 1
    finally:
        os.close(descriptor)


def read(path: str, place: Place) -> bytes:
    """The bytes at a place. Callable from several threads. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(descriptor, place.length, place.offset)
    finally:
        os.close(descriptor)
    if len(data) != place.length:
        raise OSError(f"{path} has become shorter")
    return data


class _Pieces:
    """A file's bytes by position; what is skipped is not read."""

    def __init__(self, descriptor: int):
        self._descriptor, self._start, self._piece = descriptor, 0, b""

    def read(self, position: int, count: int) -> bytes:
        at = position - self._start
        if at < 0 or at + count > len(self._piece):
            self._piece = os.pread(self._descriptor, max(count, _PIECE), position)
            self._start, at = position, 0
        data = self._piece[at : at + count]
        if len(data) < count:
            raise Damaged("the file ends within it")
        return data

    def varint(self, position: int) -> tuple[int, int]:
        """A number in base 128, lowest digits first, and the position behind it."""
        value = shift = 0
        while shift < 64:
            byte = self.read(position, 1)[0]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
            shift += 7
        raise Damaged("it is no message")


def _fields(file: _Pieces, place: Place) -> Iterator[tuple[int, Value]]:
    """(number, place or whole number) of a message's fields."""
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
    file: _Pieces, begin: int, end: int, keys: Sequence[str]
) -> Iterator[tuple[str, Value]]:
    """Of an Example: features = 1, in it feature = 1, a map of key = 1, value = 2."""
    wanted = {key.encode(): key for key in keys}
    for _, features in _fields(file, Place(begin, end - begin)):
        for _, entry in _fields(file, _place(features)):
            parts = {number: _place(p) for number, p in _fields(file, _place(entry))}
            if parts.keys() < {1, 2}:
                continue  # a value that is empty
            key = wanted.get(file.read(*parts[1]))
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
