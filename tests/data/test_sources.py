"""Datasets by name: decoding, the cache, and every way in which a source fails."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rsmatch_jax import files
from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import array_cache, arrays, dataset_folder
from rsmatch_jax.errors import RequestError

CLASSES = ("cat", "dog", "owl")
SIZE = 8


def pictures(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


def write(folder, splits=None, *, generators=(), size=(SIZE, SIZE), images=None):
    """A dataset folder of 12 train and 6 test images, ids counted from 1.

    They are written in the text order of their ids: 1, 10, 11, 12, 2, ...
    """
    from rsmatch_jax.data.stores import tf_write

    def examples(split, n, seed):
        pixels = pictures(n, seed) if images is None else images
        numbers = sorted(range(1, n + 1), key=str)
        return [
            tf_write.Example(
                image=pixels[i - 1],
                label=(i - 1) % len(CLASSES),
                id=f"{split}_{i}",
                generator=(i - 1) % len(generators) if generators else None,
            )
            for i in numbers
        ]

    splits = splits or {"train": 12, "test": 6}
    tf_write.write(
        str(folder),
        {s: examples(s, n, seed) for seed, (s, n) in enumerate(splits.items())},
        class_names=CLASSES,
        size=size,
        generator_names=generators,
        pool={"licence": "none"} if generators else None,
    )
    return str(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data_dir with one dataset in it, and one pool."""
    root = tmp_path_factory.mktemp("data")
    write(root / "pets" / "1.0.0")
    write(root / "rsmatch_pools" / "pets", {"train": 12}, generators=("a", "b"))
    return root


@pytest.fixture
def data_dir(made, tmp_path):
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


def load(data_dir, cache, name="pets", **kwargs):
    return sources.load_real(
        name, data_dir=str(data_dir), cache_dir=cache, download=False, **kwargs
    )


def assert_is_the_dataset(train, test):
    np.testing.assert_array_equal(train.images, pictures(12, 0))
    np.testing.assert_array_equal(test.images, pictures(6, 1))
    np.testing.assert_array_equal(train.labels, np.arange(12) % 3)
    np.testing.assert_array_equal(test.labels, np.arange(6) % 3)
    assert train.class_names == test.class_names == CLASSES
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int32


def test_decodes_in_natural_order_of_ids_into_mapped_arrays(data_dir, cache):
    train, test = load(data_dir, cache)
    assert_is_the_dataset(train, test)
    assert isinstance(train.images, np.memmap)


def test_natural_key_against_numbers():
    ids = [f"train_{i}" for i in (10, 2, 1, 33, 100)]
    assert sorted(ids, key=dataset_folder.natural_key) == [
        f"train_{i}" for i in (1, 2, 10, 33, 100)
    ]
    mixed = ["7 (10).jpg", "7.jpg", "7 (2).jpg"]
    assert sorted(mixed, key=dataset_folder.natural_key) == [
        "7 (2).jpg",
        "7 (10).jpg",
        "7.jpg",
    ]


def test_file_order_where_there_is_no_id(tmp_path, cache):
    import tensorflow_datasets as tfds

    folder = tmp_path / "plain" / "1.0.0"
    folder.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name="plain",
        version=tfds.core.Version("1.0.0"),
        data_dir=str(folder),
        module_name="test",
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=list(CLASSES)),
            }
        ),
    )
    writer = tfds.core.SequentialWriter(info, 2)
    writer.initialize_splits(["train", "validation"])
    pixels = pictures(5)
    rows = [{"image": p, "label": i % 3} for i, p in enumerate(pixels)]
    writer.add_examples({"train": rows, "validation": rows[:2]})
    writer.close_all()
    train, test = load(tmp_path, cache, "plain")
    np.testing.assert_array_equal(train.images, pixels)
    # `validation` stands in where there is no `test`.
    np.testing.assert_array_equal(test.images, pixels[:2])


def test_second_start_and_a_copied_cache_need_no_tensorflow(data_dir, cache, tmp_path):
    load(data_dir, cache)
    sources.load_pool(str(data_dir / "rsmatch_pools" / "pets"), cache_dir=cache)
    copy = tmp_path / "copied"
    shutil.copytree(cache, copy)
    code = f"""
import sys
for blocked in ("tensorflow", "tensorflow_datasets"):
    sys.modules[blocked] = None
from rsmatch_jax.data import sources
for data_dir, cache in (({str(data_dir)!r}, {cache!r}), ("/absent", {str(copy)!r})):
    train, test = sources.load_real("pets", data_dir=data_dir, cache_dir=cache)
    pool = sources.load_pool(data_dir + "/rsmatch_pools/pets", cache_dir=cache)
    assert train.images.sum() == {pictures(12).sum()}, data_dir
    assert pool.generator_names == ("a", "b")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_changed_source_is_decoded_again(data_dir, cache):
    load(data_dir, cache)
    shutil.rmtree(data_dir / "pets" / "1.0.0")
    write(data_dir / "pets" / "1.0.0", {"train": 3, "test": 3})
    train, _ = load(data_dir, cache)
    assert len(train.labels) == 3
    shutil.rmtree(data_dir / "pets")
    with pytest.raises(RequestError, match="several copies"):
        load(data_dir, cache)


def test_equal_names_and_sizes_are_no_equal_datasets(tmp_path, cache):
    for i in (1, 2):
        images = pictures(4, seed=i)
        splits = {"train": 4, "test": 4}
        folder = write(tmp_path / str(i) / "pets", splits, images=images)
        train, _ = load(tmp_path, cache, folder)
        np.testing.assert_array_equal(train.images, images)


@pytest.mark.parametrize("damage", ["bit", "cut", "meta", "gone"])
def test_damaged_cache_entry_is_rebuilt_with_one_warning(
    data_dir, cache, damage, caplog
):
    load(data_dir, cache)
    (entry,) = (os.path.join(r) for r, _, f in os.walk(cache) if "train" in r[-5:])
    path = os.path.join(entry, "meta.json" if damage == "meta" else "images.npy")
    with open(path, "rb") as f:
        content = bytearray(f.read())
    content[-1] ^= 1
    with open(path, "wb") as f:
        f.write(content if damage == "bit" else content[:40])
    if damage == "gone":
        os.remove(path)
    caplog.clear()
    with caplog.at_level("WARNING", logger="absl"):
        train, test = load(data_dir, cache)
    assert_is_the_dataset(train, test)
    warnings = [r for r in caplog.records if "again" in r.getMessage()]
    assert len(warnings) == 1
    assert "\n" not in warnings[0].getMessage()


def test_failed_decoding_leaves_no_entry(data_dir, cache, monkeypatch):
    saved = arrays.save

    def fail_on_test(folder, data, extra):
        if folder.endswith("test"):
            raise KeyboardInterrupt
        saved(folder, data, extra)

    monkeypatch.setattr(arrays, "save", fail_on_test)
    with pytest.raises(KeyboardInterrupt):
        load(data_dir, cache)
    left = [f for f in os.listdir(f"{cache}/datasets/pets") if f[-5:] != ".lock"]
    assert left == []


def test_two_at_once_decode_once(data_dir, cache, monkeypatch):
    real, calls = array_cache._write, []

    def slow(*args):
        calls.append(1)
        time.sleep(0.3)
        real(*args)

    monkeypatch.setattr(array_cache, "_write", slow)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(load(data_dir, cache)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert len(calls) == 1
    for pair in results:
        assert_is_the_dataset(*pair)


def test_unwritable_cache_names_the_way_out(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="data.cache_dir"):
        load(data_dir, str(tmp_path / "file"))


def test_truncated_shard_is_named(data_dir, cache):
    shard = data_dir / "pets" / "1.0.0" / "pets-train.tfrecord-00000"
    name = next((data_dir / "pets" / "1.0.0").glob("*train*")).name
    shard = shard.with_name(name)
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(RequestError, match=f"{name} is truncated.*11 whole.*not 12"):
        load(data_dir, cache)


def test_flipped_bit_in_a_shard_is_named(data_dir, cache):
    shard = next((data_dir / "pets" / "1.0.0").glob("*test*"))
    content = bytearray(shard.read_bytes())
    content[60] ^= 255
    shard.write_bytes(content)
    with pytest.raises(RequestError, match=shard.name):
        load(data_dir, cache)


def test_absent_shard_is_named(data_dir, cache):
    shard = next((data_dir / "pets" / "1.0.0").glob("*test*"))
    shard.unlink()
    with pytest.raises(RequestError, match=f"{shard.name} is absent"):
        load(data_dir, cache)


def test_missing_set_without_download_names_data_dir(tmp_path, cache):
    with pytest.raises(RequestError, match="--config.data.data_dir=DIR") as e:
        load(tmp_path, cache, "cifar10")
    assert "data.download is False" in str(e.value)


def test_folder_names_and_hints(data_dir, cache, tmp_path):
    train, _ = load(data_dir, cache, str(data_dir / "pets" / "1.0.0"))
    assert len(train.labels) == 12
    with pytest.raises(RequestError, match="did you mean .*pets/1.0.0"):
        load(data_dir, cache, str(data_dir / "pets"))
    with pytest.raises(RequestError, match="no dataset_info.json"):
        load(data_dir, cache, str(tmp_path))
    with pytest.raises(RequestError, match="no such folder"):
        load(data_dir, cache, str(tmp_path / "nothing"))
    with pytest.raises(RequestError, match="neither a TFDS name"):
        load(data_dir, cache, "no set!")
    (data_dir / "pets" / "1.0.0" / "dataset_info.json").write_text("{")
    with pytest.raises(RequestError, match="dataset_info.json cannot be read"):
        load(data_dir, cache)


def test_newest_version_or_the_one_asked_for(data_dir, cache):
    shutil.copytree(data_dir / "pets" / "1.0.0", data_dir / "pets" / "1.9.0")
    write(data_dir / "pets" / "1.10.0", {"train": 3, "test": 3})
    (data_dir / "pets" / "2.0.0.incompleteX").mkdir()
    assert len(load(data_dir, cache)[0].labels) == 3
    assert len(load(data_dir, cache, "pets:1.0.0")[0].labels) == 12


def test_array_folder_pair(tmp_path, cache):
    arrays.save(str(tmp_path / "train"), arrays.fake("train"))
    arrays.save(str(tmp_path / "test"), arrays.fake("test"))
    train, _ = load(tmp_path, cache, str(tmp_path))
    np.testing.assert_array_equal(train.images, arrays.fake("train").images)
    shutil.rmtree(tmp_path / "test")
    arrays.save(str(tmp_path / "test"), arrays.fake("test", num_classes=3))
    with pytest.raises(RequestError, match="differ in their classes"):
        load(tmp_path, cache, str(tmp_path))


def test_built_in_names(cache):
    assert load("/absent", cache, "digits")[1].images.shape == (500, 8, 8, 1)
    assert load("/absent", cache, "fake")[0].num_classes == 10
    assert sources.load_pool("fake").generator_names


def test_differing_sizes_are_refused_naming_two(tmp_path, cache):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8 + i // 2, 8, 3), np.uint8) for i in range(4)]
    folder = write(
        tmp_path / "odd", {"train": 4, "test": 4}, size=(None, 8), images=images
    )
    with pytest.raises(RequestError, match="differing sizes.*8x8 and 9x8"):
        load(tmp_path, cache, folder)


def test_pool_with_its_generators_and_report(data_dir, cache):
    folder = str(data_dir / "rsmatch_pools" / "pets")
    assert sources.default_pool("pets:1.0.0", str(data_dir)) == folder
    pool = sources.load_pool(folder, cache_dir=cache)
    np.testing.assert_array_equal(pool.generators, np.arange(12) % 2)
    np.testing.assert_array_equal(pool.images, pictures(12))
    assert pool.generator_names == ("a", "b")
    (entry,) = (r for r, _, files in os.walk(cache) if "meta.json" in files)
    assert arrays.load_meta(entry)["pool"] == {"licence": "none"}


def test_pool_in_array_form(tmp_path):
    arrays.save(str(tmp_path), arrays.fake_pool())
    pool = sources.load_pool(str(tmp_path))
    np.testing.assert_array_equal(pool.generators, arrays.fake_pool().generators)


def test_no_pool_gives_three_ways_on(tmp_path, cache):
    with pytest.raises(RequestError) as e:
        sources.load_pool(str(tmp_path / "nothing"), cache_dir=cache)
    for way in ("import_images", "generate", "synthetic_ratio=0"):
        assert way in str(e.value)


def test_real_dataset_is_no_pool(data_dir, cache, tmp_path):
    with pytest.raises(RequestError, match="generator"):
        sources.load_pool(str(data_dir / "pets" / "1.0.0"), cache_dir=cache)
    arrays.save(str(tmp_path / "real"), arrays.fake("train"))
    with pytest.raises(RequestError, match="generator"):
        sources.load_pool(str(tmp_path / "real"))


def test_default_pools(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/elsewhere")
    assert sources.default_pool("cifar10", None) == "/elsewhere/rsmatch_pools/cifar10"
    assert sources.default_pool("/my/own", "/d") == "/d/rsmatch_pools/own"
    assert sources.default_pool("digits", "/d").endswith("rsmatch_jax/data/digits_pool")


def test_cache_folder_follows_xdg(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert files.default_cache_dir(None) == "/x/rsmatch_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.default_cache_dir(None).endswith("/.cache/rsmatch_jax")


def test_sources_import_no_tensorflow():
    code = (
        "import sys; from rsmatch_jax.data import sources, import_images; "
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_description_with_unknown_content_is_refused(tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps(["no", "dataset"]))
    with pytest.raises(RequestError, match="cannot be read: it holds a list"):
        dataset_folder.inspect(str(tmp_path))
