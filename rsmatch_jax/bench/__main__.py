"""Measures speed, as tables on the terminal and as JSON.

    python -m rsmatch_jax.bench NAME [--preset=cpu|gpu] [--config=configs/cifar10.py]
        [--config.group.key=value ...] [--out=FILE.json]

suite: all that follow but predict, in turn; at most nine minutes on a GPU.
step: the cost of one train step of every method, side by side in one process.
loop: whole steps as a run takes them, input within, several a dispatch.
queue: push to and sample of the class-wise queue, for 10, 100 and 1000 classes.
augment: weak and strong views a second, on the device, by Pillow and by tf.data.
input: what finding images and making their views alone allows, on device and host.
roofline: the machine's ceilings, and every convolution of the networks below them.
update: the optimiser and EMA by optax on trees, and on flat vectors.
flags: the train step under compiler options, one at a time.
profile: where the time of a step goes, and how long the device waits.
memory: what resident images take on the device, and a run on the host.
peer: FixMatch's step beside PyTorch's, where PyTorch is installed.
predict: image files to JSON lines, beside the networks alone.
start: compiling at the first and at the second start.
invariants: nothing compiled late, no loops on a CPU, four devices as one.
records: no measurement: the README's tables, made from benchmarks/*.json.

The preset follows the device when not given. It sets the sizes: for most, cpu takes 4
labelled + 28 unlabelled images and gpu the config's batch in bfloat16. Overrides win
over it. No data is read. Pillow, TensorFlow and PyTorch are measured where they are
installed. Exit codes: 0 measured (also where a limit does not hold), 1 it failed, 2 the
request was wrong.
"""

import sys

from rsmatch_jax.bench import (
    augment,
    flags,
    invariants,
    kernel_times,
    loop,
    memory,
    peer,
    predict,
    queue_cost,
    readme_tables,
    roofline,
    start,
    step,
    suite,
    update,
)
from rsmatch_jax.bench import input as input_
from rsmatch_jax.errors import RequestError, exit_code

BENCHES = {
    "suite": suite.main,
    "step": step.main,
    "loop": loop.main,
    "queue": queue_cost.main,
    "augment": augment.main,
    "input": input_.main,
    "roofline": roofline.main,
    "update": update.main,
    "flags": flags.main,
    "profile": kernel_times.main,
    "memory": memory.main,
    "peer": peer.main,
    "predict": predict.main,
    "start": start.main,
    "invariants": invariants.main,
    "records": readme_tables.main,
}
GO_ON = "nothing was written; start it again"


def main(argv: list[str]) -> int:
    """argv: as sys.argv, the bench's name second. Returns the exit code."""
    if any(arg in ("--help", "-help", "-h") for arg in argv):
        sys.stdout.write(__doc__)
        return 0

    def command():
        name = argv[1] if len(argv) > 1 else ""
        if name not in BENCHES:
            raise RequestError(
                f"{name!r} is no bench; there are: {', '.join(BENCHES)}, such as "
                "python -m rsmatch_jax.bench step"
            )
        BENCHES[name]([argv[0], *argv[2:]])

    return exit_code(command, GO_ON)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
