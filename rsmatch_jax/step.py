"""The train step, one for all methods, and the state it starts from."""

import zlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from rsmatch_jax import optim, parallel
from rsmatch_jax.methods import Dims, Method
from rsmatch_jax.models import Network
from rsmatch_jax.state import Batch, TrainState


def init_state(
    method: Method,
    nets: Mapping[str, Network],
    tx: optax.GradientTransformation,
    dims: Dims,
    seed: int,
) -> TrainState:
    """The state before step 0.

    Each network's key depends on the seed and its name alone, so FixMatch and RSMatch
    of one seed start from the same classifier.
    """
    key = jax.random.key(seed)
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
        (_, (stats, extra, metrics)), grads = loss(state.params)
        grads, metrics = parallel.mean((grads, metrics))
        if not sync_bn:  # or the replicas' running statistics would drift apart unseen
            stats = parallel.mean(stats)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = optim.ema_decay(ema_decay, ema_warmup, state.step)
        new_state = TrainState(
            step=state.step + 1,
            key=state.key,
            params=params,
            stats=stats,
            ema=optim.ema_update(state.ema, params, decay),
            opt_state=opt_state,
            extra=extra,
        )
        return new_state, metrics

    return train_step
