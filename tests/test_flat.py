"""A state's networks as vectors: what they hold, and that they train as trees do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.helpers import assert_bit_equal, batches, build, leaves, train

from rsmatch_jax import flat, optim
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import TrainState

SHAPES = {
    "conv": (3, 2, 4, 5),
    "dense": {"kernel": (6, 7), "bias": (7,)},
    "scale": (9,),
}


def network(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def small_state(tx, **params):
    """A state of the networks `params`; the statistics are those of one batch norm."""
    stats = {name: {"mean": np.float32([i, 2])} for i, name in enumerate(params)}
    return TrainState(
        step=jnp.int32(0),
        key=jax.random.key(0),
        params=params,
        stats=stats,
        ema=jax.tree.map(lambda p: p + 1, params),
        opt_state=tx.init(params),
        extra={},
    )


def sgd(*names):
    return optim.make(
        {n: optim.SGD(0.1 + i, 0.9, True, 0.01 + i) for i, n in enumerate(names)}, 50, 0
    )


def test_vectors_hold_every_tensor_once_in_cudnns_order():
    tx, params = sgd("net"), network(0)
    state = flat.pack(small_state(tx, net=params), tx)
    output_first = params["conv"].transpose(3, 0, 1, 2)
    kernels = [output_first.ravel(), params["dense"]["kernel"].ravel()]
    others = [params["dense"]["bias"], params["scale"]]
    for tree, more in ((state.params, 0), (state.ema, 1)):
        vectors = tree["net"].vectors
        assert vectors.keys() == {"kernels", "others"}
        want = np.concatenate(kernels)[None] + np.float32(more)
        np.testing.assert_array_equal(vectors["kernels"], want)
        want = np.concatenate(others) + np.float32(more)
        np.testing.assert_array_equal(vectors["others"], want)
    assert state.stats["net"].vectors.keys() == {"others"}
    # Two vectors of parameters, averages and momenta, one of statistics.
    assert len(jax.tree.leaves(state)) == 3 * 2 + 1 + len(("step", "key", "count"))
    assert jax.tree.leaves(optim.decayed(state.params)) == [True, False]


def test_nothing_changes_on_the_way_there_and_back():
    """Values, and the structure in which a checkpoint is stored."""
    _, _, exp = build(2)
    state, _ = train(exp, batches(exp, 1))
    packed = exp.pack(state)
    assert len(jax.tree.leaves(packed.params)) == 2 * len(exp.nets)
    back = exp.unpack(packed)
    assert jax.tree.structure(back) == jax.tree.structure(exp.state_shapes())
    assert_bit_equal(back, state)
    shapes = exp.state_shapes(packed=True)
    assert jax.tree.structure(packed) == jax.tree.structure(shapes)
    for leaf, shape in zip(*map(jax.tree.leaves, (packed, shapes)), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
        assert leaf.sharding == shape.sharding


def test_sgd_and_shadow_weights_on_vectors_are_those_of_optax_on_trees():
    """Six steps, to 1e-7 of the largest value."""
    names, decay = ("a", "b"), 0.9
    tx = sgd(*names)
    packed = flat.pack(
        small_state(tx, **{n: network(i) for i, n in enumerate(names)}), tx
    )

    @jax.jit
    def on_vectors(state, grads):
        grads = flat.joined(grads, state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = optim.ema_update(state.ema, params, state.step, decay=decay, warmup=False)
        return state.replace(params=params, ema=ema, opt_state=opt_state)

    params = flat.trees(packed.params)
    ema, rules = flat.trees(packed.ema), {}
    for i, name in enumerate(names):  # as optax writes them, one by one
        schedule = optim.cosine_7_16(0.1 + i, 50)
        mask = jax.tree.map(lambda p: p.ndim > 1, params[name])
        rules[name] = optax.chain(
            optax.add_decayed_weights(0.01 + i, mask),
            optax.sgd(schedule, momentum=0.9, nesterov=True),
        )
    states = {name: rules[name].init(params[name]) for name in names}
    for t in range(6):
        grads = {name: network(10 * t + i) for i, name in enumerate(names)}
        packed = on_vectors(packed, grads)
        for name in names:
            updates, states[name] = rules[name].update(
                grads[name], states[name], params[name]
            )
            params[name] = optax.apply_updates(params[name], updates)
        ema = optax.incremental_update(params, ema, 1 - decay)
    for vectors, tree in ((packed.params, params), (packed.ema, ema)):
        got = leaves(flat.trees(vectors))
        for path, want in leaves(tree).items():
            scale = np.abs(want).max()
            np.testing.assert_allclose(got[path] / scale, want / scale, atol=1e-7)


@pytest.mark.parametrize("method", ["rsmatch", "simmatch"])
def test_a_step_on_vectors_is_that_on_trees(method):
    _, _, exp = build(2, **{"method.name": method, "method.threshold": 0.2})
    stream = list(batches(exp, 3))
    on_vectors, metrics = train(exp, stream)
    step, state = exp.train_step(), exp.init_state()
    for batch, on_vector in zip(stream, metrics, strict=True):
        state, on_tree = step(state, parallel.shard_rows(batch, exp.devices))
        for name, value in on_tree.items():
            np.testing.assert_allclose(on_vector[name], value, 1e-6, 1e-7, err_msg=name)
    trees = leaves(on_vectors)
    for path, value in leaves(state).items():
        np.testing.assert_allclose(trees[path], value, 1e-5, 1e-7, err_msg=path)


def test_a_network_with_other_numbers_than_float32_keeps_its_tree():
    tx = sgd("half", "net")
    half = {"kernel": jnp.ones((2, 2), jnp.bfloat16), "bias": np.float32([1, 2])}
    before = small_state(tx, half=half, net=network(0))
    before.stats["half"] = {}
    state = flat.pack(before, tx)
    assert isinstance(state.params["net"], flat.Flat)
    assert state.params["half"].keys() == {"kernel", "bias"}
    assert state.stats["half"] == {}
    assert_bit_equal(flat.unpack(state), before)


def test_another_tree_is_refused():
    tx = sgd("net")
    state = flat.pack(small_state(tx, net=network(0)), tx)
    with pytest.raises(ValueError, match="scale"):
        flat.joined({"net": {**network(1), "scal": 1}}, state.params)
