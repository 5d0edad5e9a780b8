"""Measures speed; prints tables and writes JSON.

    python -m rsmatch_jax.bench NAME [--preset=cpu|gpu] [--config=configs/cifar10.py]
        [--config.group.key=value ...] [--out=FILE.json]

first [--minutes=9] [--resume=FOLDER] [--sweep=cifake]: what a short time with a GPU
    should yield, the most important first, and a page of it; the same command goes on.
suite: those from step to invariants, but predict; at most nine minutes on a GPU.
step: one train step of every method, side by side in one process.
loop: whole steps of a run with their input, several per dispatch.
queue: pushes to and draws from the class-wise queue with 10, 100 and 1000 classes.
augment: weak and strong views per second, on the device, by Pillow and by tf.data.
input: batches per second without training, on the device and on the host.
roofline: the machine's ceilings, and every convolution of the networks.
update: the optimiser and EMA by optax on trees, and on flat vectors.
flags: the train step under compiler options, one at a time.
profile: the time of a step by class of kernel, and how long the device is idle.
memory: resident images on the device, and the host memory of a run.
peer: FixMatch's step beside PyTorch's, if PyTorch is installed.
predict: image files to JSON lines, beside the networks alone.
start: the time to compile at the first and at the second start.
invariants: no late compilation, no loops on a CPU, four devices equal one.
correct: one step of every method beside the CPU's, and the bits of a run.
compiled: counts the step's program for a GPU or TPU that need not be there.
records: writes the tables of docs/performance.md from benchmarks/*.json; measures
  nothing.

The preset sets the sizes and follows the device by default: for most benches cpu has 4
labelled + 28 unlabelled images, and gpu the config's batch in bfloat16. Overrides take
precedence. No data is read. Pillow, TensorFlow and PyTorch are measured if they are
installed. Exit codes: 0 measured (also if a limit does not hold), 1 it failed, 2 the
request was wrong, 75 parts of `first` are left.
"""

import sys
from collections.abc import Sequence

from rsmatch_jax import progress
from rsmatch_jax.bench import (
    correct,
    first,
    other_device,
    predict,
    record_tables,
    suite,
)
from rsmatch_jax.errors import RequestError, exit_code

BENCHES = {
    "suite": suite.main,
    **{
        module.BENCH.name: getattr(module, "main", module.BENCH.main)
        for module in (*suite.MODULES, predict, correct)
    },
    "first": first.main,
    other_device.NAME: other_device.main,
    "records": record_tables.main,
}
GO_ON = "nothing was written; start it again"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the bench that argv names, with its flags; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if any(arg in ("--help", "-help", "-h") for arg in argv):
        sys.stdout.write(__doc__)
        return 0

    def command():
        name = argv[0] if argv else ""
        if name not in BENCHES:
            raise RequestError(
                f"{name!r} is no bench; there are: {', '.join(BENCHES)}, such as "
                "python -m rsmatch_jax.bench step"
            )
        with progress.live(f"bench {name}"):
            BENCHES[name](argv[1:])

    if argv[:1] == ["first"]:
        return exit_code(command, first.GO_ON, resumable=True)
    return exit_code(command, suite.GO_ON if argv[:1] == ["suite"] else GO_ON)


if __name__ == "__main__":
    sys.exit(main())
