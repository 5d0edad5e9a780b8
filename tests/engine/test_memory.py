"""What a run keeps on a device: counted by hand, and refused if it does not fit."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from support.helpers import BLOCKS, build, leaves

from rsmatch_jax.engine import feed, memory
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import csqueue

MIB = 2**20


def device(limit, process=0):
    """A device that says how much memory it has."""
    stats = None if limit is None else {"bytes_limit": limit, "bytes_in_use": 0}
    return types.SimpleNamespace(
        memory_stats=lambda: stats, platform="gpu", process_index=process
    )


def test_parts_are_what_the_state_holds():
    _, task, exp = build(**BLOCKS)
    parts = memory.parts(exp, feed.resident_bytes(exp, task))
    state = {k: v.nbytes for k, v in leaves(exp.init_state()).items()}

    def held(*names):
        return sum(n for path, n in state.items() if path.startswith(names))

    params = held(".params")
    assert 4 * 150_000 < params == held(".ema") < held(".opt_state")
    # A gradient is as large as the parameters.
    assert parts["weights, averages, momenta and gradients"] == params + held(
        ".params", ".ema", ".opt_state", ".stats"
    )
    queue = 10 * 16 * (8 * 8 * 3 + 4) + 2 * 10 * 4
    assert parts["queue"] == queue == held(".extra['queue']")
    assert parts["images"] == task.lab_images.nbytes + task.unl_images.nbytes
    assert parts["batches"] == (4 + 2 * 8) * 8 * 8 * 3
    of_state = sum(parts.values()) - params - parts["images"] - parts["batches"]
    assert of_state == sum(state.values()) - held(".step", ".key")


@pytest.mark.parametrize("key", ["input.mode", "input.resident_budget_gb"])
def test_images_on_the_host_and_a_missing_queue_take_nothing(key):
    value = "tfdata" if key == "input.mode" else 0.0
    _, task, exp = build(4, **{"method.name": "fixmatch", key: value})
    parts = memory.parts(exp, feed.resident_bytes(exp, task))
    assert parts["images"] == 0
    assert "queue" not in parts
    assert parts["batches"] == (4 + 2 * 8) * 8 * 8 * 3 // 4  # of one of four devices


def test_a_small_device_is_refused_with_the_keys_to_lower():
    _, task, exp = build(**{"method.rsmatch.queue_length": 10_000})
    images = feed.resident_bytes(exp, task)
    parts = memory.parts(exp, images)
    total = sum(parts.values())
    with pytest.raises(RequestError) as e:
        feed.make(dataclasses.replace(exp, devices=[device(total - 1)]), task)
    assert f"{total / MIB:.0f} MiB on each" in str(e.value)
    queue = f"{parts['queue'] / MIB:.0f} MiB"
    assert f"{queue} of queue (lower method.rsmatch.queue_length)" in str(e.value)
    assert "images" not in str(e.value)  # too small to be listed
    for limit in (total, None):
        fits = dataclasses.replace(exp, devices=[device(limit)])
        assert f"queue {queue}" in memory.check(fits, images)


def test_limits():
    assert memory.limit([device(5 * MIB)]) == 5 * MIB
    assert memory.limit([device(None)]) is None
    # The other machine's device comes first, but cannot tell here.
    assert memory.limit([device(MIB, process=1), device(2 * MIB)]) == 2 * MIB
    with open("/proc/meminfo") as f:
        machine = 1024 * int(f.readline().split()[1])
    one, four = (memory.limit(jax.local_devices()[:n]) for n in (1, 4))
    np.testing.assert_allclose(one, machine, rtol=0.01)
    assert four == one // 4


def test_sizes_in_words():
    assert memory.in_words(3 * MIB + 1) == "3 MiB"
    assert memory.in_words(25 * 2**30) == "25.0 GiB"
    # ImageNet's queue: 1000 classes, 16 images of 224 px each, 2.4 GB.
    queue = jax.eval_shape(lambda: csqueue.create(1000, 16, (224, 224, 3)))
    assert memory.size(queue) == 1000 * 16 * (224 * 224 * 3 + 4) + 2 * 1000 * 4
    assert memory.in_words(memory.size(queue)) == "2297 MiB"
