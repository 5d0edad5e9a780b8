"""The dataset writer keeps bytes and writes all or nothing."""

import errno
import os

import numpy as np
import pytest
from support import encoded_sets, fresh_process
from support.pictures import decode, encode, noise

from rsmatch_jax.data.stores import tf_write
from rsmatch_jax.errors import RequestError

CLASSES = ("cat", "dog", "owl")
PICTURE = noise(8, 8, 3)


def write(folder, splits, **options):
    options = {"class_names": CLASSES, "size": (8, 8), **options}
    tf_write.write(str(folder), splits, **options)


def test_writer_keeps_bytes_and_refuses_an_existing_folder(tmp_path):
    data, folder = encode(PICTURE, "JPEG"), tmp_path / "9 lives"
    write(folder, {"train": [tf_write.Example(data, 2, "x")]})
    [example] = encoded_sets.stored(folder)
    assert (example["image"], example["label"]) == (data, 2)
    with pytest.raises(RequestError, match="exists already"):
        write(folder, {})
    with pytest.raises(RequestError, match="single lines"):
        write(tmp_path / "2", {}, class_names=("cat", "cat"))
    assert os.listdir(tmp_path) == ["9 lives"]


def test_a_killed_process_of_the_same_number_is_no_obstacle(tmp_path):
    """As in a container, whose commands often have the same one."""
    left = tmp_path / f".pets.partial-{os.getpid()}"
    left.mkdir()
    (left / "shard").write_bytes(b"cut")
    write(tmp_path / "pets", {"train": [tf_write.Example(PICTURE, 2, "x")]})
    assert os.listdir(tmp_path) == ["pets"]
    assert not (tmp_path / "pets" / "shard").exists()


def test_shards_named_after_their_content(tmp_path):
    """Two datasets of one name share no shard."""
    shards = []
    for label in (0, 2):
        folder = tmp_path / str(label)
        examples = [tf_write.Example(PICTURE, label, "x")]
        write(folder, {"train": examples}, name="my pets", digest_names=True)
        names = (folder / "label.labels.txt").read_text().split()
        assert tuple(names) == CLASSES
        shards += [path.name for path in folder.glob("*.tfrecord-00000*")]
        [example] = encoded_sets.stored(folder)
        assert example["label"] == label
        np.testing.assert_array_equal(decode(example["image"]), PICTURE)
    assert len(set(shards)) == 2
    assert all(name.startswith("my_pets-train-") for name in shards)


WRITE = """
import numpy as np
from rsmatch_jax.data.stores import tf_write
pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
tf_write.write(
    folder,
    {"train": [tf_write.Example(pixels, i, str(i), i) for i in range(2)]},
    class_names=("cat", "dog"),
    generator_names=("a", "b"),
    size=(8, 8),
    name="pets",
    digest_names=True,
)
"""


def test_another_process_writes_the_same_bytes(tmp_path):
    """Protocol buffers order an example's features by a seed of the process."""
    folders = [tmp_path / "there", tmp_path / "here"]
    fresh_process.run(f"folder = {str(folders[0])!r}\n{WRITE}")
    exec(WRITE, {"folder": str(folders[1])})
    there, here = ({p.name: p.read_bytes() for p in f.iterdir()} for f in folders)
    assert there == here


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def broken():
        yield tf_write.Example(PICTURE, 0, "x")
        raise RuntimeError("stop")

    def full(*args):
        raise tf_write.tf.errors.ResourceExhaustedError(None, None, "no space")

    with pytest.raises(RuntimeError, match="stop"):
        write(tmp_path / "p", {"train": broken()})
    with pytest.raises(RequestError, match="no images for .*p in train"):
        write(tmp_path / "p", {"train": []})
    monkeypatch.setattr(tf_write, "_write_splits", full)
    with pytest.raises(OSError, match="no space") as e:
        write(tmp_path / "p", {})
    assert e.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []
