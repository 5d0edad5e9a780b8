"""The dataset writer keeps bytes and writes all or nothing."""

import errno
import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from rsmatch_jax.data.stores import tf_write
from rsmatch_jax.errors import RequestError

CLASSES = ("cat", "dog", "owl")
SIZE = 8
ROOT = pathlib.Path(__file__).parents[3]


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def test_writer_keeps_bytes_and_refuses_an_existing_folder(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, format="JPEG", quality=80)
    folder = str(tmp_path / "9 lives")
    examples = [tf_write.Example(buffer.getvalue(), 2, "x")]
    tf_write.write(folder, {"train": examples}, class_names=CLASSES, size=(SIZE, SIZE))
    builder = tfds.builder_from_directory(folder)
    assert builder.info.features["label"].names == list(CLASSES)
    skip = {"image": tfds.decode.SkipDecoding()}
    (example,) = tfds.as_numpy(builder.as_dataset("train", decoders=skip))
    assert example["image"] == buffer.getvalue()
    assert example["label"] == 2
    with pytest.raises(RequestError, match="exists already"):
        tf_write.write(folder, {}, class_names=CLASSES, size=(SIZE, SIZE))
    with pytest.raises(RequestError, match="single lines"):
        tf_write.write(folder + "2", {}, class_names=("cat", "cat"), size=(SIZE, SIZE))
    assert os.listdir(tmp_path) == ["9 lives"]


def test_shards_named_after_their_content(tmp_path):
    """Two datasets of one name share no shard; equal ones are equal byte for byte."""

    def files(folder, label):
        tf_write.write(
            str(tmp_path / folder),
            {"train": [tf_write.Example(picture(), label, "x")]},
            class_names=CLASSES,
            size=(SIZE, SIZE),
            name="my pets",
            digest_names=True,
        )
        paths = sorted((tmp_path / folder).iterdir())
        return {path.name: path.read_bytes() for path in paths}

    one, same, other = files("one", 0), files("same", 0), files("other", 2)
    assert one == same
    assert "label.labels.txt" in one
    shards = [n for f in (one, other) for n in f if ".tfrecord-00000" in n]
    assert len(set(shards)) == 2
    assert all(n.startswith("my_pets-train-") for n in shards)
    for folder, label in (("one", 0), ("other", 2)):
        builder = tfds.builder_from_directory(str(tmp_path / folder))
        (example,) = tfds.as_numpy(builder.as_dataset("train"))
        assert example["label"] == label
        np.testing.assert_array_equal(example["image"], picture())


WRITE = """
import sys
import numpy as np
from rsmatch_jax.data.stores import tf_write
pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
tf_write.write(
    sys.argv[1],
    {"train": [tf_write.Example(pixels, i, str(i), i) for i in range(2)]},
    class_names=("cat", "dog"),
    generator_names=("a", "b"),
    size=(8, 8),
    name="pets",
    digest_names=True,
)
"""


def test_another_process_writes_the_same_bytes(tmp_path, monkeypatch):
    """Protocol buffers order an example's features by a seed of the process."""
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders[:2]:
        subprocess.run([sys.executable, "-c", WRITE, str(folder)], check=True, cwd=ROOT)
    monkeypatch.setattr(sys, "argv", ["", str(folders[2])])
    exec(WRITE, {})  # and in this process
    trees = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders]
    assert trees[0] == trees[1] == trees[2]


def test_a_full_disk_raises_oserror(tmp_path, monkeypatch):
    def full(*args):
        raise tf_write.tf.errors.ResourceExhaustedError(None, None, "no space")

    monkeypatch.setattr(tf_write, "_write_splits", full)
    with pytest.raises(OSError, match="no space") as e:
        tf_write.write(str(tmp_path / "p"), {}, class_names=CLASSES, size=(8, 8))
    assert e.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_writer_leaves_nothing_after_a_failure(tmp_path):
    def broken():
        yield tf_write.Example(picture(), 0, "x")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        tf_write.write(
            str(tmp_path / "p"), {"train": broken()}, class_names=CLASSES, size=(8, 8)
        )
    assert os.listdir(tmp_path) == []
