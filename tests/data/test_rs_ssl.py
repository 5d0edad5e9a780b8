"""The RS-SSL split, compared with its definition; see test_launch.py for its bounds."""

import dataclasses

import numpy as np
import pytest
from support import encoded_sets

from rsmatch_jax.data import rs_ssl
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
        rs_ssl.check_pool(pool, arrays.fake("train", 4))
