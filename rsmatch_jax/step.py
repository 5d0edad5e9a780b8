"""The train step of all methods, and the state before it."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rsmatch_jax import flat, optim
from rsmatch_jax.methods.base import Dims, Method, Metrics, StepInputs
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
    """Returns the state before step 0. Each network's key depends on the seed and its
    name alone, so all methods of one seed start from the same classifier."""
    key = jax.random.key(seed, impl="threefry2x32")  # independent of JAX's default
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
    axis: str | None = parallel.AXIS,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns train_step(state, batch) -> (state, metrics) of one device.

    A step is one gradient and one update for all networks, then `optim.ema_update`, on
    trees or on the vectors of `flat.pack`. Jit it if `axis` is None; otherwise map it
    over an axis of that name: `parallel.map_step`, pmap, or shard_map with
    check_vma=False. With sync_bn the networks average batch statistics over the same
    axis.
    """

    def train_step(state: TrainState, batch: Batch):
        inputs = _inputs(method, nets, state, batch, axis)
        loss = jax.value_and_grad(lambda p: method.loss(p, inputs), has_aux=True)
        with jax.named_scope("loss"):
            (_, (stats, extra, metrics)), grads = loss(flat.trees(state.params))
        # Not differentiated by the vectors: a slice's derivative is padded and added.
        grads, stats = flat.joined(grads, state.params), flat.joined(stats, state.stats)
        grads, metrics = parallel.mean((grads, metrics), axis)
        # Reports a non-finite gradient in the step where it occurs, before it is saved.
        metrics |= {f"{n}_grad_norm": optax.global_norm(g) for n, g in grads.items()}
        if not sync_bn:  # otherwise the replicas' statistics would drift apart unseen
            stats = parallel.mean(stats, axis)
        with jax.named_scope("update"):
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        with jax.named_scope("ema"):
            ema = optim.ema_update(
                state.ema, params, state.step, decay=ema_decay, warmup=ema_warmup
            )
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            stats=stats,
            ema=ema,
            opt_state=opt_state,
            extra=extra,
        )
        return new_state, metrics

    return train_step


def make_screen(
    method: Method, nets: Mapping[str, Network], axis: str | None = parallel.AXIS
) -> Callable[[TrainState, Batch], Float[Array, " candidates"]]:
    """Returns screen(state, candidates) -> `Method.screen`'s scores of those of all
    devices."""

    @jax.named_scope("screening")
    def screen(state: TrainState, candidates: Batch):
        inputs = _inputs(method, nets, state, candidates, axis)
        return parallel.gather_rows(
            method.screen(flat.trees(state.params), inputs), axis
        )

    return screen


def _inputs(method, nets, state: TrainState, batch: Batch, axis) -> StepInputs:
    return StepInputs(
        nets=_scoped(nets),
        stats=flat.trees(state.stats),
        extra=state.extra,
        batch=batch,
        key=jax.random.fold_in(state.key, state.step),
        step=state.step,
        axis=axis,
        ema=flat.trees(state.ema) if method.reads_ema else None,
    )


def _scoped(nets: Mapping[str, Network]) -> dict[str, Network]:
    """Names the networks' kernels in a profile; changes no number."""
    return {
        name: net._replace(apply=jax.named_scope(name)(net.apply))
        for name, net in nets.items()
    }


def repeat(
    one_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]], times: int
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Returns (state, inputs) -> (state, metrics of [times]): `times` steps, all from
    the same inputs. Their number is fixed, because a GPU's host waits at every turn of
    a loop whose end the compiler does not know."""

    def many_steps(state, inputs):
        def turn(state, _):
            return one_step(state, inputs)

        return jax.lax.scan(turn, state, length=times)

    return many_steps
