"""Measures speed, as tables on the terminal and as JSON.

    python -m rsmatch_jax.bench NAME [--preset=cpu|gpu] [--config=configs/cifar10.py]
        [--config.group.key=value ...] [--out=FILE.json]

step: the cost of one train step of every method, side by side in one process.
augment: weak and strong views a second, on the device, by Pillow and by tf.data.
input: what finding images and making their views alone allows, on device and host.
queue: push to and sample of the class-wise queue, for 10, 100 and 1000 classes.

The preset follows the device when not given. For step, cpu takes 4 labelled + 28
unlabelled images and gpu the config's batch in bfloat16; the others take the config's
batch, and augment one core of a CPU. Overrides win over it. No data is read. Pillow and
TensorFlow are measured where they are installed. Exit codes: 0 measured (also where a
limit does not hold), 1 it failed, 2 the request was wrong.
"""

import sys

from rsmatch_jax.bench import augment, queue, step
from rsmatch_jax.bench import input as input_
from rsmatch_jax.errors import RequestError, exit_code

BENCHES = {
    "step": step.main,
    "augment": augment.main,
    "input": input_.main,
    "queue": queue.main,
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
