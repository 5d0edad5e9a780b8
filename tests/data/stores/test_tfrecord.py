"""Places of values found in TFRecord files, against what TensorFlow wrote."""

import os

import pytest
import tensorflow as tf
from support import encoded_sets

from rsmatch_jax.data.stores import tfrecord


def example(**features) -> bytes:
    def feature(value):
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    made = {key: feature(value) for key, value in features.items()}
    return tf.train.Example(
        features=tf.train.Features(feature=made)
    ).SerializeToString()


def test_values_are_found_wherever_they_stand_in_a_record(tmp_path):
    rows = [
        {"image": os.urandom(length), "label": label, "id": b"n", "box": [0.5] * 9}
        for length, label in ((0, 0), (3, 127), (1024, 128), (70_000, -1), (5, 2**40))
    ]
    # Protocol buffers fix no order of a map: every order once, at least.
    orders = [sorted(rows[0]), sorted(rows[0], reverse=True), list(rows[0])]
    path = encoded_sets.write_records(
        tmp_path / "f",
        [
            example(**{key: row[key] for key in order})
            for order in orders
            for row in rows
        ],
    )
    found = list(tfrecord.records(path, ("image", "label", "absent")))
    assert len(found) == 15
    for got, want in zip(found, rows * 3, strict=True):
        assert got["label"] == want["label"]
        assert tfrecord.read(path, got["image"]) == want["image"]
        assert set(got) == {"image", "label"}


def test_lists_and_empty_features(tmp_path):
    one = {"image": [b"first", b"second"], "label": [7, 8]}
    empty = tf.train.Example()
    empty.features.feature["label"].int64_list.SetInParent()
    empty.features.feature["image"].SetInParent()
    path = encoded_sets.write_records(
        tmp_path / "f", [example(**one), empty.SerializeToString(), b""]
    )
    first, *others = tfrecord.records(path, ("image", "label"))
    assert tfrecord.read(path, first["image"]) == b"first" and first["label"] == 7
    assert others == [{}, {}]


def test_what_is_no_record_is_told_with_its_number(tmp_path):
    path = encoded_sets.write_records(
        tmp_path / "f", [example(image=b"x" * 3000, label=1)] * 2
    )
    with open(path, "rb") as f:
        content = f.read()

    def search(changed: bytes, keys=("image", "label")):
        (tmp_path / "g").write_bytes(changed)
        return list(tfrecord.records(str(tmp_path / "g"), keys))

    for end in (len(content) - 1, len(content) // 2 + 5, 11):
        with pytest.raises(tfrecord.Damaged, match=f"{end * 2 // len(content)} whole"):
            search(content[:end])
    for junk in (os.urandom(40), b"\xff" * 40):
        with pytest.raises(tfrecord.Damaged, match="1 whole"):
            search(content[: len(content) // 2] + junk)
    with pytest.raises(tfrecord.Damaged, match="0 whole records"):
        search(write_and_read(tmp_path, b"\x0b\xff\xff"))
    floats = write_and_read(tmp_path, example(label=0.5))
    with pytest.raises(tfrecord.Damaged, match="neither bytes nor integers"):
        search(floats)


def write_and_read(tmp_path, record: bytes) -> bytes:
    path = encoded_sets.write_records(tmp_path / "one", [record])
    with open(path, "rb") as f:
        return f.read()
