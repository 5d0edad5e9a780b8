"""A run's step compiled for devices that are not there: it can be read, not run."""

import dataclasses
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsmatch_jax.data import resident
from rsmatch_jax.engine import feed
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runtime import parallel
from rsmatch_jax.runtime.targets import Target
from rsmatch_jax.state import Batch, PyTree


class Program(NamedTuple):
    """A compiled step. peak_bytes: of a device's memory, with the arguments."""

    text: str  # of the compiled module
    argument_bytes: int
    temp_bytes: int
    peak_bytes: int
    state_leaves: int
    compile_seconds: float


def compiled(
    exp: Experiment, images: resident.Resident | None, target: Target, steps: int = 1
) -> Program:
    """Compiles a dispatch of `steps` steps of an experiment for a target.

    images: those that the devices hold, see `feed.gathered`; None = batches come from
    the host, one step a dispatch. Raises RequestError without the target's compiler.
    """
    exp = dataclasses.replace(exp, devices=target.devices())
    if images is None:
        mapped, inputs, steps = exp.train_step(), (batch_shapes(exp),), 1
    else:
        orders = jax.eval_shape(lambda: feed.epoch_orders(exp, 0))
        held = _placed((images, orders), parallel.replicated(exp.devices))
        mapped = feed.resident_programs(exp, steps)[steps]
        inputs = held, parallel.rank_shapes(exp.devices)
    state, begin = exp.state_shapes(packed=True), time.perf_counter()
    try:
        program = mapped.lower(state, *inputs).compile()
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise RequestError(
            f"--target={target.key}: the step does not fit in its memory; lower "
            f"train.batch_size or train.unlabeled_ratio ({e})"
        ) from e
    memory = program.memory_analysis()
    assert memory is not None
    new_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(
        text=program.as_text() or "",
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        peak_bytes=memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + new_outputs,
        state_leaves=len(jax.tree.leaves(state)),
        compile_seconds=time.perf_counter() - begin,
    )


def batch_shapes(exp: Experiment) -> Batch:
    """Returns shapes and placement of a global batch, dealt to the devices."""
    dims, method = exp.dims, exp.method
    unlabelled = dims.unlabeled_batch if method.uses_unlabeled else 0

    def rows(count, *shape, dtype=jnp.int32):
        devices = len(exp.devices)
        return jnp.zeros((devices, count // devices, *shape), dtype)

    def images(count):
        return rows(count, *dims.image_shape, dtype=jnp.uint8)

    def batch():
        return Batch(
            lab=images(dims.batch_size),
            labels=rows(dims.batch_size),
            lab_indices=rows(dims.batch_size),
            weak=images(unlabelled),
            strong=images(unlabelled),
            indices=rows(unlabelled),
            synthetic=rows(unlabelled, dtype=bool) if method.needs_truth else None,
            weak2=images(unlabelled) if method.weak_views == 2 else None,
        )

    return _placed(jax.eval_shape(batch), parallel.dealt(exp.devices))


def _placed(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )
