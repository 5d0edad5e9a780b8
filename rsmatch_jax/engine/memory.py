"""What a run keeps on each device, and whether the device can hold it."""

import os
from collections.abc import Iterator, Mapping, Sequence

import jax

from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.state import PyTree

QUEUE = "queue"
# The parts, with the keys that make them smaller.
KEYS = {
    "weights, averages, momenta and gradients": "model.classifier, model.detector",
    QUEUE: "method.rsmatch.queue_length",
    "other buffers of the method": "method.name",
    "images": "input.resident_budget_gb",
    "batches": "train.batch_size, train.unlabeled_ratio",
}
_LARGE = 0.1  # share of the whole that is worth a word
_GIB, _MIB = 2**30, 2**20


def parts(exp: Experiment, images: int) -> dict[str, int]:
    """Bytes on each device, by the names of KEYS; 0 for what a run has not.

    images: bytes of images that lie there. Nothing is allocated. What a step needs in
    between, activations above all, only its compiled program knows.
    """
    state = exp.first_state.out_info
    buffers = dict(state.extra) if isinstance(state.extra, Mapping) else {}
    queue = size(buffers.pop(QUEUE, ()))
    dims, t = exp.dims, exp.config.train
    rows = t.batch_size
    if exp.method.uses_unlabeled:
        rows += 2 * dims.unlabeled_batch
    height, width, channels = dims.image_shape
    found = (
        2 * size(state.params) + size((state.ema, state.opt_state, state.stats)),
        queue,
        size(state.extra) - queue,
        images,
        rows * height * width * channels // len(exp.devices),
    )
    return dict(zip(KEYS, found, strict=True))


def describe(found: Mapping[str, int], limit: int | None) -> Iterator[str]:
    """One line."""
    said = [f"{name} {in_words(n)}" for name, n in found.items() if n >= _MIB]
    of = "" if limit is None else f" of {in_words(limit)}"
    yield (
        f"memory per device: {in_words(sum(found.values()))}{of}, before activations"
        + (f": {', '.join(said)}" if said else "")
    )


def check(found: Mapping[str, int], limit: int | None):
    """Raises RequestError where the parts are more than `limit` bytes, None = no limit.

    A lower bound, so what it refuses cannot work.
    """
    total = sum(found.values())
    if limit is None or total <= limit:
        return
    largest = sorted(found, key=found.__getitem__, reverse=True)
    said = ", ".join(
        f"{in_words(found[name])} of {name} (lower {KEYS[name]})"
        for name in largest
        if found[name] > _LARGE * total
    )
    raise RequestError(
        f"a device has {in_words(limit)} of memory, this run keeps {in_words(total)} "
        f"on each, most of it {said}"
    )


def limit(devices: Sequence[jax.Device]) -> int | None:
    """Bytes that a run may use on each of this process's devices: of CPUs an equal
    share of the machine's memory; None where a device does not say."""
    own = [d for d in devices if d.process_index == jax.process_index()]
    stats = own[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    if own[0].platform != "cpu":
        return None
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // len(own)


def size(tree: PyTree) -> int:
    """Bytes of a tree of arrays or of their shapes; PRNG keys not counted."""
    return sum(
        x.size * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def in_words(count: int) -> str:
    """Bytes as MiB, from 10 GiB on as GiB."""
    if count >= 10 * _GIB:
        return f"{count / _GIB:.1f} GiB"
    return f"{count / _MIB:.0f} MiB"
