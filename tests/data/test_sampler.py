"""The sampler's order: counts, permutations, and access to any step."""

import numpy as np
import pytest

from rsmatch_jax.data import sampler
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runtime import parallel

EPOCH = sampler.STEPS_PER_EPOCH  # 1024


def epoch_of(seed=0, stream="labelled", epoch=0, n=40, batch=8):
    return np.asarray(sampler.epoch_indices(seed, stream, epoch, n, batch))


@pytest.mark.parametrize(
    "n, batch, full, left",
    [(5, 8, 1638, 2), (1200, 8, 6, 992), (8192, 8, 1, 0), (9000, 8, 0, 8192)]
    + [(7, 1, 146, 2)],
)
def test_an_epoch_is_full_permutations_and_a_truncated_one(n, batch, full, left):
    order = epoch_of(n=n, batch=batch)
    assert order.shape == (EPOCH, batch) and order.dtype == np.int32
    row = order.reshape(-1)
    orders, tail = row[: full * n].reshape(full, n), row[full * n :]
    assert (np.sort(orders, axis=1) == np.arange(n)).all()
    assert len(tail) == left == len(set(tail.tolist()))
    counts = np.bincount(row, minlength=n)
    assert len(counts) == n  # no position beyond the set
    np.testing.assert_array_equal(np.bincount(counts - full, minlength=2)[1], left)


def test_permutations_of_an_epoch_differ_and_look_uniform():
    n, full = 8, 512
    orders = epoch_of(n=n, batch=4).reshape(full, n)
    assert len({tuple(order) for order in orders.tolist()}) > 500  # of 40,320
    # Each position holds each image about full / n = 64 times.
    table = np.stack([np.bincount(place, minlength=n) for place in orders.T])
    chi2 = ((table - full / n) ** 2 / (full / n)).sum()
    assert chi2 < 85.4  # 99.9 % quantile at 49 degrees of freedom


def test_order_depends_on_seed_epoch_and_stream_and_repeats():
    base = epoch_of()
    np.testing.assert_array_equal(base, epoch_of())
    changes = ({"seed": 1}, {"seed": -1}, {"epoch": 1}, {"stream": "unlabelled"})
    for other in (epoch_of(**change) for change in changes):
        assert (base == other).mean() < 0.2
        assert (np.sort(base.reshape(-1)) != np.sort(other.reshape(-1))).any()


def test_random_access_equals_sequential():
    sequential = np.concatenate([epoch_of(seed=3, epoch=e) for e in range(3)])
    for step in np.random.default_rng(0).permutation(3 * EPOCH):
        got = sampler.step_indices(3, "labelled", step, 40, 8)
        np.testing.assert_array_equal(got, sequential[step])
    assert got.dtype == np.int32 and not got.flags.writeable


def test_an_empty_set_is_refused_by_name():
    with pytest.raises(RequestError, match="unlabelled set has 0 images"):
        sampler.step_indices(0, "unlabelled", 0, 0, 8)


def parts(rows, synthetic=(1, 4, 5, 9, 11, 12)):
    synthetic = np.array(synthetic, np.int32)
    real = np.setdiff1d(np.arange(20, dtype=np.int32), synthetic)
    return sampler.Parts(real, synthetic, rows)


@pytest.mark.parametrize("rows", [1, 3, 5, 8])
def test_every_batch_has_the_same_number_of_real_rows(rows):
    made = parts(rows)
    order = np.asarray(sampler.epoch_in_parts(3, 1, made, 8))
    is_real = np.isin(order, made.real)
    assert order.shape == (EPOCH, 8) and order.dtype == np.int32
    assert (is_real.sum(axis=1) == rows).all()
    for devices in (2, 4):  # each gets as many as any other, give or take one
        dealt = parallel.deal(is_real.T, devices)  # [D, rows / D, steps]
        assert np.ptp(dealt.sum(axis=1), axis=0).max() <= 1
    # Each part is drawn as a set alone, to the image.
    want = made.real[epoch_of(3, "unlabelled", 1, len(made.real), rows)]
    np.testing.assert_array_equal(order[is_real].reshape(EPOCH, rows), want)
    if rows < 8:
        count = np.bincount(order[~is_real], minlength=20)[made.synthetic]
        assert count.sum() == EPOCH * (8 - rows) and np.ptp(count) <= 1
    for step in (EPOCH, EPOCH + 5):
        got = sampler.step_indices(3, "unlabelled", step, 20, 8, made)
        np.testing.assert_array_equal(got, order[step - EPOCH])


def test_real_rows_do_not_depend_on_the_synthetic_ones():
    """A run without the synthetic images learns from the same real ones, step by
    step."""
    made = parts(3)
    mixed = np.asarray(sampler.epoch_in_parts(0, 0, made, 8))
    alone = np.asarray(sampler.epoch_in_parts(0, 0, made, 3))
    real = mixed[np.isin(mixed, made.real)].reshape(EPOCH, 3)
    np.testing.assert_array_equal(real, alone)
