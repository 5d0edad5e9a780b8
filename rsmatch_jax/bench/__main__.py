"""Measures speed, as tables on the terminal and as JSON.

    python -m rsmatch_jax.bench step [--preset=cpu|gpu] [--config=configs/cifar10.py]
        [--config.group.key=value ...] [--out=FILE.json]

step: the cost of one train step of every method, side by side in one process.
The preset follows the device when not given: cpu takes 4 labelled + 28 unlabelled
images a step, gpu the config's batch in bfloat16. Overrides win over it. No data is
read. Exit codes: 0 measured (also where a limit does not hold), 1 it failed, 2 the
request was wrong.
"""

import sys

from rsmatch_jax.bench import step
from rsmatch_jax.errors import RequestError, exit_code

BENCHES = {"step": step.main}
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
