"""The RS-SSL split, compared with its definition; bounds: support/key_requests.py."""

import dataclasses

import numpy as np
import pytest
from support import encoded_sets

from rsmatch_jax.data import pool_choice, rs_ssl
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RequestError

LABELS = np.random.RandomState(7).permutation(np.repeat(np.arange(4), [40, 41, 50, 60]))
POOL_LABELS = np.tile(np.arange(4), 100)
POOL_GENERATORS = np.repeat(np.arange(2), 200)
REAL = dataclasses.replace(arrays.fake("train", 4), labels=LABELS)
POOL = dataclasses.replace(
    arrays.fake("pool", 4), labels=POOL_LABELS, generators=POOL_GENERATORS
)


def split(pool=POOL, **options):
    options = {"labels_per_class": 5, "seed": 3, **options}
    return rs_ssl.make_split(REAL, pool, **options)


def test_labelled_images_are_usbs_choice():
    """np.random.seed(seed); for c: idx = where(target == c); shuffle; idx[:n]."""
    np.random.seed(3)
    expected = []
    for c in range(4):
        idx = np.where(LABELS == c)[0]
        np.random.shuffle(idx)
        expected.extend(idx[:5])
    np.testing.assert_array_equal(split().labeled, expected)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.7])
def test_replace_keeps_the_size_of_every_class(ratio):
    s = split(ratio=ratio)
    real = np.bincount(LABELS[s.unlabeled_real], minlength=4)
    fake = np.bincount(POOL_LABELS[s.unlabeled_synthetic], minlength=4)
    counts = np.bincount(LABELS)
    np.testing.assert_array_equal(real + fake, counts)
    np.testing.assert_array_equal(fake, np.floor(ratio * counts + 0.5))
    assert len(set(s.unlabeled_real)) == len(s.unlabeled_real)
    assert len(set(s.unlabeled_synthetic)) == len(s.unlabeled_synthetic)
    # Labelled images lead the unlabelled set and are never replaced.
    np.testing.assert_array_equal(s.unlabeled_real[:20], s.labeled)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_add_reaches_the_ratio(ratio):
    s = split(ratio=ratio, mode="add")
    counts = np.bincount(LABELS)
    fake = np.bincount(POOL_LABELS[s.unlabeled_synthetic], minlength=4)
    assert len(s.unlabeled_real) == len(LABELS)
    np.testing.assert_allclose(fake / (fake + counts), ratio, atol=0.01)


def test_generators_share_every_class_equally_and_real_images_need_no_pool():
    s, without = split(ratio=0.5), split(None, ratio=0.5)
    for c in range(4):
        mine = s.unlabeled_synthetic[POOL_LABELS[s.unlabeled_synthetic] == c]
        a, b = np.bincount(POOL_GENERATORS[mine], minlength=2)
        assert abs(a - b) <= 1
    np.testing.assert_array_equal(s.unlabeled_real, without.unlabeled_real)
    assert len(without.unlabeled_synthetic) == 0


def test_larger_ratio_replaces_a_superset_and_the_seed_decides():
    small, large = split(ratio=0.3), split(ratio=0.7)
    assert set(large.unlabeled_real) <= set(small.unlabeled_real)
    for name, rows in vars(split(ratio=0.3)).items():
        np.testing.assert_array_equal(rows, vars(small)[name])
    assert list(split().labeled) != list(split(seed=4).labeled)


def test_validation_is_held_out_and_moves_no_label():
    plain, held = split(ratio=0.3), split(ratio=0.3, validation_per_class=6)
    np.testing.assert_array_equal(plain.labeled, held.labeled)
    assert not set(held.validation) & set(held.unlabeled_real)
    np.testing.assert_array_equal(np.bincount(LABELS[held.validation]), [6] * 4)


def test_task_gathers_the_images_of_the_split():
    train, test = arrays.fake("train", 4), arrays.fake("test", 4)
    pool = arrays.fake("pool", 4)
    task = encoded_sets.task(train, test, pool, labels_per_class=3)
    encoded_sets.check_task(task, train, pool)
    np.testing.assert_array_equal(np.bincount(task.unl_labels), [64] * 4)


def of_some_classes(pool, classes):
    rows = np.isin(pool.labels, classes)
    fields = {k: getattr(pool, k)[rows] for k in ("images", "labels", "generators")}
    return dataclasses.replace(pool, **fields)


def test_a_class_that_the_pool_lacks():
    """Left out if images are added, or none are needed; else named."""
    pool = of_some_classes(arrays.fake("pool", 4), [0, 2, 3])
    labels = np.concatenate([np.repeat([0, 2, 3], 60), [1] * 4]).astype(np.int32)
    rows = slice(None, len(labels))
    train = arrays.fake("train", 4)
    train = dataclasses.replace(train, images=train.images[rows], labels=labels)
    options = {"labels_per_class": 4}
    added = rs_ssl.make_split(train, pool, ratio=0.5, mode="add", **options)
    counts = np.bincount(pool.labels[added.unlabeled_synthetic])
    np.testing.assert_array_equal(counts, [60, 0, 60, 60])
    few = rs_ssl.make_split(train, pool, ratio=0.1, **options)
    counts = np.bincount(pool.labels[few.unlabeled_synthetic])
    np.testing.assert_array_equal(counts, [6, 0, 6, 6])
    with pytest.raises(RequestError, match="no images of class class_1") as e:
        rs_ssl.make_split(train, pool, ratio=0.5, labels_per_class=1)
    assert "synthetic_mode=add" in str(e.value) and "lower" not in str(e.value)
    none = of_some_classes(pool, [])
    with pytest.raises(RequestError, match="holds no images; make it again"):
        rs_ssl.make_split(train, none, ratio=0.5, mode="add", **options)


def test_a_pool_of_some_classes_in_any_order():
    pool, real = arrays.fake("pool", 4), arrays.fake("train", 4)
    few = of_some_classes(pool, [1, 3])
    order = dataclasses.replace(
        few,
        labels=(few.labels == 1).astype(np.int32),
        class_names=("class_3", "class_1"),
    )
    same = pool_choice.renumbered(order, real.class_names)
    pool_choice.check(same, real)
    np.testing.assert_array_equal(same.labels, few.labels)
    other = dataclasses.replace(order, class_names=("class_3", "class_9"))
    assert pool_choice.renumbered(other, real.class_names) is other
    assert pool_choice.renumbered(pool, real.class_names) is pool


def test_messages_name_class_and_generator():
    """And nothing is to be lowered where nothing is."""
    pool, train = arrays.fake("pool", 4), arrays.fake("train", 4)
    one = dataclasses.replace(
        pool, generators=np.where(pool.labels == 2, 0, pool.generators).astype(np.int32)
    )
    options = {"labels_per_class": 4, "ratio": 0.5}
    with pytest.raises(RequestError, match="no images of class class_2") as e:
        rs_ssl.make_split(train, one, **options)
    message = str(e.value)
    assert "of generator generator_b, but 16 are needed" in message
    assert "set data.synthetic_mix=False" in message and "lower" not in message
    with pytest.raises(RequestError, match="64 images of class class_0, but 192") as e:
        rs_ssl.make_split(
            train, pool, **{**options, "ratio": 0.75}, mode="add", mix=False
        )
    assert "lower data.synthetic_ratio" in str(e.value)
    assert "synthetic_mix" not in str(e.value)

    def refused(data, *words, **changes):
        with pytest.raises(RequestError) as e:
            rs_ssl.make_split(data, pool, **{**options, **changes})
        assert all(word in str(e.value) for word in words), e.value
        return str(e.value)

    words = "none can be replaced: set data.synthetic_ratio=0"
    refused(train, "class class_0", words, labels_per_class=None)
    refused(train, "class class_0", words, labels_per_class=64)
    refused(train, "most 0.219 is possible: lower", labels_per_class=50)
    labels = np.where(train.labels == 3, 0, train.labels).astype(np.int32)
    lacking = dataclasses.replace(train, labels=labels)
    text = refused(lacking, "no labelled training image of class class_3")
    assert "lower" not in text
    refused(train, "validation_per_class=64", "class_0", validation_per_class=64)
    refused(
        *(train, "data.validation_per_class=64, but class class_0 has only 64"),
        labels_per_class=None,
        validation_per_class=64,
    )
    with pytest.raises(RequestError, match="replace.*100 unlabelled.*mode=add"):
        rs_ssl.make_split(train, pool, unlabelled=unlabelled(), **options)


REAL_NAME = dataclasses.replace(arrays.fake("pool", 4), generator_names=("a", "real"))


@pytest.mark.parametrize(
    ("pool", "word"),
    [
        (arrays.fake("pool", 5), "classes"),
        (arrays.fake("pool", 4, 16), "--size=8"),
        (REAL_NAME, 'called "real"'),
    ],
)
def test_foreign_pool_is_refused(pool, word):
    with pytest.raises(RequestError, match=word):
        pool_choice.check(pool, arrays.fake("train", 4))


# --- unlabelled images of unknown class or origin ------------------------------------


def unlabelled(count=100, **changes):
    """A dataset's unlabelled split: other pixels, and no labels."""
    images = arrays.fake("pool", 4, 8).images[:count] // 2
    fields = {"images": images, "labels": np.full(count, -1, np.int32)}
    return dataclasses.replace(arrays.fake("train", 4), **fields, **changes)


def test_the_unlabelled_split_follows_the_real_images_whole():
    train, test = arrays.fake("train", 4), arrays.fake("test", 4)
    pool, more = arrays.fake("pool", 4), unlabelled()
    options = {"labels_per_class": 3, "ratio": 0.25, "mode": "add"}
    chosen = rs_ssl.make_split(train, pool, unlabelled=more, **options)
    task = rs_ssl.make_task(train, test, pool, chosen, more)
    assert vars(chosen).keys() == {  # of a workdir's split.npz
        *("labeled", "validation", "unlabeled_real", "unlabeled_synthetic")
    }
    n = len(chosen.unlabeled_real)
    assert n == 256
    np.testing.assert_array_equal(task.unl_images[n : n + 100], more.images)
    np.testing.assert_array_equal(
        task.unl_images[n + 100 :], pool.images[chosen.unlabeled_synthetic]
    )
    assert set(task.unl_labels[n : n + 100]) == {-1}
    assert set(task.unl_origins[: n + 100]) == {rs_ssl.REAL}
    # S / (256 + 100 + S) = 1/4, in equal parts: 356 / 3 / 4 = 29.7.
    np.testing.assert_array_equal(np.bincount(task.unl_labels[n + 100 :]), [30] * 4)
    plain = rs_ssl.make_split(train, None, labels_per_class=3)
    np.testing.assert_array_equal(plain.unlabeled_real, chosen.unlabeled_real)


def test_training_images_without_a_class_are_unlabelled_ones():
    labels = arrays.fake("train", 4).labels.copy()
    labels[5::4] = -1  # 63 of the 64 of class 1
    train = dataclasses.replace(arrays.fake("train", 4), labels=labels)
    chosen = rs_ssl.make_split(train, None, labels_per_class=1)
    np.testing.assert_array_equal(chosen.unlabeled_real[-63:], np.arange(5, 256, 4))
    assert sorted(chosen.unlabeled_real) == list(range(256))
    assert (labels[chosen.labeled] >= 0).all()
    task = rs_ssl.make_task(train, arrays.fake("test", 4), None, chosen)
    assert (task.unl_labels[-63:] == -1).all()
    assert set(task.unl_origins) == {rs_ssl.REAL}
    np.testing.assert_array_equal(train.counts(), [64, 1, 64, 64])
    known = train.labelled()
    np.testing.assert_array_equal(known.images, train.images[labels >= 0])
    assert known.labels.min() == 0 and known.labelled() is known


def test_origins_one_by_one_beside_a_pool():
    """Generators of both sets are numbered in a row, those of the pool first."""
    train, test, pool = (arrays.fake(s, 4) for s in ("train", "test", "pool"))
    origins = np.tile([rs_ssl.UNKNOWN, rs_ssl.REAL, 0, 1], 25).astype(np.int32)
    classes = np.tile([-1, 2], 50).astype(np.int32)
    more = unlabelled(generators=origins, generator_names=("generator_b", "other"))
    more = dataclasses.replace(more, labels=classes)
    more.check()
    chosen = rs_ssl.make_split(train, None, labels_per_class=1, unlabelled=more)
    task = rs_ssl.make_task(train, test, None, chosen, more)
    assert task.unl_origins[256:].tolist() == origins.tolist()
    assert task.unl_labels[256:].tolist() == classes.tolist()
    assert task.num_synthetic is None
    assert task.generator_names == ("generator_b", "other")
    options = {"labels_per_class": 1, "ratio": 0.2, "mode": "add"}
    chosen = rs_ssl.make_split(train, pool, unlabelled=more, **options)
    task = rs_ssl.make_task(train, test, pool, chosen, more)
    moved = [x + (x >= 0) for x in origins.tolist()]
    assert task.unl_origins[256:356].tolist() == moved
    assert task.generator_names == ("generator_a", "generator_b", "other")
    np.testing.assert_array_equal(
        task.unl_origins[356:], pool.generators[chosen.unlabeled_synthetic]
    )


def test_training_images_are_real_even_if_a_pool_serves_as_dataset():
    pool = arrays.fake("pool", 4)
    chosen = rs_ssl.make_split(pool, None, labels_per_class=3)
    task = rs_ssl.make_task(pool, arrays.fake("test", 4), None, chosen)
    assert set(task.unl_origins) == {rs_ssl.REAL} and task.generator_names == ()


def test_all_labelled_images_in_whatever_number():
    s = split(None, labels_per_class=None, validation_per_class=4)
    np.testing.assert_array_equal(
        np.bincount(LABELS[s.labeled]), np.bincount(LABELS) - 4
    )
    np.testing.assert_array_equal(s.labeled, s.unlabeled_real)
    added = split(labels_per_class=None, ratio=0.5, mode="add")
    assert len(added.unlabeled_synthetic) == len(added.labeled) == len(LABELS)
