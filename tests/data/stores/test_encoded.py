"""Encoded images: an index of where they lie, decoded where they are read."""

import functools
import io
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from support import encoded_sets

from rsmatch_jax.data import rs_ssl, sources
from rsmatch_jax.data.stores import arrays, encoded, encoded_index, tf_write
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.metrics import measure

SIZE = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of a real dataset `pets` and a pool, the files in them)."""
    root = tmp_path_factory.mktemp("data")
    files = encoded_sets.write(root / "pets" / "1.0.0", {"train": 24, "test": 6})
    files |= {
        "pool": encoded_sets.write(
            root / "pool", {"train": 32}, generators=("a", "b"), first=100
        )["train"]
    }
    return root, files


@pytest.fixture
def data_dir(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def load(tmp_path):
    return functools.partial(
        sources.load_real,
        download=False,
        cache_dir=str(tmp_path / "cache"),
        image_size=SIZE,
    )


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def stored_files(images: encoded.EncodedImages) -> list[bytes]:
    return [images.read(index) for index in range(len(images))]


# --- the index -----------------------------------------------------------------------


def test_index_holds_what_tfds_reads_in_natural_order(made, load):
    root, files = made
    train, test = load("pets", data_dir=str(root))
    assert train.class_names == encoded_sets.CLASSES and train.name == "pets"
    for split, data in (("train", train), ("test", test)):
        skip = {"image": tfds.decode.SkipDecoding()}
        builder = tfds.builder_from_directory(str(root / "pets" / "1.0.0"))
        rows = {
            int(row["id"].decode().split("_")[1]): row
            for row in tfds.as_numpy(builder.as_dataset(split, decoders=skip))
        }
        assert sorted(rows) == list(range(1, len(data.labels) + 1))
        stored = stored_files(data.images)
        assert stored == files[split] == [rows[i]["image"] for i in sorted(rows)]
        np.testing.assert_array_equal(
            data.labels, [rows[i]["label"] for i in sorted(rows)]
        )


def test_pool_with_its_generators(made, tmp_path):
    root, files = made
    pool = sources.load_pool(
        str(root / "pool"), cache_dir=str(tmp_path), image_size=SIZE
    )
    assert pool.generator_names == ("a", "b")
    np.testing.assert_array_equal(pool.generators, np.arange(32) // 4 % 2)
    assert stored_files(pool.images) == files["pool"]
    with pytest.raises(RequestError, match="--generator=NAME"):
        sources.load_pool(
            str(root / "pets" / "1.0.0"), cache_dir=str(tmp_path), image_size=SIZE
        )


def test_several_shards_and_order_of_files_without_ids(tmp_path, monkeypatch, load):
    monkeypatch.setattr(tf_write, "_EXAMPLES_PER_SHARD", 5)
    files = encoded_sets.write(tmp_path / "set", {"train": 12, "test": 3})
    train, _ = load(str(tmp_path / "set"))
    assert len(train.images.files) == 3
    assert stored_files(train.images) == files["train"]
    monkeypatch.setattr(encoded_index, "_ORDERS", ())
    shutil.rmtree(tmp_path / "cache")
    train, _ = load(str(tmp_path / "set"))
    stored = sorted(range(1, 13), key=str)
    assert stored_files(train.images) == [files["train"][i - 1] for i in stored]


def test_second_start_searches_nothing_and_needs_no_tensorflow(made, tmp_path, load):
    root, files = made
    load("pets", data_dir=str(root))
    code = f"""
import sys
for blocked in ("tensorflow", "tensorflow_datasets"):
    sys.modules[blocked] = None
from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import encoded_index
encoded_index.build = None
train, test = sources.load_real(
    "pets", data_dir={str(root)!r}, cache_dir={str(tmp_path / "cache")!r}, image_size=9
)
assert train.images.shape == (24, 9, 9, 3) and test.images[2:4].shape == (2, 9, 9, 3)
assert train.images.read(3) == {files["train"][3]!r}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("damage", ["bit", "path", "meta"])
def test_a_damaged_index_is_made_again_with_one_warning(
    made, tmp_path, load, damage, caplog
):
    load("pets", data_dir=str(made[0]))
    (entry,) = (at for at, _, _ in os.walk(tmp_path / "cache") if at[-6:] == "/train")
    name = "places.npy" if damage == "bit" else "meta.json"
    with open(os.path.join(entry, name), "rb") as f:
        content = bytearray(f.read())
    if damage == "bit":
        content[-1] ^= 1
    elif damage == "path":  # out of the dataset's folder
        meta = json.loads(content)
        meta["shards"] = ["../" + shard for shard in meta["shards"]]
        content = json.dumps(meta).encode()
    with open(os.path.join(entry, name), "wb") as f:
        f.write(content[:50] if damage == "meta" else content)
    caplog.clear()
    with caplog.at_level("WARNING", logger="absl"):
        train, _ = load("pets", data_dir=str(made[0]))
    assert stored_files(train.images) == made[1]["train"]
    assert len([r for r in caplog.records if "again" in r.getMessage()]) == 1


def test_test_split_without_labels_gives_way_to_validation(tmp_path, load):
    folder = tmp_path / "net" / "1.0.0"
    encoded_sets.write(folder, {"train": 8, "test": 3, "validation": 5})
    _, test = load("net", data_dir=str(tmp_path))
    assert len(test.labels) == 3
    (shard,) = (p for p in folder.iterdir() if "-test" in p.name)
    rows = [r.numpy() for r in tf.data.TFRecordDataset(str(shard))]
    for i, row in enumerate(rows):
        parsed = tf.train.Example.FromString(row)
        parsed.features.feature["label"].int64_list.value[:] = [-1]
        rows[i] = parsed.SerializeToString()
    encoded_sets.write_records(shard, rows)
    _, test = load("net", data_dir=str(tmp_path))
    assert len(test.labels) == 5


# --- what is in the way --------------------------------------------------------------


def shard_of(data_dir, split):
    folder = data_dir / "pets" / "1.0.0"
    return next(p for p in folder.iterdir() if f"-{split}." in p.name)


def test_damaged_and_absent_shards_are_named(data_dir, load):
    shard = shard_of(data_dir, "train")
    content = shard.read_bytes()
    shard.write_bytes(content[:-7])
    with pytest.raises(RequestError, match=f"{shard.name} is truncated.*23 whole rec"):
        load("pets", data_dir=str(data_dir))
    shard.write_bytes(content + content[: len(content) // 2])
    with pytest.raises(RequestError, match=f"{shard.name}.*more than the 24"):
        load("pets", data_dir=str(data_dir))
    shard.unlink()
    with pytest.raises(RequestError, match=f"{shard.name} is absent"):
        load("pets", data_dir=str(data_dir))


def test_missing_splits_and_other_formats(data_dir, load):
    folder = data_dir / "pets" / "1.0.0"
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "fileFormat": "array_record"}))
    with pytest.raises(RequestError, match="format array_record, .*tfds build"):
        load("pets", data_dir=str(data_dir))
    splits = [s for s in info["splits"] if s["name"] == "train"]
    path.write_text(json.dumps({**info, "splits": splits}))
    with pytest.raises(RequestError, match="has no test split, only train"):
        load("pets", data_dir=str(data_dir))


def test_images_without_class(data_dir, load):
    shard = shard_of(data_dir, "train")
    rows = [r.numpy() for r in tf.data.TFRecordDataset(str(shard))]
    parsed = tf.train.Example.FromString(rows[3])
    parsed.features.feature["label"].int64_list.value[:] = [4]
    rows[3] = parsed.SerializeToString()
    encoded_sets.write_records(shard, rows)
    with pytest.raises(RequestError, match="1 images of train have no label"):
        load("pets", data_dir=str(data_dir))
    del parsed.features.feature["label"]
    rows[3] = parsed.SerializeToString()
    encoded_sets.write_records(shard, rows)
    with pytest.raises(RequestError, match="a record has no label"):
        load("pets", data_dir=str(data_dir))


def test_sets_that_are_not_encoded_are_refused(tmp_path, load):
    for name in ("digits", "fake"):
        with pytest.raises(RequestError, match=f"data.name={name} is made in memory"):
            load(name)
    arrays.save(str(tmp_path / "set" / "train"), arrays.fake("train"))
    arrays.save(str(tmp_path / "set" / "test"), arrays.fake("test"))
    with pytest.raises(RequestError, match="set holds decoded arrays.*image_size=16"):
        load(str(tmp_path / "set"))
    arrays.save(str(tmp_path / "pool"), arrays.fake_pool())
    with pytest.raises(RequestError, match="pool holds decoded arrays"):
        sources.load_pool(str(tmp_path / "pool"), image_size=SIZE)
    with pytest.raises(RequestError, match="there is no synthetic pool"):
        sources.load_pool(str(tmp_path / "none"), image_size=SIZE)


def test_absent_tiny_imagenet_names_the_import(tmp_path, load):
    with pytest.raises(RequestError, match="--layout=tiny_imagenet.*1.0.0"):
        load("tiny_imagenet", data_dir=str(tmp_path))


def test_a_damaged_image_is_named_when_it_is_read(data_dir, load):
    train, _ = load("pets", data_dir=str(data_dir))
    shard = shard_of(data_dir, "train")
    content = bytearray(shard.read_bytes())
    _, offset, length = train.images.places[5].tolist()
    content[offset : offset + length // 2] = bytes(length // 2)
    shard.write_bytes(content)
    with pytest.raises(RunFailed, match=f"byte {offset} of .*{shard.name}"):
        train.images[:]
    train.images.check(np.array([4, 6]))
    shard.unlink()
    with pytest.raises(RunFailed, match=f"{shard.name} cannot be read any more"):
        train.images.read(0)


# --- as an array ---------------------------------------------------------------------


def test_evaluation_view_is_the_centre_of_the_resized_image():
    image = encoded_sets.picture(1, 48, 80)
    pixels = np.asarray(image)
    # 42 / 0.875 = 48: nothing is resized, 42 pixels are cut out.
    view = encoded.evaluation_view(encoded_sets.file(image, "PNG"), 42)
    np.testing.assert_array_equal(view, pixels[3:45, 19:61])
    # 14 / 0.875 = 16: the image is resized by one half, then 14 pixels are cut out.
    image = encoded_sets.picture(2, 32, 40)
    half = np.asarray(image.resize((20, 16), Image.Resampling.BILINEAR))
    view = encoded.evaluation_view(encoded_sets.file(image, "PNG"), 14)
    np.testing.assert_array_equal(view, half[1:15, 3:17])


def test_indexing_as_an_array(made, load):
    images = load("pets", data_dir=str(made[0]))[0].images
    whole = np.stack([encoded.evaluation_view(data, SIZE) for data in made[1]["train"]])
    assert images.shape == whole.shape and images.dtype == whole.dtype
    assert (len(images), images.ndim, images.nbytes) == (24, 4, whole.nbytes)
    for at in (
        0,
        -1,
        np.int32(5),
        slice(None),
        slice(3, 100, 4),
        slice(0, 0),
        [7, 7, 1],
        np.array([23, -24]),
        np.arange(24) % 5 == 0,
    ):
        np.testing.assert_array_equal(images[at], whole[at])
    with pytest.raises(IndexError):
        images[24]
    with pytest.raises(IndexError, match="only one axis"):
        images[np.zeros((2, 2), int)]
    taken = images.take(np.array([4, 2])).followed_by(images.take(np.array([2, 9])))
    np.testing.assert_array_equal(taken[:], whole[[4, 2, 2, 9]])


def make_task(made, tmp_path, load, **kwargs):
    train, test = load("pets", data_dir=str(made[0]))
    pool = sources.load_pool(
        str(made[0] / "pool"), cache_dir=str(tmp_path / "cache"), image_size=SIZE
    )
    split = rs_ssl.make_split(
        train.labels,
        4,
        labels_per_class=1,
        validation_per_class=1,
        ratio=0.5,
        pool_labels=pool.labels,
        pool_generators=pool.generators,
        **kwargs,
    )
    return train, pool, split, rs_ssl.make_task(train, test, pool, split)


def test_a_task_of_encoded_images_reads_none(made, tmp_path, load, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(encoded.EncodedImages, "read", None)
        train, pool, split, task = make_task(made, tmp_path, load)
    assert task.encoded
    real, synthetic = split.unlabeled_real, split.unlabeled_synthetic
    assert len(synthetic) and task.unl_images.shape == (20, SIZE, SIZE, 3)
    np.testing.assert_array_equal(task.unl_images[: len(real)], train.images[real])
    np.testing.assert_array_equal(task.unl_images[len(real) :], pool.images[synthetic])
    np.testing.assert_array_equal(task.lab_images[:], train.images[split.labeled])
    np.testing.assert_array_equal(task.val_images[:], train.images[split.validation])
    assert task.unl_generator.tolist() == [-1] * len(real) + (
        pool.generators[synthetic].tolist()
    )


def test_a_pool_of_another_size_is_told(made, tmp_path, load):
    train, _ = load("pets", data_dir=str(made[0]))
    pool = sources.load_pool(
        str(made[0] / "pool"), cache_dir=str(tmp_path / "cache"), image_size=8
    )
    with pytest.raises(RequestError, match="8, 8"):
        rs_ssl.check_pool(pool, train)


@pytest.mark.parametrize("devices", [1, 4])
def test_evaluation_sees_every_image_once(made, load, devices):
    images = load("pets", data_dir=str(made[0]))[0].images
    rows = measure.predict(
        lambda variables, batch: {"sum": batch[0].astype(np.int32).sum((2, 3, 4))},
        state=type("State", (), {"ema": None, "stats": None}),
        images=images,
        labels=np.arange(24),
        batch_size=10,
        devices=jax.local_devices()[:devices],
    )
    np.testing.assert_array_equal(rows["sum"], images[:].astype(int).sum((1, 2, 3)))
