"""Encoded images: an index of their places, and decoding when they are read."""

import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import encoded_sets, pictures

from rsmatch_jax.data import pool_choice, sources
from rsmatch_jax.data.stores import arrays, encoded, encoded_index, tf_write
from rsmatch_jax.errors import RequestError, RunFailed

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
    options = {"cache_dir": str(tmp_path / "cache"), "image_size": SIZE}
    return functools.partial(sources.load_real, download=False, **options)


@pytest.fixture
def load_pool(datasets, tmp_path):
    options = {"cache_dir": str(tmp_path / "cache"), "image_size": SIZE}
    return functools.partial(sources.load_pool, str(datasets[0] / "pool"), **options)


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


def set_label(features, value):
    features["label"].int64_list.value[:] = [value]


def test_index_holds_what_tfds_reads_in_natural_order(datasets, load):
    root, files = datasets
    train, test = load("pets", data_dir=str(root))
    assert train.class_names == encoded_sets.CLASSES and train.name == "pets"
    for split, data in (("train", train), ("test", test)):
        rows = encoded_sets.stored(root / "pets" / "1.0.0", split)
        rows.sort(key=lambda row: int(row["id"].decode().split("_")[1]))
        stored = stored_files(data.images)
        assert stored == files[split] == [row["image"] for row in rows]
        assert data.labels.tolist() == [row["label"] for row in rows]


def test_pool_with_its_generators(datasets, load_pool):
    root, files = datasets
    pool = load_pool()
    assert pool.generator_names == ("a", "b")
    np.testing.assert_array_equal(pool.generators, np.arange(32) // 4 % 2)
    assert stored_files(pool.images) == files["pool"]
    with pytest.raises(RequestError, match="--generator=NAME"):
        sources.load_pool(str(root / "pets" / "1.0.0"), **load_pool.keywords)


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


def test_places_in_other_folders_are_searched_again(datasets, tmp_path, load, caplog):
    load("pets", data_dir=str(datasets[0]))
    (path,) = (tmp_path / "cache").rglob("train/meta.json")
    meta = json.loads(path.read_text())
    meta["shards"] = ["../" + shard for shard in meta["shards"]]
    path.write_text(json.dumps(meta))
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
    change_labels(shard_of(folder, "test"), functools.partial(set_label, value=-1))
    _, test = load("net", data_dir=str(tmp_path))
    assert len(test.labels) == 5


def test_a_shard_of_too_many_records_is_named(data_dir, load):
    shard = shard_of(data_dir / "pets" / "1.0.0", "train")
    content = shard.read_bytes()
    shard.write_bytes(content + content[: len(content) // 2])
    with pytest.raises(RequestError, match=f"{shard.name}.*37 complete records, .* 24"):
        load("pets", data_dir=str(data_dir))


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
    for change, message in (
        (functools.partial(set_label, value=4), "1 images of train have no label"),
        (lambda features: features.pop("label"), "a record has no label"),
    ):
        change_labels(shard, change, slice(3, 4))
        with pytest.raises(RequestError, match=message):
            load("pets", data_dir=str(data_dir))


def test_datasets_that_are_not_encoded_are_refused(tmp_path, load):
    for split in ("train", "test"):
        arrays.save(str(tmp_path / "set" / split), arrays.fake(split))
    arrays.save(str(tmp_path / "pool"), arrays.fake("pool"))
    for name, message in (
        ("digits", "data.name=digits is made in memory"),
        ("fake", "data.name=fake is made in memory"),
        (str(tmp_path / "set"), "set holds decoded arrays.*image_size=16"),
        ("tiny_imagenet", "--layout=tiny_imagenet.*1.0.0"),
    ):
        with pytest.raises(RequestError, match=message):
            load(name, data_dir=str(tmp_path))
    with pytest.raises(RequestError, match="pool holds decoded arrays"):
        sources.load_pool(str(tmp_path / "pool"), image_size=SIZE)


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


def test_evaluation_view_is_the_centre_of_the_resized_image():
    image = pictures.smooth(1, 48, 80)
    # 42 / 0.875 = 48: nothing is resized, 42 pixels are cut out.
    view = encoded.evaluation_view(pictures.encode(image), 42)
    np.testing.assert_array_equal(view, np.asarray(image)[3:45, 19:61])
    # 14 / 0.875 = 16: the image is resized by one half, then 14 pixels are cut out.
    image = pictures.smooth(2, 32, 40)
    half = np.asarray(image.resize((20, 16), Image.Resampling.BILINEAR))
    view = encoded.evaluation_view(pictures.encode(image), 14)
    np.testing.assert_array_equal(view, half[1:15, 3:17])


@pytest.mark.parametrize(
    "index",
    [0, -1, np.int32(5), slice(None), slice(3, 100, 4), slice(0, 0), [7, 7, 1]]
    + [np.array([23, -24]), np.arange(24) % 5 == 0],
    ids=str,
)
def test_indexing_as_an_array(datasets, load, index):
    images = load("pets", data_dir=str(datasets[0]))[0].images
    files = datasets[1]["train"]
    views = np.stack([encoded.evaluation_view(data, SIZE) for data in files])
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
        task = encoded_sets.task(
            train, test, pool, labels_per_class=1, validation_per_class=1
        )
    assert task.encoded and task.unl_images.shape == (20, SIZE, SIZE, 3)
    encoded_sets.check_task(task, train, pool)
    with pytest.raises(RequestError, match="8, 8"):
        pool_choice.check(load_pool(image_size=8), train)
