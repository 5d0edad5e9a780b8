"""`python -m rsmatch_jax` is the command `rsmatch`."""

import sys

from rsmatch_jax import cli

if __name__ == "__main__":
    sys.exit(cli.main())
