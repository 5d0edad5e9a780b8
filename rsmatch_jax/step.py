"""The train step, one for all methods, and the state it starts from."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rsmatch_jax import optim
from rsmatch_jax.methods.catalogue import Dims, Method
from rsmatch_jax.models.networks import Network
from rsmatch_jax.runtime import parallel
from rsmatch_jax.state import Batch, TrainState


def init_state(
    method: Method,
    nets: Mapping[str, Network],
    tx: optax.GradientTransformation,
    dims: Dims,
    seed: jax.typing.ArrayLike,
) -> TrainState:
    """The state before step 0.

    Each network's key depends on the seed and its name alone, so FixMatch and RSMatch
    of one seed start from the same classifier.
    """
    key = jax.random.key(seed, impl="threefry2x32")  # whatever JAX is set to
    images = jnp.zeros((1, *dims.image_shape), jnp.uint8)
    params, stats = {}, {}
    for name, net in nets.items():
        network_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
        params[name], stats[name] = net.init(network_key, images)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=params,
        stats=stats,
        ema=jax.tree.map(jnp.copy, params),  # donated: may not alias params
        opt_state=tx.init(params),
        extra=method.init_extra(dims),
    )


def make_train_step(
    method: Method,
    nets: Mapping[str, Network],
    tx: optax.GradientTransformation,
    *,
    ema_decay: float,
    ema_warmup: bool,
    sync_bn: bool,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """One gradient and one update for all networks, then EMA.

    The result is one device's program, to be mapped by `parallel.map_step`.
    """

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        loss = jax.value_and_grad(
            lambda params: method.loss(
                nets, params, state.stats, state.extra, batch, key, state.step
            ),
            has_aux=True,
        )
        # Scopes change no number: they name the kernels in a profile.
        with jax.named_scope("loss"):
            (_, (stats, extra, metrics)), grads = loss(state.params)
        grads, metrics = parallel.mean((grads, metrics))
        # A gradient that is not finite is told of in its own step, before it is saved.
        metrics |= {f"{n}_grad_norm": optax.global_norm(g) for n, g in grads.items()}
        if not sync_bn:  # or the replicas' running statistics would drift apart unseen
            stats = parallel.mean(stats)
        with jax.named_scope("update"):
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        with jax.named_scope("ema"):
            decay = optim.ema_decay(ema_decay, ema_warmup, state.step)
            ema = optim.ema_update(state.ema, params, decay)
        new_state = TrainState(
            step=state.step + 1,
            key=state.key,
            params=params,
            stats=stats,
            ema=ema,
            opt_state=opt_state,
            extra=extra,
        )
        return new_state, metrics

    return train_step


def repeat(
    one_step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    most: int,
) -> Callable:
    """(state, inputs, count) -> (state, metrics of [most]): `count` steps, 1 to `most`,
    in one program, all from the same inputs.

    A loop of as many turns as asked for, not of a fixed number: one compilation for
    all, and no bit depends on how the steps are dealt out. Metrics beyond count are 0.
    """

    def many_steps(state, inputs, count):
        _, shapes = jax.eval_shape(one_step, state, inputs)
        kept = jax.tree.map(lambda m: jnp.zeros((most, *m.shape), m.dtype), shapes)

        def turn(i, carry):
            state, kept = carry
            state, metrics = one_step(state, inputs)
            return state, jax.tree.map(lambda k, m: k.at[i].set(m), kept, metrics)

        return jax.lax.fori_loop(0, count, turn, (state, kept))

    return many_steps
