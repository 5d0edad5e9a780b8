"""Encoded images: an index of their places, and decoding when they are read."""

import functools
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
def datasets(tmp_path_factory):
    """(folder of a real dataset `pets` and a pool, the files in them)."""
    root = tmp_path_factory.mktemp("data")
    files = encoded_sets.write(root / "pets" / "1.0.0", {"train": 24, "test": 6})
    pool = encoded_sets.write(
        root / "pool", {"train": 32}, generators=("a", "b"), first=100
    )
    return root, {**files, "pool": pool["train"]}


@pytest.fixture
def data_dir(datasets, tmp_path):
    shutil.copytree(datasets[0], tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def load(tmp_path):
    return functools.partial(
        sources.load_real,
        download=False,
        cache_dir=str(tmp_path / "cache"),
        image_size=SIZE,
    )


@pytest.fixture
def load_pool(datasets, tmp_path):
    return functools.partial(
        sources.load_pool,
        str(datasets[0] / "pool"),
        cache_dir=str(tmp_path / "cache"),
        image_size=SIZE,
    )


def stored_files(images: encoded.EncodedImages) -> list[bytes]:
    return [images.read(index) for index in range(len(images))]


def shard_of(folder, split):
    return next(p for p in folder.iterdir() if f"-{split}." in p.name)


def change_labels(shard, change, rows=slice(None)):
    """Applies `change` to the label feature of some records of a shard."""
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(shard))]
    for i in range(len(records))[rows]:
        example = tf.train.Example.FromString(records[i])
        change(example.features.feature)
        records[i] = example.SerializeToString()
    encoded_sets.write_records(shard, records)


def set_label(value):
    def change(features):
        features["label"].int64_list.value[:] = [value]

    return change


# --- the index -----------------------------------------------------------------------


def test_index_holds_what_tfds_reads_in_natural_order(datasets, load):
    root, files = datasets
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


def test_pool_with_its_generators(datasets, tmp_path, load_pool):
    root, files = datasets
    pool, cache = load_pool(), str(tmp_path / "cache")
    assert pool.generator_names == ("a", "b")
    np.testing.assert_array_equal(pool.generators, np.arange(32) // 4 % 2)
    assert stored_files(pool.images) == files["pool"]
    with pytest.raises(RequestError, match="--generator=NAME"):
        folder = str(root / "pets" / "1.0.0")
        sources.load_pool(folder, cache_dir=cache, image_size=SIZE)


def test_several_shards_and_file_order_without_ids(tmp_path, monkeypatch, load):
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


def test_second_start_searches_nothing_and_needs_no_tensorflow(
    datasets, tmp_path, load
):
    root, files = datasets
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
    datasets, tmp_path, load, damage, caplog
):
    load("pets", data_dir=str(datasets[0]))
    (entry,) = (at for at, _, _ in os.walk(tmp_path / "cache") if at[-6:] == "/train")
    path = os.path.join(entry, "places.npy" if damage == "bit" else "meta.json")
    with open(path, "rb") as f:
        content = bytearray(f.read())
    if damage == "bit":
        content[-1] ^= 1
    elif damage == "path":  # out of the dataset's folder
        meta = json.loads(content)
        meta["shards"] = ["../" + shard for shard in meta["shards"]]
        content = json.dumps(meta).encode()
    with open(path, "wb") as f:
        f.write(content[:50] if damage == "meta" else content)
    caplog.clear()
    with caplog.at_level("WARNING", logger="absl"):
        train, _ = load("pets", data_dir=str(datasets[0]))
    assert stored_files(train.images) == datasets[1]["train"]
    assert len([r for r in caplog.records if "again" in r.getMessage()]) == 1


def test_validation_replaces_a_test_split_without_labels(tmp_path, load):
    folder = tmp_path / "net" / "1.0.0"
    encoded_sets.write(folder, {"train": 8, "test": 3, "validation": 5})
    _, test = load("net", data_dir=str(tmp_path))
    assert len(test.labels) == 3
    change_labels(shard_of(folder, "test"), set_label(-1))
    _, test = load("net", data_dir=str(tmp_path))
    assert len(test.labels) == 5


# --- what is wrong or missing --------------------------------------------------------


def test_damaged_and_absent_shards_are_named(data_dir, load):
    shard = shard_of(data_dir / "pets" / "1.0.0", "train")
    content = shard.read_bytes()
    for changed, message in (
        (content[:-7], "is truncated.*23 complete rec"),
        (content + content[: len(content) // 2], "more than the 24"),
        (None, "is absent"),
    ):
        shard.unlink()
        if changed:
            shard.write_bytes(changed)
        with pytest.raises(RequestError, match=f"{shard.name}.*{message}"):
            load("pets", data_dir=str(data_dir))
        shard.touch()


def test_missing_splits_and_other_formats(data_dir, load):
    path = data_dir / "pets" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    splits = [s for s in info["splits"] if s["name"] == "train"]
    for change, message in (
        ({"fileFormat": "array_record"}, "format array_record, .*tfds build"),
        ({"splits": splits}, "has no test split, only train"),
    ):
        path.write_text(json.dumps({**info, **change}))
        with pytest.raises(RequestError, match=message):
            load("pets", data_dir=str(data_dir))


def test_images_without_class(data_dir, load):
    shard = shard_of(data_dir / "pets" / "1.0.0", "train")
    change_labels(shard, set_label(4), slice(3, 4))
    with pytest.raises(RequestError, match="1 images of train have no label"):
        load("pets", data_dir=str(data_dir))
    change_labels(shard, lambda features: features.pop("label"), slice(3, 4))
    with pytest.raises(RequestError, match="a record has no label"):
        load("pets", data_dir=str(data_dir))


def test_datasets_that_are_not_encoded_are_refused(tmp_path, load):
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
    with pytest.raises(RequestError, match="--layout=tiny_imagenet.*1.0.0"):
        load("tiny_imagenet", data_dir=str(tmp_path))


def test_a_damaged_image_is_named_when_it_is_read(data_dir, load):
    train, _ = load("pets", data_dir=str(data_dir))
    shard = shard_of(data_dir / "pets" / "1.0.0", "train")
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


@pytest.mark.parametrize(
    "index",
    [0, -1, np.int32(5), slice(None), slice(3, 100, 4), slice(0, 0), [7, 7, 1]]
    + [np.array([23, -24]), np.arange(24) % 5 == 0],
    ids=str,
)
def test_indexing_as_an_array(datasets, load, index):
    images = load("pets", data_dir=str(datasets[0]))[0].images
    views = np.stack(
        [encoded.evaluation_view(data, SIZE) for data in datasets[1]["train"]]
    )
    np.testing.assert_array_equal(images[index], views[index])


def test_shapes_errors_and_parts_as_of_an_array(datasets, load):
    images = load("pets", data_dir=str(datasets[0]))[0].images
    views = images[:]
    assert images.shape == views.shape and images.dtype == views.dtype
    assert (len(images), images.nbytes) == (24, views.nbytes)
    with pytest.raises(IndexError):
        images[24]
    with pytest.raises(IndexError, match="only one axis"):
        images[np.zeros((2, 2), int)]
    taken = images.take(np.array([4, 2])).followed_by(images.take(np.array([2, 9])))
    np.testing.assert_array_equal(taken[:], views[[4, 2, 2, 9]])


def test_a_task_of_encoded_images_reads_none(datasets, load, load_pool, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(encoded.EncodedImages, "read", None)
        train, test = load("pets", data_dir=str(datasets[0]))
        pool = load_pool()
        split = rs_ssl.make_split(
            train.labels,
            4,
            labels_per_class=1,
            validation_per_class=1,
            ratio=0.5,
            pool_labels=pool.labels,
            pool_generators=pool.generators,
        )
        task = rs_ssl.make_task(train, test, pool, split)
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
    with pytest.raises(RequestError, match="8, 8"):
        rs_ssl.check_pool(load_pool(image_size=8), train)


@pytest.mark.parametrize("devices", [1, 4])
def test_evaluation_sees_every_image_once(datasets, load, devices):
    images = load("pets", data_dir=str(datasets[0]))[0].images
    rows = measure.predict(
        lambda variables, batch: {"sum": batch[0].astype(np.int32).sum((2, 3, 4))},
        state=type("State", (), {"ema": None, "stats": None}),
        images=images,
        labels=np.arange(24),
        batch_size=10,
        devices=jax.local_devices()[:devices],
    )
    np.testing.assert_array_equal(rows["sum"], images[:].astype(int).sum((1, 2, 3)))
