"""What a run keeps on a device: counted by hand, and refused if it does not fit."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from support.helpers import build, leaves

from rsmatch_jax.engine import feed, memory
from rsmatch_jax.errors import RequestError

MIB = 2**20


def device(limit, process=0):
    """A device that says how much memory it has."""
    stats = None if limit is None else {"bytes_limit": limit, "bytes_in_use": 0}
    return types.SimpleNamespace(
        memory_stats=lambda: stats,
        platform="gpu",
        device_kind="fake",
        process_index=process,
    )


def test_parts_are_what_the_state_holds():
    _, task, exp = build()
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
    assert sum(parts.values()) - params - parts["images"] - parts["batches"] == sum(
        state.values()
    ) - sum(n for path, n in state.items() if path in (".step", ".key"))


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"method.name": "fixmatch", "input.mode": "tfdata"}, "images"),
        ({"method.name": "flexmatch", "input.resident_budget_gb": 0.0}, "images"),
    ],
)
def test_a_missing_part_takes_nothing(overrides, part):
    _, task, exp = build(**overrides)
    parts = memory.parts(exp, feed.resident_bytes(exp, task))
    assert parts[part] == 0
    assert "queue" not in parts


def test_a_batch_is_split_over_devices():
    _, task, exp = build(num_devices=4)
    assert memory.parts(exp, 0)["batches"] == (4 + 2 * 8) * 8 * 8 * 3 // 4


def test_a_small_device_is_refused_with_the_keys_to_lower():
    _, task, exp = build(
        **{"method.rsmatch.queue_length": 10_000, "train.num_steps": 4}
    )
    parts = memory.parts(exp, feed.resident_bytes(exp, task))
    total = sum(parts.values())
    with pytest.raises(RequestError) as e:
        feed.make(dataclasses.replace(exp, devices=[device(total - 1)]), task)
    assert f"{total / MIB:.0f} MiB on each" in str(e.value)
    queue = f"{parts['queue'] / MIB:.0f} MiB of queue"
    assert f"{queue} (lower method.rsmatch.queue_length)" in str(e.value)
    assert "images" not in str(e.value)  # too small to be listed
    memory.check(parts, total, exp.method.memory_keys)
    lines = list(memory.describe(parts, total))
    assert any(queue.removesuffix(" of queue") in line for line in lines)


def test_limits():
    assert memory.limit([device(5 * MIB)]) == 5 * MIB
    assert memory.limit([device(None)]) is None
    # The other machine's device comes first, but cannot tell here.
    assert memory.limit([device(MIB, process=1), device(2 * MIB)]) == 2 * MIB
    memory.check({"queue": 2**60}, None, {})
    with open("/proc/meminfo") as f:
        machine = 1024 * int(f.readline().split()[1])
    one, four = (memory.limit(jax.local_devices()[:n]) for n in (1, 4))
    np.testing.assert_allclose(one, machine, rtol=0.01)
    assert four == one // 4


def test_sizes_in_words():
    assert memory.in_words(3 * MIB + 1) == "3 MiB"
    assert memory.in_words(int(2.4e9)) == "2289 MiB"
    assert memory.in_words(25 * 2**30) == "25.0 GiB"


def test_queue_of_imagenet_is_stated():
    """1000 classes, 16 images each, 224 px: the 2.4 GB that the config speaks of."""
    from rsmatch_jax.methods import csqueue

    queue = jax.eval_shape(lambda: csqueue.create(1000, 16, (224, 224, 3)))
    assert memory.size(queue) == 1000 * 16 * (224 * 224 * 3 + 4) + 2 * 1000 * 4
