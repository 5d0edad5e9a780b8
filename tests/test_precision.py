"""`model.dtype=bfloat16` changes convolutions and activations only.

Whatever adds up over a run or is compared with a threshold stays float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.helpers import BLOCKS, batches, build, leaves, train

from rsmatch_jax.runtime import parallel

HALF = {"model.dtype": "bfloat16"}


def equations(jaxpr):
    """The equations of a jaxpr and of all that it calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("method", ["rsmatch", "freematch", "simmatch"])
def test_a_run_adds_up_in_float32(method):
    """Parameters, statistics, EMA, momentum and buffers have a float32 run's dtypes."""
    states = {}
    for values in ({}, HALF):
        _, _, exp = build(**{"method.name": method, **values})
        batch = parallel.shard_rows(next(batches(exp, 1)), exp.devices)
        state, metrics = exp.train_step().lower(exp.init_state(), batch).out_info
        states[bool(values)] = jax.tree.map(lambda x: x.dtype, state)
        assert all(m.dtype == jnp.float32 for m in metrics.values())
    assert states[True] == states[False]
    assert not any(d == jnp.bfloat16 for d in jax.tree.leaves(states[True]))


def test_convolutions_are_in_bfloat16_and_logits_are_not():
    _, _, exp = build(**BLOCKS, **HALF)
    state = exp.init_state()
    for name, net in exp.nets.items():
        images = jnp.zeros((2, *exp.dims.image_shape), jnp.uint8)

        def forward(params, stats, net=net, images=images):
            return net.apply(params, stats, images, train=False)

        jaxpr = jax.make_jaxpr(forward)(state.params[name], state.stats[name])
        convs = [
            eqn
            for eqn in equations(jaxpr.jaxpr)
            if eqn.primitive.name == "conv_general_dilated"
        ]
        assert len(convs) == 9  # wrn_10_1: stem, three blocks of two, two shortcuts
        for eqn in convs:
            assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype(jnp.bfloat16)}
        products = [
            eqn for eqn in equations(jaxpr.jaxpr) if eqn.primitive.name == "dot_general"
        ]
        heads = exp.method.heads(exp.dims.num_classes)[name]
        assert len(products) == len(heads)
        for eqn in products:
            assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype(jnp.float32)}
        assert all(x.aval.dtype == jnp.float32 for x in jaxpr.jaxpr.outvars)


def test_a_step_equals_that_of_float32_up_to_rounding():
    """bfloat16 has eight bits: the update has the same direction, the loss is close."""
    updates, losses = [], []
    for values in ({}, HALF):
        _, _, exp = build(**{"method.name": "fixmatch", **BLOCKS, **values})
        before = leaves(exp.init_state().params)
        before = {k: np.array(v) for k, v in before.items()}
        state, metrics = train(exp, batches(exp, 1))
        after = leaves(state.params)
        updates.append(np.concatenate([np.ravel(after[k] - before[k]) for k in before]))
        losses.append(float(metrics[0]["loss"]))
    exact, half = updates
    cosine = exact @ half / np.linalg.norm(exact) / np.linalg.norm(half)
    assert 0.98 < cosine < 1 - 1e-9
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
