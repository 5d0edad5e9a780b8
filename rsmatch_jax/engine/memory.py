"""Counts what a run keeps on each device; refuses a run that does not fit."""

import os
from collections.abc import Sequence

import jax

from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.state import PyTree

STATE = "weights, averages, momenta and gradients"
BUFFERS = "other buffers of the method"
IMAGES, BATCHES = "images", "batches"
# The parts, with the keys that make them smaller. A method may add parts.
KEYS = {
    STATE: "model.classifier, model.detector",
    BUFFERS: "method.name",
    IMAGES: "input.resident_budget_gb",
    BATCHES: "train.batch_size, train.unlabeled_ratio",
}
_LARGE = 0.1  # share of the total from which a message names a part
_GIB, _MIB = 2**30, 2**20


def parts(exp: Experiment, images: int) -> dict[str, int]:
    """Returns bytes on each device: the parts of KEYS and of the method's memory_keys.
    images: their bytes on a device. Only the compiled program knows the activations."""
    state = exp.first_state.out_info
    names = [name for name in exp.method.memory_keys if name in state.extra]
    large = {name: size(state.extra[name]) for name in names}
    dims, t = exp.dims, exp.config.train
    rows = t.batch_size
    if exp.method.uses_unlabeled:
        rows += (1 + exp.method.weak_views) * dims.unlabeled_batch
    height, width, channels = dims.image_shape
    averages = size((state.ema, state.opt_state, state.stats))
    return {
        STATE: 2 * size(state.params) + averages,
        **large,
        BUFFERS: size(state.extra) - sum(large.values()),
        IMAGES: images,
        BATCHES: rows * height * width * channels // len(exp.devices),
    }


def check(exp: Experiment, images: int) -> str:
    """Returns a line about the memory of each device; raises RequestError if the parts,
    a lower bound, exceed it."""
    sizes, bound = parts(exp, images), limit(exp.devices)
    total = sum(sizes.values())
    if bound is not None and total > bound:
        keys = {**KEYS, **exp.method.memory_keys}
        listed = ", ".join(
            f"{in_words(sizes[name])} of {name} (lower {keys[name]})"
            for name in sorted(sizes, key=sizes.__getitem__, reverse=True)
            if sizes[name] > _LARGE * total
        )
        raise RequestError(
            f"a device has {in_words(bound)} of memory, this run keeps "
            f"{in_words(total)} on each, most of it {listed}"
        )
    listed = ", ".join(
        f"{name} {in_words(n)}" for name, n in sizes.items() if n >= _MIB
    )
    of = "" if bound is None else f" of {in_words(bound)}"
    line = f"memory per device: {in_words(total)}{of}, before activations"
    return f"{line}: {listed}" if listed else line


def limit(devices: Sequence[jax.Device]) -> int | None:
    """Returns the bytes that a run may use on each of this process's devices: on CPUs
    equal shares of the machine's memory. None if a device does not tell."""
    local = [d for d in devices if d.process_index == jax.process_index()]
    stats = local[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    if local[0].platform != "cpu":
        return None
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // len(local)


def size(tree: PyTree) -> int:
    """Returns the bytes of a tree of arrays or shapes, without PRNG keys."""
    return sum(
        x.size * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def in_words(count: int) -> str:
    """Formats bytes as MiB, from 10 GiB on as GiB."""
    if count >= 10 * _GIB:
        return f"{count / _GIB:.1f} GiB"
    return f"{count / _MIB:.0f} MiB"
