"""Datasets by name: decoding, the cache, and every way in which a source fails."""

import dataclasses
import json
import os
import pathlib
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import encoded_sets, fresh_process
from support.helpers import config
from support.pictures import encode, noise

from rsmatch_jax import files
from rsmatch_jax.data import class_names, sources
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.engine import experiment
from rsmatch_jax.errors import RequestError

CLASSES = encoded_sets.CLASSES[:3]
SIZE = 8


def pixels(n: int, seed: int = 0) -> np.ndarray:
    return noise(n, SIZE, SIZE, 3, seed=seed)


def write(folder, splits=None, *, size=(SIZE, SIZE), images=None, **options):
    """A dataset folder of 12 train and 6 test images."""
    splits = splits or {"train": 12, "test": 6}
    content = {
        split: pixels(n, seed) if images is None else images
        for seed, (split, n) in enumerate(splits.items())
    }
    encoded_sets.write_images(folder, content, CLASSES, size, **options)
    return str(folder)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A data_dir with one dataset in it, and one pool."""
    root = tmp_path_factory.mktemp("data")
    write(root / "pets" / "1.0.0")
    write(root / "rsmatch_pools" / "pets", {"train": 12}, generators=("a", "b"))
    return root


@pytest.fixture
def data_dir(datasets, tmp_path):
    shutil.copytree(datasets, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


def load(data_dir, cache, name="pets"):
    places = {"data_dir": str(data_dir), "cache_dir": cache}
    return sources.load_real(name, download=False, **places)


def assert_is_the_dataset(train, test):
    for seed, (data, count) in enumerate(((train, 12), (test, 6))):
        np.testing.assert_array_equal(data.images, pixels(count, seed))
        np.testing.assert_array_equal(data.labels, np.arange(count) % 3)
        assert data.class_names == CLASSES
        assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int32)


# --- decoding ------------------------------------------------------------------------


def test_file_order_without_ids_and_validation_without_test(tmp_path, cache):
    folder = tmp_path / "plain" / "1.0.0"
    write(folder, {"train": 12, "validation": 6})
    path = folder / "features.json"
    features = json.loads(path.read_text())
    del features["featuresDict"]["features"]["id"]
    path.write_text(json.dumps(features))
    train, test = load(tmp_path, cache, "plain")
    order = [int(i) - 1 for i in sorted(map(str, range(1, 13)))]
    np.testing.assert_array_equal(train.images, pixels(12)[order])
    np.testing.assert_array_equal(test.images, pixels(6, 1))


def test_differing_sizes_are_refused_naming_two(tmp_path, cache):
    images = [pixels(2)[0][: 8 - i // 2] for i in range(4)]
    splits = {"train": 4, "test": 4}
    folder = write(tmp_path / "odd", splits, size=(None, 8), images=images)
    with pytest.raises(RequestError, match="differing sizes.*8x8 and 7x8"):
        load(tmp_path, cache, folder)


# --- the cache -----------------------------------------------------------------------


def test_images_that_are_no_squares_are_refused_or_cropped(tmp_path, cache):
    wide = noise(12, SIZE, 12, 3, seed=0)
    folder = write(tmp_path / "wide", size=(SIZE, 12), images=wide)
    with pytest.raises(RequestError, match="images of 8x12, .*data.image_size=N"):
        sources.load_splits(folder, cache_dir=cache)
    train, _, _ = sources.load_splits(folder, cache_dir=cache, image_size=SIZE)
    assert train.images.shape == (12, SIZE, SIZE, 3)


def test_second_start_and_a_copied_cache_need_no_tensorflow(data_dir, cache, tmp_path):
    load(data_dir, cache)
    places = {"data_dir": str(data_dir), "cache_dir": cache}
    sources.load_real("pets", image_size=8, **places)
    sources.load_pool(str(data_dir / "rsmatch_pools" / "pets"), cache_dir=cache)
    copy = tmp_path / "copied"
    shutil.copytree(cache, copy)
    fresh_process.run(f"""
    import sys
    for blocked in ("tensorflow", "tensorflow_datasets"):
        sys.modules[blocked] = None
    from rsmatch_jax.data import import_images, sources
    for data_dir, cache in (({str(data_dir)!r}, {cache!r}), ("/no", {str(copy)!r})):
        train, test = sources.load_real("pets", data_dir=data_dir, cache_dir=cache)
        pool = sources.load_pool(data_dir + "/rsmatch_pools/pets", cache_dir=cache)
        assert train.images.sum() == {pixels(12).sum()}, data_dir
        assert pool.generator_names == ("a", "b")
    sources.encoded_index.build = None  # places are cached as well
    places = {{"data_dir": {str(data_dir)!r}, "cache_dir": {cache!r}}}
    train, test = sources.load_real("pets", **places, image_size=9)
    assert train.images.shape == (12, 9, 9, 3)
    assert test.images[2:4].shape == (2, 9, 9, 3)
    assert train.images.read(3) == {encode(pixels(12)[3])!r}
    """)


def test_changed_source_is_decoded_again(data_dir, cache):
    """Also if the files keep their names and sizes."""
    for seed in (1, 2):
        shutil.rmtree(data_dir / "pets" / "1.0.0")
        images = pixels(4, seed)
        write(data_dir / "pets" / "1.0.0", {"train": 4, "test": 4}, images=images)
        train, _ = load(data_dir, cache)
        np.testing.assert_array_equal(train.images, images)
        assert isinstance(train.images, np.memmap)
    shutil.rmtree(data_dir / "pets")
    with pytest.raises(RequestError, match="several copies"):
        load(data_dir, cache)


@pytest.mark.parametrize("damage", ["bit", "cut", "meta", "gone"])
def test_damaged_cache_entry_is_rebuilt_with_a_warning(data_dir, cache, damage, caplog):
    load(data_dir, cache)
    (entry,) = pathlib.Path(cache).rglob("train")
    path = entry / ("meta.json" if damage == "meta" else "images.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "bit" else content[:40])
    if damage == "gone":
        path.unlink()
    caplog.clear()
    with caplog.at_level("WARNING", logger="absl"):
        train, test = load(data_dir, cache)
    assert_is_the_dataset(train, test)
    warnings = [r for r in caplog.records if "again" in r.getMessage()]
    assert len(warnings) == 1
    assert "\n" not in warnings[0].getMessage()


def test_failed_decoding_leaves_no_entry(data_dir, cache, monkeypatch):
    save = arrays.save

    def fail_on_test(folder, data, extra):
        if folder.endswith("test"):
            raise KeyboardInterrupt
        save(folder, data, extra)

    monkeypatch.setattr(arrays, "save", fail_on_test)
    with pytest.raises(KeyboardInterrupt):
        load(data_dir, cache)
    left = [f for f in os.listdir(f"{cache}/datasets/pets") if f[-5:] != ".lock"]
    assert left == []


def test_two_at_once_decode_once(data_dir, cache, monkeypatch):
    real, calls = arrays.save, []

    def slow(folder, *args):
        calls.append(folder.endswith("train"))
        time.sleep(0.3)
        real(folder, *args)

    monkeypatch.setattr(arrays, "save", slow)
    with ThreadPoolExecutor(3) as pool:
        pairs = list(pool.map(lambda _: load(data_dir, cache), range(3)))
    assert (len(pairs), sum(calls)) == (3, 1)
    for pair in pairs:
        assert_is_the_dataset(*pair)


def test_unwritable_cache_names_the_way_out(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="data.cache_dir"):
        load(data_dir, str(tmp_path / "file"))


# --- names and folders ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "{} is truncated.*11 complete.*lists 12"),
        ("bit", "{} cannot be decoded"),
        ("gone", "{} is absent"),
    ],
)
def test_a_damaged_shard_is_named(data_dir, cache, damage, message):
    (shard,) = (data_dir / "pets" / "1.0.0").glob("*train*")
    content = bytearray(shard.read_bytes())
    content[60] ^= 255
    shard.write_bytes(content if damage == "bit" else content[:-7])
    if damage == "gone":
        shard.unlink()
    with pytest.raises(RequestError, match=message.format(shard.name)):
        load(data_dir, cache)


def test_a_cached_copy_takes_the_place_of_its_folder_alone(data_dir, cache):
    """Not of another folder of the same name, such as a mistyped one."""
    folder, other = data_dir / "pets" / "1.0.0", data_dir / "old" / "pets" / "1.0.0"
    write(other, {"train": 4, "test": 4})
    for path, count in ((folder, 12), (other, 4)):
        load(data_dir, cache, str(path))
        path.rename(path.with_name("moved"))
        train, _ = load(data_dir, cache, str(path))
        assert len(train.labels) == count
    wrong = str(data_dir / "wrong" / "pets" / "1.0.0")
    with pytest.raises(RequestError, match=f"{wrong}: there is no such folder"):
        load(data_dir, cache, wrong)
    with pytest.raises(RequestError, match=f"{wrong}: there is no such folder"):
        class_names.class_names(wrong, cache_dir=cache)


def test_folder_names_and_hints(data_dir, cache):
    """Other wrong names: support/key_requests.py, engine/test_bad_requests.py."""
    train, _ = load(data_dir, cache, str(data_dir / "pets" / "1.0.0"))
    assert len(train.labels) == 12
    with pytest.raises(RequestError, match="did you mean .*pets/1.0.0"):
        load(data_dir, cache, str(data_dir / "pets"))
    for content, message in (("{", "json cannot be read"), ("{}", "names no dataset")):
        (data_dir / "pets" / "1.0.0" / "dataset_info.json").write_text(content)
        with pytest.raises(RequestError, match=message):
            load(data_dir, cache)


def test_a_folder_that_is_named_must_exist(data_dir, cache):
    """A cached copy of the same name does not take its place."""
    load(data_dir, cache)
    sources.load_pool(str(data_dir / "rsmatch_pools" / "pets"), cache_dir=cache)
    keys = {"data.name": "pets", "data.cache_dir": cache, "data.labels_per_class": 1}
    for key, message in (
        ("data_dir", "data.data_dir=/no/pets: there is no such folder"),
        ("synthetic_pool", "no synthetic pool at /no/pets"),
    ):
        with pytest.raises(RequestError, match=message):
            experiment.load_task(config(**keys, **{f"data.{key}": "/no/pets"}))
    with pytest.raises(RequestError, match="owls is not in .*data.download is False"):
        load(data_dir, cache, "owls")


def test_newest_version_or_the_one_in_the_name(data_dir, cache):
    shutil.copytree(data_dir / "pets" / "1.0.0", data_dir / "pets" / "1.9.0")
    write(data_dir / "pets" / "1.10.0", {"train": 3, "test": 3})
    (data_dir / "pets" / "2.0.0.incompleteX").mkdir()
    assert len(load(data_dir, cache)[0].labels) == 3
    assert len(load(data_dir, cache, "pets:1.0.0")[0].labels) == 12


# --- a split without labels ----------------------------------------------------------


def write_unlabelled(folder, name="unlabelled"):
    """A dataset folder of STL-10's form: 12 train, 6 test, 9 unlabelled images."""
    return write(folder, {"train": 12, "test": 6, name: 9}, unlabelled=name)


@pytest.mark.parametrize("name", ["unlabelled", "unlabeled"])
def test_unlabelled_split_in_both_stored_forms(tmp_path, cache, name):
    write_unlabelled(tmp_path / "stl" / "1.0.0", name)
    options = {"data_dir": str(tmp_path), "cache_dir": cache, "download": False}
    for _ in range(2):  # decoded, then from the cache
        train, test, more = sources.load_splits("stl", **options)
        assert_is_the_dataset(train, test)
        np.testing.assert_array_equal(more.images, pixels(9, 2))
        assert (more.labels == -1).all() and more.generators is None
        assert isinstance(more.images, np.memmap)
    *_, encoded = sources.load_splits("stl", image_size=7, **options)
    assert encoded.images.shape == (9, 7, 7, 3)
    assert encoded.images.read(4) == encode(pixels(9, 2)[4])
    shutil.move(tmp_path / "stl", tmp_path / "gone")
    *_, copied = sources.load_splits("stl", **options)  # the cache alone
    np.testing.assert_array_equal(copied.images, more.images)
    assert_is_the_dataset(*sources.load_real("stl", **options))


def test_collected_images_are_of_unknown_origin(tmp_path, cache):
    folder = tmp_path / "stl"
    write_unlabelled(folder)
    options = {"cache_dir": cache, "download": False}
    for content, origins in (
        ({"unlabelled": "unknown"}, {arrays.UNKNOWN}),
        ({"unlabelled": "real"}, None),
    ):
        (folder / "origins.json").write_text(json.dumps(content))
        for size in (None, 8):
            *_, more = sources.load_splits(str(folder), image_size=size, **options)
            column = more.generators
            assert (column if column is None else set(column.tolist())) == origins
    for content in ('{"unlabelled": "web"}', "[]", '{"unlabelled": ["unknown"]}'):
        (folder / "origins.json").write_text(content)
        with pytest.raises(RequestError, match="origins.json"):
            sources.load_splits(str(folder), **options)


def test_array_folders_with_and_without_labels(tmp_path):
    for split in ("train", "test"):
        arrays.save(str(tmp_path / split), arrays.fake(split))
    train, _, nothing = sources.load_splits(str(tmp_path))
    np.testing.assert_array_equal(train.images, arrays.fake("train").images)
    assert nothing is None
    data = arrays.fake("pool")
    origins = np.resize([arrays.UNKNOWN, arrays.REAL, 1], len(data.labels))
    more = dataclasses.replace(data, generators=origins.astype(np.int32))
    arrays.save(str(tmp_path / "unlabeled"), more)
    *_, loaded = sources.load_splits(str(tmp_path))
    np.testing.assert_array_equal(loaded.generators, origins)
    test = arrays.fake("test")
    test.labels[7] = -1
    arrays.save(str(tmp_path / "test"), test)
    with pytest.raises(RequestError, match="1 of its test images have no label"):
        sources.load_splits(str(tmp_path))
    arrays.save(str(tmp_path / "test"), arrays.fake("test", num_classes=3))
    with pytest.raises(RequestError, match="differ in their classes"):
        sources.load_splits(str(tmp_path))
    with pytest.raises(RequestError, match="without a class or a generator"):
        sources.load_pool(str(tmp_path / "unlabeled"))


# --- pools ---------------------------------------------------------------------------


def test_pool_with_its_generators_and_report(data_dir, cache):
    folder = str(data_dir / "rsmatch_pools" / "pets")
    assert sources.default_pool("pets:1.0.0", str(data_dir)) == folder
    pool = sources.load_pool(folder, cache_dir=cache)
    np.testing.assert_array_equal(pool.generators, np.arange(12) // 3 % 2)
    np.testing.assert_array_equal(pool.images, pixels(12))
    assert pool.generator_names == ("a", "b")
    (entry,) = (r for r, _, names in os.walk(cache) if "meta.json" in names)
    assert arrays.load_meta(entry)["pool"] == {"licence": "none"}


def test_pool_in_array_form(tmp_path):
    """A report with an entry that is called as a field is no field."""
    pool = arrays.fake("pool")
    arrays.save(str(tmp_path), pool, {"generators": {"generator_a": 1}})
    loaded = sources.load_pool(str(tmp_path))
    np.testing.assert_array_equal(loaded.generators, pool.generators)
    np.testing.assert_array_equal(loaded.images, pool.images)


def test_default_folders(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert files.default_cache_dir(None) == "/x/rsmatch_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.default_cache_dir(None).endswith("/.cache/rsmatch_jax")
    monkeypatch.setenv("TFDS_DATA_DIR", "/elsewhere")
    assert sources.default_pool("cifar10", None) == "/elsewhere/rsmatch_pools/cifar10"
    assert sources.default_pool("/my/own", "/d") == "/d/rsmatch_pools/own"
    assert sources.default_pool("digits", "/d").endswith("rsmatch_jax/data/digits_pool")
    assert sources.load_pool(sources.default_pool("fake", None)).generator_names
