"""Dealing rows to devices and back; draws that do not depend on their number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsmatch_jax.runtime import parallel


@pytest.mark.parametrize("count", [1, 2, 4])
def test_deal_and_collect_are_inverse(count):
    rows = np.arange(24).reshape(8, 3)
    dealt = parallel.deal(rows, count)
    assert dealt.shape == (count, 8 // count, 3)
    for r in range(8):
        np.testing.assert_array_equal(dealt[r % count, r // count], rows[r])
    np.testing.assert_array_equal(parallel.collect(dealt), rows)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_device_takes_the_rows_it_would_be_dealt(count):
    """local_rows of a global draw, and their positions."""
    devices = jax.local_devices()[:count]
    draw = jax.random.normal(jax.random.key(0), (8,))

    def forward(key_data, x):
        del x
        everything = jax.random.normal(jax.random.wrap_key_data(key_data), (8,))
        return parallel.local_rows(everything), parallel.global_positions(8 // count)

    data = jax.random.key_data(jax.random.key(0))
    mapped = parallel.map_eval(forward, devices)
    rows, positions = mapped(data, np.zeros((count, 1), np.float32))
    np.testing.assert_array_equal(parallel.collect(rows), draw)
    np.testing.assert_array_equal(parallel.collect(positions), np.arange(8))


def _collectives(x, axis):
    """Every function that takes an axis, on this device's rows x."""
    everything = parallel.gather_rows(x, axis)
    return {
        "mean": parallel.mean(jnp.mean(x), axis),
        "rows": everything,
        "stack": jnp.sum(parallel.gather(x, axis), axis=0),
        "back": parallel.gather_rows(parallel.local_rows(everything, axis), axis),
        "at": parallel.gather_rows(parallel.global_positions(len(x), axis), axis),
        "num_devices": jnp.int32(parallel.num_devices(axis)),
    }


def test_a_bound_name_is_used_and_an_unbound_one_is_an_error():
    """Without a name there is one device."""
    x = jnp.arange(8.0)
    mapped = jax.pmap(lambda x: _collectives(x, "mine"), axis_name="mine")
    alone, one = jax.jit(lambda x: _collectives(x, None))(x), mapped(x[None])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), alone, one)
    four = mapped(parallel.deal(x, 4))
    np.testing.assert_array_equal(four["num_devices"], [4] * 4)
    np.testing.assert_array_equal(four["mean"], [3.5] * 4)
    for name, value in (("rows", x), ("back", x), ("at", np.arange(8))):
        np.testing.assert_array_equal(four[name], [value] * 4)
    functions = (parallel.mean, parallel.gather, parallel.gather_rows)
    for function in (*functions, parallel.local_rows):
        with pytest.raises(NameError, match="mine"):
            jax.jit(lambda x, f=function: f(x, "mine"))(x)
        with pytest.raises(NameError, match="batch"):  # the default is no silent None
            jax.jit(function)(x)
    with pytest.raises(NameError, match="mine"):
        jax.jit(lambda: parallel.global_positions(8, "mine"))()
