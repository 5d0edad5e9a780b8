"""Places of values in TFRecord files, compared with what TensorFlow wrote."""

import os

import pytest
import tensorflow as tf
from support import encoded_sets

from rsmatch_jax.data.stores import tfrecord


def example(**features) -> bytes:
    message = tf.train.Example()
    for key, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = message.features.feature[key]
        kinds = {bytes: "bytes_list", int: "int64_list", float: "float_list"}
        getattr(feature, kinds[type(values[0])]).value.extend(values)
    return message.SerializeToString()


def test_values_have_their_places_in_any_order(tmp_path):
    rows = [
        {"image": os.urandom(length), "label": label, "id": b"n", "box": [0.5] * 9}
        for length, label in ((0, 0), (3, 127), (1024, 128), (70_000, -1), (5, 2**40))
    ]
    # Protocol buffers fix no order of a map, so several orders are read.
    orders = [sorted(rows[0]), sorted(rows[0], reverse=True), list(rows[0])]
    ordered = [{key: row[key] for key in order} for order in orders for row in rows]
    path = encoded_sets.write_records(tmp_path / "f", [example(**r) for r in ordered])
    records = list(tfrecord.records(path, ("image", "label", "absent")))
    assert len(records) == len(list(tfrecord.records(path, ()))) == 15
    for record, row in zip(records, rows * 3, strict=True):
        assert record["label"] == row["label"]
        assert tfrecord.read(path, record["image"]) == row["image"]
        assert set(record) == {"image", "label"}


def test_lists_and_empty_features(tmp_path):
    one = {"image": [b"first", b"second"], "label": [7, 8]}
    empty = tf.train.Example()
    empty.features.feature["label"].int64_list.SetInParent()
    empty.features.feature["image"].SetInParent()
    records = [example(**one), empty.SerializeToString(), b""]
    path = encoded_sets.write_records(tmp_path / "f", records)
    first, *others = tfrecord.records(path, ("image", "label"))
    assert tfrecord.read(path, first["image"]) == b"first" and first["label"] == 7
    assert others == [{}, {}]


def test_damage_is_reported_with_the_number_of_complete_records(tmp_path):
    record = example(image=b"x" * 3000, label=1)
    path = encoded_sets.write_records(tmp_path / "f", [record] * 2)
    with open(path, "rb") as f:
        content = f.read()

    def search(changed: bytes):
        (tmp_path / "g").write_bytes(changed)
        return list(tfrecord.records(str(tmp_path / "g"), ("image", "label")))

    for end in (len(content) - 1, len(content) // 2 + 5, 11):
        message = f"{end * 2 // len(content)} complete"
        with pytest.raises(tfrecord.Damaged, match=message):
            search(content[:end])
        with pytest.raises(tfrecord.Damaged, match=message):
            list(tfrecord.records(str(tmp_path / "g"), ()))
    for junk in (os.urandom(40), b"\xff" * 40):
        with pytest.raises(tfrecord.Damaged, match="1 complete"):
            search(content[: len(content) // 2] + junk)
    for record, message in (
        (b"\x0b\xff\xff", "0 complete records"),
        (example(label=0.5), "neither bytes nor integers"),
    ):
        path = encoded_sets.write_records(tmp_path / "one", [record])
        with pytest.raises(tfrecord.Damaged, match=message):
            list(tfrecord.records(path, ("image", "label")))
