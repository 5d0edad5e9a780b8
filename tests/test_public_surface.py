"""The public names from outside, without an axis and inside pmap and shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from support import fresh_process
from support.helpers import assert_bit_equal, batches, build, leaves

import rsmatch_jax
from rsmatch_jax.runtime import parallel

D, K, U, AXIS = 4, 5, 16, "mine"


def by_pmap(function):
    """function(same, rows) on four devices; rows [D, ...]. The first device's result,
    if all are equal to the bit."""
    mapped = jax.pmap(function, axis_name=AXIS, in_axes=(None, 0))

    def of_device(out, d):
        # One program at a time: XLA's CPU threads may wait for one another if several
        # programs of all devices are under way, and then it ends the process.
        return jax.tree.map(lambda x: jax.block_until_ready(x[d]), out)

    def run(same, rows):
        out = jax.block_until_ready(mapped(same, rows))
        first = of_device(out, 0)
        for d in range(1, D):
            assert_bit_equal(of_device(out, d), first)
        return first

    return run


def by_shard_map(function):
    mesh = Mesh(np.array(jax.devices()[:D]), (AXIS,))
    same, rows = PartitionSpec(), PartitionSpec(AXIS)
    return jax.jit(
        jax.shard_map(
            lambda s, x: function(s, jax.tree.map(lambda r: r[0], x)),
            mesh=mesh,
            in_specs=(same, rows),
            out_specs=same,
            check_vma=False,
        )
    )


MAPS = pytest.mark.parametrize("mapped", [by_pmap, by_shard_map])


def deal(tree):
    return jax.tree.map(lambda x: parallel.deal(np.asarray(x), D), tree)


@MAPS
def test_queue(mapped):
    csqueue = rsmatch_jax.csqueue
    rng = np.random.default_rng(0)

    def push(axis):
        def step(same, rows):
            queue, key = same
            return csqueue.push(queue, key, *rows, select=3, top=2, axis=axis)

        return step

    alone = spread = csqueue.create(K, 3, (2, 2, 3))
    assert isinstance(alone, rsmatch_jax.CSQueue)
    one, four = jax.jit(push(None)), mapped(push(AXIS))
    for t in range(5):
        rows = (
            rng.integers(0, 256, (U, 2, 2, 3)).astype(np.uint8),
            rng.integers(0, 99, U).astype(np.int32),
            rng.integers(0, K, U).astype(np.int32),
            np.round(rng.random(U), 1).astype(np.float32),  # with ties
        )
        key = jax.random.key(t)
        alone = one((alone, key), rows)
        spread = four((spread, key), deal(rows))
        assert_bit_equal(alone, spread)
    assert csqueue.fill(alone) > 0.5
    slots, ready = csqueue.sample_distinct(alone, jax.random.key(9), 4)
    assert ready and csqueue.take(alone, slots).shape == (4, 2, 2, 3)


@MAPS
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fixmatch", {"threshold": 0.4}),
        ("flexmatch", {"threshold": 0.4, "threshold_warmup": True}),
        (
            "freematch",
            {
                "ema_decay": 0.5,
                "entropy_weight": 0.1,
                "use_quantile": True,
                "clip_threshold": False,
            },
        ),
    ],
)
def test_rules(mapped, name, options):
    rule = rsmatch_jax.RULES[name](**options)
    dims = rsmatch_jax.Dims(K, (2, 2, 3), 0, 4, U, 4, 30)
    rng = np.random.default_rng(1)

    def select(axis):
        def step(same, rows):
            inputs = rsmatch_jax.RuleInputs(*rows, axis=axis)
            labels, weights, buffers = rule.select(inputs, same["buffers"])
            term, _ = rule.regulariser(rows[0], weights, buffers, axis)
            labels, weights = (parallel.gather_rows(x, axis) for x in (labels, weights))
            return labels, weights, buffers, term

        return step

    start = {"buffers": rule.init(dims), "step": jnp.int32(0)}  # pmap wants a leaf
    rows = (
        rng.normal(size=(U, K)).astype(np.float32),
        rng.integers(0, 30, U).astype(np.int32),
        rng.normal(size=(4, K)).astype(np.float32),
        rng.integers(0, K, 4).astype(np.int32),
    )
    alone = jax.jit(select(None))(start, rows)
    spread = mapped(select(AXIS))(start, deal(rows))
    assert 0 < alone[1].mean() < 1 or name == "flexmatch"
    for a, b in zip(*(leaves(x).values() for x in (alone, spread)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def small_step(axis):
    """(the state, the step) of RSMatch from public names."""
    one = {"method.rsmatch.individual_models": False}  # compiles faster
    exp = build(**one)[2]  # for a config and sizes; no mapped function of it
    heads = exp.method.heads(exp.dims.num_classes)
    nets = {
        name: rsmatch_jax.take_uint8(
            rsmatch_jax.networks.make("tiny", h, sync_axis=axis), (0.5,) * 3, (0.2,) * 3
        )
        for name, h in heads.items()
    }
    sgd = rsmatch_jax.optim.SGD(0.03, 0.9, True, 5e-4)
    tx = rsmatch_jax.optim.make(dict.fromkeys(nets, sgd), 10, 0)
    step = rsmatch_jax.make_train_step(
        exp.method, nets, tx, ema_decay=0.9, ema_warmup=False, sync_bn=True, axis=axis
    )
    state = rsmatch_jax.init_state(exp.method, nets, tx, exp.dims, 0)
    return exp, state, step


def test_train_step():
    exp, state, step = small_step(None)
    stream = list(batches(exp, 3))
    alone, one = state, jax.jit(step)
    for b in stream:
        alone, metrics = one(alone, b)
    assert metrics["queue_fill"] > 0
    queue = leaves(alone.extra["queue"])
    for mapped in (by_pmap, by_shard_map):
        _, spread, step = small_step(AXIS)
        four = mapped(step)
        for b in stream:
            spread, metrics_four = four(spread, deal(b))
        for name, value in metrics.items():
            np.testing.assert_allclose(metrics_four[name], value, rtol=1e-4, atol=1e-5)
        for path, value in leaves(spread.extra["queue"]).items():
            np.testing.assert_array_equal(value, queue[path], err_msg=path)
        for path, value in leaves(alone.params).items():
            other = leaves(spread.params)[path]
            np.testing.assert_allclose(value, other, atol=1e-5, err_msg=path)


def test_an_axis_that_is_not_bound_is_an_error():
    exp, state, step = small_step(AXIS)
    (b,) = batches(exp, 1)
    with pytest.raises(NameError, match=AXIS):
        jax.jit(step)(state, b)
    csqueue = rsmatch_jax.csqueue
    queue = csqueue.create(K, 3, (8, 8, 3))
    rows = (b.weak, b.indices, b.indices, np.ones(len(b.indices), np.float32))
    rows = jax.tree.map(jnp.asarray, rows)
    for axis in ({}, {"axis": AXIS}):  # the default is no silent None
        with pytest.raises(NameError):
            csqueue.push(queue, jax.random.key(0), *rows, select=1, top=1, **axis)


@MAPS
def test_views(mapped):
    on_device = rsmatch_jax.on_device
    spec = rsmatch_jax.ViewSpec(True, 1, randaugment_ops=1, cutout=True)
    images = np.random.default_rng(2).integers(0, 256, (U, 8, 8, 3)).astype(np.uint8)
    tables = on_device.make_tables(8, spec)

    def views(axis):
        def step(key, x):
            weak = on_device.weak_view(key, x, flip=True, crop_pad=1, axis=axis)
            numbers = on_device.draw(key, len(x), spec, True, axis)
            strong = on_device.strong(x, numbers, tables, spec)
            return [parallel.gather_rows(v, axis) for v in (weak, strong)]

        return step

    key = jax.random.key(3)
    alone = jax.jit(views(None))(key, images)
    assert_bit_equal(alone, mapped(views(AXIS))(key, deal(images)))
    assert (alone[0] != alone[1]).any(axis=(1, 2, 3)).mean() > 0.7
    with pytest.raises(NameError, match=AXIS):
        jax.jit(views(AXIS))(key, images)


def test_names_are_found_and_importing_stays_light():
    program = """
    import sys
    import rsmatch_jax
    assert not {"jax", "numpy", "flax"} & set(sys.modules)
    names = {name: getattr(rsmatch_jax, name) for name in rsmatch_jax.__all__}
    assert set(names) <= set(dir(rsmatch_jax))
    from rsmatch_jax import csqueue, load, make_train_step
    assert names["load"] is load and names["csqueue"].create
    try:
        rsmatch_jax.nothing
    except AttributeError as e:
        assert "nothing" in str(e)
    else:
        raise AssertionError
    """
    fresh_process.run(program)
